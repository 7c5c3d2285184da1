"""The register of this worker's connections: those being set up, and those that are relayed."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

from agent.outcome import Outcome
from agent.proxy.connection import Connection

MAX_OPENING_PER_SOURCE = 512
"""Connections that one address may have in set-up with one pod (per worker): a client that sends nothing, or one
byte a second, costs its own address and nobody else."""

SWEEP_SECONDS = 1.0
"""How often legs that are not being read are asked whether the kernel has given them up."""


class Live:
    """Every connection is in exactly one of the two sets until it is over."""

    def __init__(self) -> None:
        self._opening: set[Connection] = set()
        self._joined: set[Connection] = set()
        self._opening_from: Counter[tuple[str, str]] = Counter()
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._opening) + len(self._joined)

    def __iter__(self) -> Iterator[Connection]:
        """A copy: connections end while they are looked at."""
        return iter([*self._opening, *self._joined])

    def admit(self, connection: Connection) -> bool:
        """Registers a connection that is being set up; False where its source has too many of those."""
        key = (connection.pod, connection.client.address)
        self._opening.add(connection)
        self._opening_from[key] += 1
        self._empty.clear()
        return self._opening_from[key] <= MAX_OPENING_PER_SOURCE

    def joined(self, connection: Connection) -> None:
        """The connection is relayed from now on."""
        self._leave_opening(connection)
        self._joined.add(connection)

    def left(self, connection: Connection) -> None:
        """The connection is over."""
        self._leave_opening(connection)
        self._joined.discard(connection)
        if not self._opening and not self._joined:
            self._empty.set()

    def _leave_opening(self, connection: Connection) -> None:
        if connection in self._opening:
            self._opening.remove(connection)
            key = (connection.pod, connection.client.address)
            self._opening_from[key] -= 1
            if not self._opening_from[key]:
                del self._opening_from[key]

    def knows(self, connection: Connection) -> bool:
        """Whether it is not over yet."""
        return connection in self._joined or connection in self._opening

    def is_joined(self, connection: Connection) -> bool:
        """Whether it is being relayed."""
        return connection in self._joined

    def relayed(self) -> list[Connection]:
        """Those that are being relayed."""
        return list(self._joined)

    def opening(self) -> list[Connection]:
        """Those that are being set up."""
        return list(self._opening)

    def count(self) -> dict[str, int]:
        """Relayed connections by direction, for the gauge."""
        return dict(Counter(connection.direction.value for connection in self._joined))

    async def wait_until_empty(self) -> None:
        """Returns when no connection is left."""
        await self._empty.wait()

    def terminate(self, outcome: Outcome, message: str, which: Callable[[Connection], bool] = lambda _: True) -> int:
        """Ends each connection for which `which` holds, by a reset; how many those were."""
        chosen = [connection for connection in self if which(connection)]
        for connection in chosen:
            connection.terminate(outcome, message)
        return len(chosen)

    def sweep(self) -> None:
        """Finds legs that were reset while nobody polled them."""
        for connection in list(self._joined):
            if connection.relay is not None:
                connection.relay.sweep()
