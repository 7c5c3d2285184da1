"""What an authority needs of wherever it keeps its state: one interface, whatever is behind it.

`sqlite_store` keeps it in a directory of one host, `kubernetes` in a cluster's own store. Either way what is decided is
decided by `ledger.Book`: a work is a function of the book, and is done, durably, when `do` has returned. It may be
called more than once, where somebody else has written meanwhile: then it decides anew, and what it did before did not
happen. So a work has no effects but on the book and the keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.authority import ca
from agent.authority.ca import Signer
from agent.authority.ledger import Book

P = ParamSpec("P")
T = TypeVar("T")


class StoreError(Exception):
    """The state cannot be used; `str` says what of it, why, and what to do."""


class StoreUnavailableError(Exception):
    """Nothing can be read or written now, so nothing was done; it may be tried again. `str` says why."""


class Keys(ABC):
    """Roots and issuers by number, with their keys, as PEM under a name. Never a silent new root."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where they are, for people."""

    @abstractmethod
    def trust_domain(self) -> str:
        """The trust domain that they were made for. Raises StoreError."""

    @abstractmethod
    def check_new(self) -> None:
        """For a ledger that knows of nothing: whether another one was here before. Raises StoreError."""

    @abstractmethod
    def begun(self) -> None:
        """Remembers outside of the ledger that there is one."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """What is under a name, `root-1.pem`. Raises StoreError."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Puts it there, whole or not at all. It means nothing before the ledger speaks of it."""

    def create(self, number: int, trust_domain: str, now: float) -> None:
        """Makes a root and its issuer."""
        self._write_signer(f"root-{number}", ca.new_root(trust_domain, now))
        self.renew_issuer(number, trust_domain, now)

    def renew_issuer(self, number: int, trust_domain: str, now: float) -> None:
        """Makes a new issuer under the same root. Raises StoreError."""
        self._write_signer(f"issuer-{number}", ca.new_issuer(self.root(number), trust_domain, now))

    def forget(self, number: int) -> None:
        """Deletes the keys of a root that has left the bundle; the certificates stay for the record."""
        for name in (f"root-{number}", f"issuer-{number}"):
            self.write(f"{name}.pem", ca.pem(self._certificate(name)))

    def root_certificate(self, number: int) -> x509.Certificate:
        """A root, without its key. Raises StoreError."""
        return self._certificate(f"root-{number}")

    def root(self, number: int) -> Signer:
        """A root with its key. Raises StoreError."""
        return self._signer(f"root-{number}")

    def issuer(self, number: int) -> Signer:
        """The issuer under a root. Raises StoreError."""
        issuer = self._signer(f"issuer-{number}")
        try:
            issuer.certificate.verify_directly_issued_by(self.root_certificate(number))
        except (ValueError, TypeError, InvalidSignature) as error:
            raise StoreError(
                f"issuer-{number}.pem in {self.where} was not signed by root-{number}.pem: restore both"
            ) from error
        return issuer

    def _write_signer(self, name: str, signer: Signer) -> None:
        key = signer.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.write(f"{name}.pem", ca.pem(signer.certificate) + key)

    def _certificate(self, name: str) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self.read(f"{name}.pem"))
        except ValueError as error:
            raise StoreError(f"{name}.pem in {self.where} has no certificate: {error}") from error

    def _signer(self, name: str) -> Signer:
        certificate = self._certificate(name)
        try:
            key = serialization.load_pem_private_key(self.read(f"{name}.pem"), password=None)
        except (ValueError, TypeError) as error:
            raise StoreError(f"{name}.pem in {self.where} has no key: {error}; restore it from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise StoreError(f"the key in {name}.pem in {self.where} is not its certificate's: restore a backup")
        return Signer(certificate, key)


class Store(Protocol):
    """Where the state is."""

    @property
    def keys(self) -> Keys:
        """Roots and issuers. What is written there within a work is part of it."""

    async def do(self, work: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does a work of the book: `await store.do(Book.use_token, token, node, now)`.

        Raises what the work raises, and then nothing happened that it had not finished; StoreUnavailableError where it
        could not be kept, StoreError where it cannot be.
        """

    async def changes(self) -> object:
        """Differs once somebody else has changed what is in force. Raises StoreUnavailableError."""

    async def refresh(self) -> None:
        """Hears of everything that others have done until now. Raises StoreUnavailableError."""

    async def close(self) -> None:
        """Lets go of it, after what is under way."""
