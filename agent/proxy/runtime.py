"""What every connection of one worker shares, and what the connections of one pod share."""

import asyncio
import errno
import os
import random
import socket
import time
from collections import Counter
from functools import partial

from agent.capture.accepting import SHORTAGES, advice
from agent.capture.address import PeerAddr
from agent.capture.sockets import dial
from agent.catalog.fronts import Front
from agent.catalog.model import Endpoint, Pod
from agent.outcome import Outcome
from agent.proxy.affinity import Affinity
from agent.proxy.connection import Refusal
from agent.proxy.live import Live
from agent.proxy.opening import Deadlines, Opening
from agent.proxy.view import View
from agent.telemetry.access import AccessLog
from agent.telemetry.counters import Counters

CONNECT_SECONDS = 10.0
"""How long the agent's own connect() may take."""


class EnrolledPod:
    """One pod that this worker serves, and its namespace; the descriptor is ours from now on."""

    def __init__(self, key: str, netns_fd: int, home_fd: int, mark: int) -> None:
        self.key = key
        self._mark = mark
        self._netns_fd: int | None = netns_fd
        self._home_fd = home_fd

    def dial(self, address: str, port: int, client: PeerAddr | None) -> tuple[socket.socket, bool]:
        """Dials from inside the pod. Raises OSError, also when the pod has left."""
        if self._netns_fd is None:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the pod has left the mesh")
        return dial(self._netns_fd, self._home_fd, self._mark, address, port, client)

    def close(self) -> None:
        """The pod has left: nothing is dialled from it any more."""
        if self._netns_fd is not None:
            os.close(self._netns_fd)
            self._netns_fd = None


class Runtime:
    """The worker's state that connections need. One per worker, used on its loop only."""

    def __init__(self, view: View, access_log: AccessLog, counters: Counters, affinity: Affinity) -> None:
        self.view = view
        self.access_log = access_log
        self.counters = counters
        self.live = Live()
        self.deadlines = Deadlines()
        self.endpoint_load: Counter[tuple[str, int]] = Counter()
        """Open connections per service endpoint, for the choice of two."""
        self._affinity = affinity
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

        Raises Refusal (UNREACHABLE, EXHAUSTED), saying which address and why.
        """
        try:
            sock = await self._connected(enrolled, address, port, client)
        except OSError as error:
            reason = error.strerror or (
                f"no answer in {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
            )
            if error.errno in SHORTAGES:
                raise Refusal(Outcome.EXHAUSTED, f"{enrolled.key} cannot be dialled from: {advice(error)}") from error
            raise Refusal(
                Outcome.UNREACHABLE, f"cannot connect to {PeerAddr(address, port)} from {enrolled.key}: {reason}"
            ) from error
        opening.fd = sock.fileno()
        try:
            await asyncio.get_running_loop().create_connection(partial(_same, opening), sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _connected(
        self, enrolled: EnrolledPod, address: str, port: int, client: PeerAddr | None
    ) -> socket.socket:
        try:
            return await _dialled(enrolled, address, port, client)
        except OSError as error:
            if client is None or error.errno not in _TAKEN:
                raise
        # The pod listens on the port that the client has, or the same four numbers are still in TIME_WAIT.
        return await _dialled(enrolled, address, port, PeerAddr(client.address, 0))

    def pick(self, front: Front, client: str) -> Endpoint:
        """Of two endpoints chosen at random, the one with fewer open connections (of this worker).

        With `sessionAffinity`, the one that the client went to before.
        """
        endpoints = front.endpoints
        if front.affinity_seconds:
            return self._affinity.pick(front, client, time.monotonic())
        if len(endpoints) == 1:
            return endpoints[0]
        first, second = self._random.sample(endpoints, 2)
        load = self.endpoint_load
        return first if load[first.address, first.port] <= load[second.address, second.port] else second

    def weigh(self, address: str, port: int) -> None:
        """A connection to this endpoint has begun."""
        self.endpoint_load[address, port] += 1

    def release(self, address: str, port: int) -> None:
        """A connection to this endpoint is over."""
        endpoint = (address, port)
        self.endpoint_load[endpoint] -= 1
        if self.endpoint_load[endpoint] <= 0:
            del self.endpoint_load[endpoint]


async def _dialled(enrolled: EnrolledPod, address: str, port: int, client: PeerAddr | None) -> socket.socket:
    sock, connected = enrolled.dial(address, port, client)
    if not connected:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
    return sock


_TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})


def _same(opening: Opening) -> Opening:
    return opening
