"""What every connection of one worker shares, and what the connections of one pod share."""

import asyncio
import errno
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

from agent.capture.address import PeerAddr
from agent.capture.netns import NetnsThread
from agent.capture.pool import SocketPool
from agent.capture.sockets import TRANSPARENT_PORTS, bind_transparent
from agent.catalog.model import Endpoint, Pod
from agent.outcome import Outcome
from agent.proxy.connection import Refusal
from agent.proxy.live import Live
from agent.proxy.opening import Opening
from agent.proxy.view import View
from agent.telemetry.access import AccessLog
from agent.telemetry.counters import Counters

CONNECT_SECONDS = 10.0
"""How long the agent's own connect() may take."""

PORT_TRIES = 32
"""Source ports tried for one transparent leg before it is given up."""


class EnrolledPod:
    """One pod that this worker serves: its namespace, and sockets made ahead in it."""

    def __init__(self, key: str, netns_fd: int, thread: NetnsThread) -> None:
        self.key = key
        self.netns_fd = netns_fd
        self._pools = {family: SocketPool(thread, netns_fd, family) for family in (socket.AF_INET, socket.AF_INET6)}

    def pool(self, address: str) -> SocketPool:
        """The pool for the family of an address."""
        return self._pools[socket.AF_INET6 if ":" in address else socket.AF_INET]

    def close(self) -> None:
        """Closes the sockets that wait. The namespace's descriptor is its owner's."""
        for pool in self._pools.values():
            pool.close()


class Runtime:
    """The worker's state that connections need. One per worker, used on its loop only."""

    def __init__(self, view: View, access_log: AccessLog, counters: Counters, *, worker: int, workers: int) -> None:
        self.view = view
        self.access_log = access_log
        self.counters = counters
        self.live = Live()
        self.endpoint_load: Counter[tuple[str, int]] = Counter()
        """Open connections per service endpoint, for the choice of two."""
        share = TRANSPARENT_PORTS[worker % workers :: workers]  # so that workers do not try each other's ports
        self._ports = itertools.cycle(share)
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def now(self) -> float:
        """POSIX seconds, for the validity of certificates."""
        return time.time()

    def pod_of(self, enrolled: EnrolledPod) -> Pod:
        """The pod as the catalog has it now. Raises Refusal where it is gone."""
        pod = self.view.catalog.pod(enrolled.key)
        if pod is None:
            raise Refusal(Outcome.UNENROLLED, f"{enrolled.key} is not in the catalog any more")
        return pod

    async def dial(
        self, enrolled: EnrolledPod, opening: Opening, address: str, port: int, client: PeerAddr | None = None
    ) -> None:
        """Connects from inside the pod's namespace, from the client's own address where one is given.

        Raises Refusal (UNREACHABLE), saying which address and why.
        """
        try:
            sock = await self._connected(enrolled, address, port, client)
        except OSError as error:
            reason = error.strerror or (
                f"no answer in {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
            )
            raise Refusal(
                Outcome.UNREACHABLE, f"cannot connect to {PeerAddr(address, port)} from {enrolled.key}: {reason}"
            ) from error
        try:
            await asyncio.get_running_loop().create_connection(partial(_same, opening), sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _connected(
        self, enrolled: EnrolledPod, address: str, port: int, client: PeerAddr | None
    ) -> socket.socket:
        loop = asyncio.get_running_loop()
        for _ in range(PORT_TRIES):
            sock = await enrolled.pool(address).take()
            try:
                if client is not None and not any(
                    bind_transparent(sock, client, next(self._ports)) for _ in range(PORT_TRIES)
                ):
                    break
                async with asyncio.timeout(CONNECT_SECONDS):
                    await loop.sock_connect(sock, (address, port))
            except OSError as error:
                sock.close()
                # The same four numbers are still in TIME_WAIT: another port will do.
                if client is None or error.errno != errno.EADDRNOTAVAIL:
                    raise
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise OSError(errno.EADDRNOTAVAIL, f"no free source port for {address} after {PORT_TRIES} tries")

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Of two endpoints chosen at random, the one with fewer open connections (of this worker)."""
        if len(endpoints) == 1:
            return endpoints[0]
        first, second = self._random.sample(endpoints, 2)
        load = self.endpoint_load
        return first if load[first.address, first.port] <= load[second.address, second.port] else second

    def release(self, endpoint: tuple[str, int]) -> None:
        """A connection to this endpoint is over."""
        self.endpoint_load[endpoint] -= 1
        if self.endpoint_load[endpoint] <= 0:
            del self.endpoint_load[endpoint]


def _same(opening: Opening) -> Opening:
    return opening
