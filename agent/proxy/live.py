"""The register of this worker's connections: those being set up, and those that are relayed."""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from agent.outcome import Outcome
from agent.proxy.connection import Connection
from agent.proxy.relay import Relay

MAX_OPENING_PER_SOURCE = 512
"""Connections that one source may have in set-up with one pod (per worker, as all of these): a client that sends
nothing, or one byte a second, costs its own address and nobody else. A stranger's source is its /64 where that is IPv6:
whoever has one address of it mostly has them all."""

MAX_OPENING_OF_ONE_POD = 4096
"""Connections that an address of a pod, or of this node, may have in set-up with all pods together: one pod that dials
the others one by one, and is silent, leaves most of a worker to everybody else."""

MAX_STRANGERS_PER_POD = 2048
"""Connections that all strangers together may have in set-up with one pod: addresses that are neither a pod's of the
catalog nor this node's. So a crowd of sources keeps no meshed client out."""

MAX_STRANGERS = 8192
"""And with all pods together: a crowd that dials one pod after the other leaves descriptors and memory to the rest."""

MAX_OPENING = 16384
"""Connections in set-up of everybody together."""

SWEEP_SECONDS = 1.0
"""How often legs that are not being read are asked whether the kernel has given them up."""

ENDED_AT_ONCE = 500
"""Connections that are ended in one turn of the loop, before others get theirs."""
SWEPT_AT_ONCE = 1000
"""Connections that are asked so before others get their turn."""


class Share(NamedTuple):
    """What a connection in set-up is counted under, and how many of its kind there may be."""

    whose: str
    pod: str
    bound: int


def source_of(address: str) -> str:
    """What a stranger's address is counted under: itself, or its /64 (RFC 4291, section 2.5.4)."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address, 64), strict=False))


@lru_cache(maxsize=4096)
def shares_of(address: str, pod: str, *, known: bool) -> tuple[Share, ...]:
    """What a connection from this address to this pod is counted under; `known` says that it is no stranger's."""
    if known:
        return (
            Share(address, pod, MAX_OPENING_PER_SOURCE),
            Share(address, "all pods", MAX_OPENING_OF_ONE_POD),
        )
    return (
        Share(source_of(address), pod, MAX_OPENING_PER_SOURCE),
        Share("all strangers together", pod, MAX_STRANGERS_PER_POD),
        Share("all strangers together", "all pods", MAX_STRANGERS),
    )


class Live:
    """Every connection is in exactly one of the two sets until it is over."""

    def __init__(self) -> None:
        self._opening: dict[Connection, tuple[Share, ...]] = {}
        self._joined: set[Connection] = set()
        self._shares: dict[Share, int] = {}
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._opening) + len(self._joined)

    def __iter__(self) -> Iterator[Connection]:
        """A copy: connections end while they are looked at."""
        return iter([*self._opening, *self._joined])

    def admit(self, connection: Connection) -> str | None:
        """Registers a connection that is being set up. Which bound it is over, in words; None where it may go on."""
        pod, address = connection.pod, connection.client.address
        shares = self._opening[connection] = shares_of(address, pod, known=connection.runtime.view.knows(address))
        self._empty.clear()
        over: Share | None = None
        for share in shares:
            count = self._shares[share] = self._shares.get(share, 0) + 1
            if count > share.bound:
                over = share
        if over is not None:
            return f"{over.whose} may have {over.bound} connections in set-up with {over.pod}"
        if len(self._opening) > MAX_OPENING:
            return f"a worker has {MAX_OPENING} connections in set-up at most"
        return None

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
        for share in self._opening.pop(connection, ()):
            if self._shares[share] == 1:
                del self._shares[share]
            else:
                self._shares[share] -= 1

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

    async def terminate(
        self, outcome: Outcome, message: str, which: Callable[[Connection], bool] = lambda _: True
    ) -> int:
        """Ends each connection for which `which` holds, by a reset; how many those were. Takes turns with others."""
        chosen = [connection for connection in self if which(connection)]
        ended = 0
        for number, connection in enumerate(chosen, 1):
            if self.knows(connection):  # it may have ended by itself meanwhile
                connection.terminate(outcome, message)
                ended += 1
            if number % ENDED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return ended

    async def sweep(self) -> None:
        """Finds legs that were reset while nobody polled them; a part in each turn of the loop."""
        for number, connection in enumerate(list(self._joined), 1):
            if isinstance(connection.stage, Relay):
                connection.stage.sweep()
            if number % SWEPT_AT_ONCE == 0:
                await asyncio.sleep(0)
