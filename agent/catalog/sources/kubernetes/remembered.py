"""What a cluster's API server said last, across restarts of an agent."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from agent.catalog.memory import Memory
from agent.catalog.sources.kubernetes.standing import Held
from agent.objects.key import ObjectKey


class _Remembered(Struct, frozen=True):
    server: str
    held: list[tuple[ObjectKey, Held]]


class ClusterMemory:
    """One file, for one API server, which is known by its address."""

    def __init__(self, path: Path, server: str) -> None:
        self._server = server
        self._memory = Memory(path, _Remembered, "no pod is served before the API server answers")

    def load(self) -> dict[ObjectKey, Held]:
        """What was remembered of this server; nothing where nothing was, or of another one."""
        found = self._memory.load()
        return dict(found.held) if found is not None and found.server == self._server else {}

    def save(self, held: Mapping[ObjectKey, Held]) -> bool:
        """Remembers this; whether it could."""
        return self._memory.save(_Remembered(self._server, list(held.items())))
