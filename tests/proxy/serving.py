"""Set-ups that run as far as their relay, of which nothing moves: handshakes in memory, a worker without sockets."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from agent.policy.model import Permit
from agent.proxy import inbound, outbound
from agent.proxy.connection import Connection, Direction
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.relay import Leg, Relay, TlsLeg
from agent.proxy.route import Passage
from agent.proxy.stage import SetUp
from agent.tasks import spawn
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine
from tests.proxy.fakes import API_IP, PKI, PORT, WEB_IP, Transport, Worker, pod
from tests.tls.pki import TRUST_DOMAIN, Pki

API, WEB = pod("api", API_IP), pod("web", WEB_IP)
OPEN = pod("api", API_IP, policy="all-unauthenticated")
SERVICE_IP = "198.51.100.1"


def account(name: str) -> SpiffeId:
    return SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name)


API_NAME = account("api").dns_name or ""


class Halted(Connection):
    """Keeps what its relay would be, and does not start it: that needs real sockets."""

    __slots__ = ("first", "legs", "relay", "remember")

    relay: Relay
    remember: Callable[[TlsMachine], bool] | None
    legs: tuple[Opening, Opening]
    first: bytes

    def start_relay(
        self,
        allowed_by: Permit | Passage,
        application: Opening,
        peer: Opening,
        machine: TlsMachine | None = None,
        remember: Callable[[TlsMachine], bool] | None = None,
        first: bytes = b"",
    ) -> None:
        assert allowed_by is (self.route if self.direction is Direction.OUTBOUND else self.decision), "by who decided"
        self.relay = Relay(self, allowed_by, application, peer, machine, remember)
        self.legs, self.first, self.remember = (application, peer), first, remember


class Case:
    """A set-up that runs; it ends by a relay, of which nothing moves, or by a refusal."""

    def __init__(
        self, worker: Worker, client: str = WEB_IP, *, original: tuple[str, int] = (API_IP, PORT), out: bool = False
    ) -> None:
        self.worker = worker
        direction = Direction.OUTBOUND if out else Direction.INBOUND
        served = "demo/web" if out else "demo/api"
        self.connection, self._setup = worker.accept_as(Halted, served, client, original, direction)
        self.leg = self._setup.accepted
        self._serve: Callable[[Connection, SetUp], Awaitable[None]] = outbound.serve if out else inbound.serve
        self._task = spawn(self._run(), name="set-up")

    async def _run(self) -> Refusal | None:
        try:
            await self._serve(self.connection, self._setup)
        except Refusal as refusal:
            return refusal
        return None

    async def over(self) -> Refusal | None:
        async with asyncio.timeout(10):
            return await self._task

    async def relay(self) -> TlsLeg | Leg:
        """The relay's leg towards the peer."""
        refused = await self.over()
        assert refused is None, refused
        relay, (dialled, accepted) = self.connection.relay, self.connection.legs
        if self.connection.direction is Direction.OUTBOUND:
            dialled, accepted = accepted, dialled
        assert (accepted, dialled) == (self.leg, self.worker.peer)
        assert accepted.bell is dialled.bell, "what comes by either wakes the set-up"
        assert self.worker.dialled_from[-1] is self.connection.enrolled, "from inside the pod that it is about"
        assert not isinstance(relay.application, TlsLeg), "towards the application there is no TLS"
        return relay.peer

    async def refusal(self) -> Refusal:
        refused = await self.over()
        assert refused is not None
        assert not hasattr(self.connection, "relay")
        return refused


def set_up(worker: Worker, client: str = WEB_IP, **more: Any) -> Case:
    return Case(worker, client, **more)


async def shake(far: TlsMachine, leg: Opening, last: bytes = b"") -> None:
    """The far end's part of a handshake; a client's `last` goes out with its Finished."""
    transport = leg.transport
    assert isinstance(transport, Transport)
    async with asyncio.timeout(10):
        while not far.handshake_complete:
            out = far.outgoing()
            if out:
                leg.keep(out)
            await asyncio.sleep(0)
            answer, transport.written = transport.written, b""
            if answer:
                far.receive(answer)
    if last:
        far.send(last)
    leg.keep(far.outgoing())


def client(svid: Svid, pki: Pki = PKI, *, name: str = API_NAME, session: Any = None) -> TlsMachine:
    machine = TlsMachine.client(Contexts(svid, pki.bundle()).client, name, session)
    machine.start()
    return machine
