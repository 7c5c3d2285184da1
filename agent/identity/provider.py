"""Where SVIDs come from: the interface that every source has."""

from typing import Protocol

from msgspec import Struct

from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.outcome import Outcome


class ProviderError(Exception):
    """No SVID, or no bundle, this time. `code` is the authority's word for it, or ours for what failed on the way."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Report(Struct, frozen=True):
    """What this agent has in force, in every worker: the bundle's sequence, and whom its SVIDs are signed by."""

    trusts: int = 0
    issuers: frozenset[str] = frozenset()


class SvidProvider(Protocol):
    """One source of SVIDs."""

    @property
    def pushes(self) -> bool:
        """Whether SVIDs change at the source's own time: each is fetched again when the bundle's sequence grows."""

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        """A new SVID with a fresh key, or the source's newest. Raises ProviderError."""

    async def bundle(self, known: int, report: Report) -> Bundle | None:
        """The bundle, once its sequence is another than `known`; None after a while. Raises ProviderError."""

    async def close(self) -> None:
        """Lets go of what it holds."""


class Unacceptable(Exception):
    """What no peer would take. `outcome` is what it would count as, `detail` says why."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class Trial(Protocol):
    """Shows an SVID to a peer of a bundle, before it replaces one that works."""

    def __call__(self, svid: Svid, bundle: Bundle, *, now: float) -> None:
        """Raises Unacceptable where the peer would not take it at `now`, POSIX seconds."""
