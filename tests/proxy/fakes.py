"""A worker without sockets: real catalog, policy, certificates and connections; transports that only note."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

from agent.capture.address import OriginalDst, PeerAddr, Source
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey, PodKey
from agent.objects.model import MeshSettings, Pod
from agent.objects.policy import DefaultPolicy
from agent.policy.index import PolicySettings
from agent.proxy.affinity import Affinity, size_for
from agent.proxy.connection import Connection, Direction
from agent.proxy.opening import Bell, Opening
from agent.proxy.route import _SEAL, Mesh, Plain, PlainReason
from agent.proxy.runtime import EnrolledPod, Runtime
from agent.proxy.source import Sources
from agent.proxy.stage import SetUp
from agent.proxy.view import Settings, Touched, View
from agent.telemetry.access import AccessLog
from agent.telemetry.counters import DECIDED, Counters
from tests.tls.pki import TRUST_DOMAIN, Pki

C = TypeVar("C", bound=Connection)

PKI = Pki()
PORT = 8080
API_IP, WEB_IP, STRANGER_IP = "10.1.0.1", "10.1.0.2", "192.0.2.7"


def pod(name: str, *ips: str, account: str = "", policy: str | None = None, uid: str = "", **more: Any) -> Pod:
    """A pod of namespace demo on node-a, under a service account of its own name."""
    settings = MeshSettings(default_policy=policy, **more)
    return Pod("demo", name, account or name, "node-a", ips, uid=uid, settings=settings)


def mesh(address: str, port: int, pod: str, server_id: SpiffeId) -> Mesh:
    """What `route` would say of a meshed pod."""
    return Mesh(_SEAL, address, port, PodKey(pod), server_id)


def plain(address: str, port: int, reason: PlainReason) -> Plain:
    """And of whatever is none."""
    return Plain(_SEAL, address, port, reason)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        self._opening = opening
        self._protocol: asyncio.BaseProtocol = opening
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self._opening.bell.ring()

    def abort(self) -> None:
        protocol = self._protocol
        assert isinstance(protocol, asyncio.BufferedProtocol)
        protocol.connection_lost(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return 1  # so that what a relay writes comes here, and is not sent by a descriptor

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


def opening(bell: Bell) -> Opening:
    """A leg over nothing."""
    made = Opening(bell, -1)
    made.connection_made(Transport(made))
    return made


class Task:
    """A set-up that nobody runs."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Worker(Runtime):
    """Dials nothing: whatever is dialled answers."""

    def __init__(self, *pods: Pod, default: str = "all-authenticated", egress: str = "allow") -> None:
        view = View(Settings("node-a", PolicySettings(TRUST_DOMAIN, DefaultPolicy(default)), egress))
        view.set_catalog(Catalog(1, pods))
        view.set_bundle(PKI.bundle())
        for each in pods:
            view.set_svid(PKI.svid(each.service_account))
        affinity = Affinity(memoryview(bytearray(size_for(1))), 1, 0)
        super().__init__(view, AccessLog(enabled=False), Counters(), affinity)
        self.dialled = asyncio.Event()
        self.while_dialling: Callable[[], object] = lambda: None
        """What happens before a dial has its answer."""
        self.dials: list[tuple[str, int, Sources]] = []
        """Where was dialled, and from which client's address."""
        self.dialled_from: list[EnrolledPod] = []
        """From inside which pod."""
        self.peer: Opening | None = None
        """The leg that was dialled last."""
        self.over: str | None = None
        """Which bound of `Live` the connection that was accepted last is over."""

    async def dial(self, enrolled: EnrolledPod, bell: Bell, address: str, port: int, sources: Sources) -> Opening:
        self.dialled_from.append(enrolled)
        self.dials.append((address, port, sources))
        self.while_dialling()
        self.peer = opening(bell)
        self.dialled.set()
        return self.peer

    def change(self, *pods: Pod, gone: tuple[str, ...] = ()) -> Touched:
        """Puts pods in force, as a worker does."""
        names = tuple(ObjectKey("Pod", "demo", name) for name in gone)
        touched = self.view.change_catalog(CatalogChange(self.view.catalog.version + 1, pods, gone=names))
        for each in self.live.opening():
            each.look_again()
        return touched

    def accept(
        self, key: str, client: str, original: tuple[str, int], direction: Direction = Direction.INBOUND
    ) -> tuple[Connection, SetUp]:
        return self.accept_as(Connection, key, client, original, direction)

    def accept_as(
        self, kind: type[C], key: str, client: str, original: tuple[str, int], direction: Direction
    ) -> tuple[C, SetUp]:
        """A connection that has just been accepted and given its transport."""
        dialled = OriginalDst(*original)
        connection = kind(self, cast("EnrolledPod", Enrolled(key)), direction, PeerAddr(client, 40000), dialled)
        self.over = self.live.admit(connection)
        connection.stage = setup = SetUp(opening(Bell(self.deadlines)), cast("asyncio.Task[None]", Task()))
        return connection, setup

    @property
    def decisions(self) -> dict[tuple[str, ...], int]:
        """How often what was decided: verdict, server, authorization, reason."""
        return {key[1:]: value for key, value in self.counters.snapshot().items() if key[0] == DECIDED}


SOURCES: Sources = (Source("203.0.113.1", 0),)
"""From where a pod has its legs come, whatever is dialled."""


class Enrolled:
    """A pod that is served; what it was asked is noted."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.asked: list[tuple[PeerAddr, OriginalDst, tuple[str, int], bool]] = []
        self.own: str | None = None
        """The address that an interface of the pod has."""

    def sources(self, chosen: PeerAddr, dialled: OriginalDst, place: tuple[str, int], *, own: bool) -> Sources:
        self.asked.append((chosen, dialled, place, own))
        return SOURCES

    def dialler(self, client: PeerAddr, own: tuple[str, int]) -> PeerAddr:
        del own
        return client

    def holds(self, address: str) -> bool:
        return address == self.own
