"""Where SVIDs come from: the interface that every source has."""

from typing import Protocol

from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid


class ProviderError(Exception):
    """No SVID, or no bundle, this time. `code` is the authority's word for it, or ours for what failed on the way."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class SvidProvider(Protocol):
    """One source of SVIDs."""

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        """A new SVID with a fresh key. Raises ProviderError."""

    async def bundle(self) -> Bundle:
        """The bundle in force. Raises ProviderError."""

    async def close(self) -> None:
        """Lets go of what it holds."""
