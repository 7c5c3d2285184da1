"""What was last good, across restarts: an agent that starts finds a broken file, and still enforces what it said."""

import contextlib
import hashlib
import logging
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from agent import disk
from agent.catalog.standing import Known, Standing
from agent.objects.key import ObjectKey

log = logging.getLogger("quietwire.catalog")

VERSION = b"quietwire last-good 1\n"
"""What the file begins with, before the SHA-256 of the rest and the rest. Another number, where fields that stay come
to mean something else."""
DIGEST_BYTES = 32


class _Remembered(Struct, frozen=True):
    directory: str
    standing: list[tuple[ObjectKey, Standing]]
    files: tuple[str, ...]
    closing: tuple[str, ...]


class _UnusableError(ValueError):
    """The file is not what was written, or was written by another version; `str` says which."""


class Memory:
    """One file, replaced whole. It only ever stands in for what cannot be read any more."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._directory = str(directory)
        self._unwritten = ""
        """Why it could not be written the last time."""

    def load(self) -> Known | None:
        """What was remembered for this directory; None where the file is missing, damaged, or of another version.

        Without it the agent starts as the first time: what cannot be read then closes every default.
        """
        try:
            found = _decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, _UnusableError) as error:
            log.warning(
                "%s cannot be used (%s): what was last good before this start is not known, so what cannot be read now "
                "closes every default until it is mended. The file is written anew",
                self._path,
                error,
            )
            return None
        if found.directory != self._directory:
            return None
        return Known(dict(found.standing), found.files, found.closing)

    def save(self, known: Known) -> bool:
        """Remembers this; whether it could. A disk that is full is said, once, and not fatal."""
        remembered = _Remembered(self._directory, list(known.standing.items()), known.files, known.closing)
        body = msgspec.msgpack.encode(remembered)
        temporary = self._path.with_suffix(".new")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(VERSION + hashlib.sha256(body).digest() + body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()  # half of it, on a disk that has no room
            reason = disk.reason(error)
            if reason != self._unwritten:
                log.error(
                    "what is in force could not be written to %s (%s). Until it can, which is tried again and again, a "
                    "restart knows what it said before",
                    self._path,
                    reason,
                )
            self._unwritten = reason
            return False
        if self._unwritten:
            log.info("%s is written again", self._path)
        self._unwritten = ""
        return True


def _decode(data: bytes) -> _Remembered:
    """Raises _UnusableError."""
    if not data.startswith(VERSION):
        raise _UnusableError("it is of another version, or cut off" if data else "it is empty")
    digest, body = data[len(VERSION) :][:DIGEST_BYTES], data[len(VERSION) + DIGEST_BYTES :]
    if hashlib.sha256(body).digest() != digest:
        raise _UnusableError("it is damaged: its checksum is not that of what it says")
    try:
        return msgspec.msgpack.decode(body, type=_Remembered)
    except msgspec.MsgspecError as error:
        raise _UnusableError(f"it is of another version: {error}") from error
