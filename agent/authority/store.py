"""The state directory: root and issuer, made at the first start and kept. Never a silent new root."""

import os
import time
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from agent.authority import ca
from agent.authority.ca import Signer

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
COMPLETE = "complete"
"""Written last: without it, a first start was cut short, and nothing was ever issued from what is there."""


class StoreError(Exception):
    """The state cannot be used; `str` says which file, why, and what to do."""


class State(Struct, frozen=True):
    """What the authority signs with, and what others trust."""

    root: Signer
    issuer: Signer


class Store:
    """Reads and writes the state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load_or_create(self, trust_domain: str, now: float | None = None) -> State:
        """The state; made if this is the first start. Raises StoreError."""
        moment = time.time() if now is None else now
        self._directory.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
        os.chmod(self._directory, DIRECTORY_MODE)
        names = {entry.name for entry in self._directory.iterdir()}
        ours = {"root.crt", "root.key", "issuer.crt", "issuer.key"}
        if COMPLETE in names:
            return self._load(trust_domain)
        if "ledger.sqlite" in names and ours & names:
            raise StoreError(
                f"{self._directory} has a ledger and keys, but no file '{COMPLETE}': restore it from a backup, or move "
                f"the directory away to begin a new trust domain (every SVID is then issued anew)"
            )
        root = ca.new_root(trust_domain, moment)
        issuer = ca.new_issuer(root, trust_domain, moment)
        for name, signer in (("root", root), ("issuer", issuer)):
            self.write(f"{name}.key", _key_pem(signer.key))
            self.write(f"{name}.crt", ca.pem(signer.certificate))
        self.write(COMPLETE, f"{trust_domain}\n".encode())
        return State(root, issuer)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file of mode 0600 so that it is there whole or not at all, also after a power cut."""
        temporary = self._directory / f".{name}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, self._directory / name)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _load(self, trust_domain: str) -> State:
        made_for = self._read(COMPLETE).decode("utf-8", "replace").strip()
        if made_for != trust_domain:
            raise StoreError(
                f"{self._directory} is the state of trust domain {made_for}, not {trust_domain}: "
                f"give each trust domain its own --state"
            )
        state = State(self._signer("root"), self._signer("issuer"))
        try:
            state.issuer.certificate.verify_directly_issued_by(state.root.certificate)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise StoreError(f"issuer.crt in {self._directory} was not signed by root.crt: restore both") from error
        return state

    def _signer(self, name: str) -> Signer:
        key_pem, certificate_pem = self._read(f"{name}.key"), self._read(f"{name}.crt")
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except (ValueError, TypeError) as error:
            raise StoreError(f"{name}.key or {name}.crt in {self._directory} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise StoreError(
                f"{name}.key in {self._directory} is not the key of {name}.crt: restore both from one backup"
            )
        return Signer(certificate, key)

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        try:
            if path.stat().st_mode & 0o077:
                os.chmod(path, FILE_MODE)  # somebody opened it up; a copy may be out, but it is no reason to stop
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}; restore it from a backup") from error


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
