"""Roots and issuers, as rows of the copied ledger: each a Secret of its own, which the state names."""

from agent.authority.kubernetes.copied import CopiedBook
from agent.authority.store import Keys, StoreError


class CopiedKeys(Keys):
    """A name's Secret is made anew with each change, and counts once the state in force names it."""

    def __init__(self, book: CopiedBook, trust_domain: str, where: str) -> None:
        self._book = book
        self.domain = trust_domain
        """Of the state, once there is one."""
        self._where = where
        self.records = False
        """Whether there are records of certificates, which only an authority that has begun can have left."""

    @property
    def where(self) -> str:
        """See Keys."""
        return self._where

    def trust_domain(self) -> str:
        """See Keys."""
        return self.domain

    def check_new(self) -> None:
        """See Keys. Keys alone are no sign: whoever makes them first may have been killed before he began."""
        if self.records:
            raise StoreError(
                f"{self._where} has no state, but records of what it issued, so there was one: it said who is revoked "
                f"and what is trusted. Restore it from a backup of the cluster, or delete all Secrets of this "
                f"authority to begin a new trust domain (every SVID is then issued anew)"
            )

    def begun(self) -> None:
        """See Keys: what an authority issues is a sign by itself."""

    def read(self, name: str) -> bytes:
        """See Keys."""
        found = self._book.key(name)
        if found is None:
            raise StoreError(f"{self._where} has no {name}: restore its Secret from a backup")
        return found

    def write(self, name: str, data: bytes) -> None:
        """See Keys."""
        self._book.set_key(name, data)
