"""The interface that every source of a catalog has: a directory of manifests, or an API server."""

from collections.abc import Callable
from typing import Protocol

from agent.catalog.snapshot import CatalogChange
from agent.manifests.fault import Fault

OnChange = Callable[[CatalogChange | None, tuple[Fault, ...]], None]
"""Called when something is different: with the change of the catalog (None where only faults are), and every fault."""


class Source(Protocol):
    """One source of a catalog. What it cannot read stays as it was last good, and is a fault."""

    async def start(self) -> None:
        """Gives all that there is now, before anything else is served by it."""

    async def run(self) -> None:
        """Follows what changes, until it is cancelled: an end by itself is a fault of ours."""
