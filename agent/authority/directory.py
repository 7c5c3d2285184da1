"""The state directory: the ledger, and roots and issuers by number. Never a silent new root.

    ledger.sqlite                      what is in force
    root-1.pem  issuer-1.pem           certificate and key, mode 0600, written whole or not at all
    begun                              a ledger has been here

A number's files are on disk before the ledger speaks of them; files that it does not speak of mean nothing.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.authority import ledger
from agent.authority.store import Keys, StoreError
from init import on_disk

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
TRUST_DOMAIN = "trust-domain"
RUNNING = "running"
BEGUN = "begun"


class StateDirectory(Keys):
    """Reads and writes the state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def where(self) -> str:
        """For people."""
        return str(self.directory)

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.directory / ledger.FILE

    @property
    def exists(self) -> bool:
        """Whether an authority has been started here."""
        return (self.directory / TRUST_DOMAIN).exists() and self.ledger.exists()

    def prepare(self, trust_domain: str) -> None:
        """Makes the directory, or checks that it is this trust domain's. Raises StoreError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
        os.chmod(self.directory, DIRECTORY_MODE)
        if not (self.directory / TRUST_DOMAIN).exists():
            if self.ledger.exists():
                raise StoreError(
                    f"{self.directory} has a ledger, but no file '{TRUST_DOMAIN}': restore it from a backup, or move "
                    f"the directory away to begin a new trust domain (every SVID is then issued anew)"
                )
            self.write(TRUST_DOMAIN, f"{trust_domain}\n".encode())
        made_for = self.trust_domain()
        if made_for != trust_domain:
            raise StoreError(
                f"{self.directory} is the state of trust domain {made_for}, not {trust_domain}: "
                f"give each trust domain its own --state"
            )

    def trust_domain(self) -> str:
        """The trust domain that this directory was made for. Raises StoreError."""
        return self.read(TRUST_DOMAIN).decode("utf-8", "replace").strip()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Holds the directory for one running authority. Raises StoreError."""
        fd = os.open(self.directory / RUNNING, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"another authority runs on {self.directory}: there is one per state") from None
            yield
        finally:
            os.close(fd)

    def check_new(self) -> None:
        """For a ledger that knows of nothing: whether another one was here before. Raises StoreError."""
        if (self.directory / BEGUN).exists() or any(self.directory.glob("root-*.pem")):
            raise StoreError(
                f"the ledger in {self.directory} is empty, and there was another: it says who is revoked and what is "
                f"trusted. Restore {self.ledger.name} from a backup, or move the directory away to begin a new trust "
                f"domain (every SVID is then issued anew)"
            )

    def begun(self) -> None:
        """Remembers outside of the ledger that there is one."""
        if not (self.directory / BEGUN).exists():
            self.write(BEGUN, b"")

    def write(self, name: str, data: bytes) -> None:
        """Writes a file of mode 0600 so that it is there whole or not at all, also after a power cut.

        Raises OSError, with the file.
        """
        on_disk.replace(self.directory / name, data, durable=True)

    def forget(self, number: int) -> None:
        """See Keys; what kill -9 left in the midst of a write goes too: it may have the key."""
        super().forget(number)
        for name in (f"root-{number}", f"issuer-{number}"):
            for left in self.directory.glob(f".{name}.pem.*"):
                left.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """A file's content. Raises StoreError."""
        path = self.directory / name
        try:
            if path.stat().st_mode & 0o077:
                os.chmod(path, FILE_MODE)  # somebody opened it up; a copy may be out, but it is no reason to stop
            return on_disk.read(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}; restore it from a backup") from error
