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
from agent.capture.address import OriginalDst, PeerAddr, Source
from agent.capture.netns import holds_address, visit
from agent.capture.sockets import dial
from agent.capture.sources import Conntrack, Kernel, can_share_ports, look
from agent.catalog.fronts import Front
from agent.objects.key import PodKey
from agent.objects.model import Endpoint, Pod
from agent.outcome import Outcome
from agent.proxy.affinity import Affinity
from agent.proxy.live import Live
from agent.proxy.opening import Bell, Deadlines, Opening, of_dialled
from agent.proxy.refusal import Refusal
from agent.proxy.source import Sources, of_application
from agent.proxy.view import View
from agent.telemetry.access import AccessLog
from agent.telemetry.counters import Counters

CONNECT_SECONDS = 10.0
"""How long the agent's own connect() may take."""
LOOK_SECONDS = 10.0
"""How often it is looked anew what a pod's kernel does (agent.capture.sources): that takes 0.1 ms."""


class EnrolledPod:
    """One pod that this worker serves, and its namespace; the descriptor is ours from now on."""

    def __init__(self, key: PodKey, netns_fd: int, home_fd: int, mark: int, *, stand_ins: bool) -> None:
        self.key = key
        self._mark = mark
        self._stand_ins = stand_ins
        self._netns_fd: int | None = netns_fd
        self._home_fd = home_fd
        self._conntrack: Conntrack | None = None
        self._looked: Kernel | None = None
        self._look_at = 0.0

    def dialler(self, client: PeerAddr, own: tuple[str, int]) -> PeerAddr:
        """Who dialled, by the port of its own socket: see `Conntrack.dialler`. `own` is the accepted socket's end."""
        if self._conntrack is None:
            if self._netns_fd is None:
                return client  # the pod has left, and nothing is dialled for it
            try:
                self._conntrack = Conntrack(self._netns_fd, self._home_fd)
            except OSError:
                return client  # out of descriptors: as where it cannot be asked
        return self._conntrack.dialler(client, own)

    def sources(self, chosen: PeerAddr, dialled: OriginalDst, place: tuple[str, int], *, own: bool) -> Sources:
        """From where a leg dials that serves an application's connection: see `source.of_application`.

        Without shared ports (before Linux 6.3) a leg has a port of its own, but for those that nobody is given unasked.
        """
        if self._netns_fd is None:
            return ()  # the pod has left, and `dial` says so
        kernel = self._kernel(self._netns_fd)
        return of_application(
            chosen,
            dialled,
            place,
            keeps_port=_SHARES or chosen.port not in kernel.ephemeral,
            stand_ins=self._stand_ins and not own and not kernel.routes_by_source,
            only=kernel.only_address,
        )

    def dial(self, address: str, port: int, source: Source | None) -> tuple[socket.socket, bool]:
        """Dials from inside the pod. Raises OSError, also when the pod has left."""
        if self._netns_fd is None:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the pod has left the mesh")
        if source is not None and _SHARES and source.port in self._kernel(self._netns_fd).ephemeral:
            try:
                return dial(self._netns_fd, self._home_fd, self._mark, address, port, source, shared=True)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
            # Somebody has bound it: so may we.
        return dial(self._netns_fd, self._home_fd, self._mark, address, port, source)

    def _kernel(self, netns_fd: int) -> Kernel:
        """What the pod's kernel does, as far as was seen lately."""
        now = time.monotonic()
        if self._looked is None or now >= self._look_at:
            self._looked = look(netns_fd, self._home_fd)
            self._look_at = now + LOOK_SECONDS
        return self._looked

    def holds(self, address: str) -> bool:
        """Whether an interface of the pod has this address."""
        if self._netns_fd is None:
            return False
        try:
            return visit(self._netns_fd, self._home_fd, partial(holds_address, address))
        except OSError:
            return False  # it is for a message's sake

    def close(self) -> None:
        """The pod has left: nothing is dialled from it any more."""
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None
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

    async def dial(self, enrolled: EnrolledPod, bell: Bell, address: str, port: int, sources: Sources) -> Opening:
        """A leg from inside the pod's namespace, from the first of these sources that can be had; it rings `bell`.

        Raises Refusal (UNREACHABLE, EXHAUSTED), saying which address and why.
        """
        try:
            sock = await _connected(enrolled, address, port, sources)
        except OSError as error:
            reason = error.strerror or (
                f"no answer in {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
            )
            if error.errno in SHORTAGES:
                raise Refusal(Outcome.EXHAUSTED, f"{enrolled.key} cannot be dialled from: {advice(error)}") from error
            raise Refusal(
                Outcome.UNREACHABLE, f"cannot connect to {PeerAddr(address, port)} from {enrolled.key}: {reason}"
            ) from error
        return await of_dialled(sock, bell)

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


async def _connected(enrolled: EnrolledPod, address: str, port: int, sources: Sources) -> socket.socket:
    for source in sources[:-1]:
        try:
            return await _dialled(enrolled, address, port, source)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    return await _dialled(enrolled, address, port, sources[-1] if sources else None)


async def _dialled(enrolled: EnrolledPod, address: str, port: int, source: Source | None) -> socket.socket:
    sock, connected = enrolled.dial(address, port, source)
    if not connected:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
    return sock


_SHARES = can_share_ports()
_TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
