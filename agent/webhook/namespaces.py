"""What namespaces say of being meshed, as the API server's watch tells it: no selector of a webhook sees annotations.

Fails closed: a namespace that is not known (yet), or that cannot be read, is taken to say `enabled`.
"""

import asyncio

from agent.catalog.sources.kubernetes.kinds import NAMESPACES
from agent.catalog.sources.kubernetes.reading import UnreadableError, key, read
from agent.kubernetes.errors import Unreachable
from agent.objects.annotations import ENABLED, INJECT
from agent.objects.decode import RawNamespace


class Namespaces:
    """The sink of a Follower of namespaces. `listed` is set once all are known."""

    def __init__(self) -> None:
        self.listed = asyncio.Event()
        self._says: dict[str, str | None] = {}
        self._listing: set[str] | None = None

    def says(self, name: str) -> str | None:
        """Its `linkerd.io/inject`; None where it has none."""
        return self._says.get(name, ENABLED)

    def begin(self) -> None:
        """See Sink."""
        self._listing = set()

    def put(self, raw: bytes) -> None:
        """See Sink. Raises Unreachable for what is no namespace."""
        try:
            decoded = read(NAMESPACES.kind, raw)
        except UnreadableError as error:
            raise Unreachable(f"what the API server sends of namespaces is unreadable: {error}") from error
        held = decoded.found if decoded.found is not None else decoded.stand_in
        says = held.annotations.get(INJECT) if isinstance(held, RawNamespace) else ENABLED
        self._says[decoded.key.name] = says
        if self._listing is not None:
            self._listing.add(decoded.key.name)

    def remove(self, raw: bytes) -> None:
        """See Sink. Raises Unreachable for what is no namespace."""
        try:
            gone = key(NAMESPACES.kind, raw).name
        except UnreadableError as error:
            raise Unreachable(f"what the API server sends of namespaces is unreadable: {error}") from error
        self._says.pop(gone, None)

    def complete(self) -> None:
        """See Sink."""
        if self._listing is not None:
            self._says = {name: says for name, says in self._says.items() if name in self._listing}
        self._listing = None
        self.listed.set()
