"""The interface that every source of a catalog has: a directory of manifests, or an API server."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from agent.catalog.snapshot import CatalogChange
from agent.manifests.fault import Fault

OnChange = Callable[[CatalogChange | None, tuple[Fault, ...]], None]
"""Called when something is different: with the change of the catalog (None where only faults are), and every fault."""


class SourceState(Struct, frozen=True):
    """How fresh the catalog is. What is in force stays in force whatever this says."""

    remembered: bool = False
    """It is, in part at least, what was known before this agent started."""
    unheard: tuple[tuple[str, str], ...] = ()
    """Of which kinds nothing is heard at the moment, each with why."""
    since: float | None = None
    """Since when that has been so, POSIX seconds; None where everything is heard."""


class Source(Protocol):
    """One source of a catalog. What it cannot read stays as it was last good, and is a fault."""

    @property
    def state(self) -> SourceState:
        """How fresh it is now."""

    async def start(self) -> None:
        """Gives all that there is now, before anything else is served by it."""

    async def run(self) -> None:
        """Follows what changes, until it is cancelled: an end by itself is a fault of ours."""
