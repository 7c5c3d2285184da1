"""What connections share: dialling from inside a pod, and the choice among endpoints."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from agent.capture.accepting import advice
from agent.capture.address import OriginalDst, PeerAddr, Source
from agent.capture.sources import Kernel
from agent.catalog.fronts import Front
from agent.objects.key import PodKey
from agent.objects.model import Endpoint
from agent.outcome import Outcome
from agent.proxy import runtime as module
from agent.proxy.affinity import Affinity, size_for
from agent.proxy.opening import Bell, Deadlines, Opening
from agent.proxy.refusal import Refusal
from agent.proxy.runtime import EnrolledPod, Runtime
from agent.proxy.source import of_application
from agent.telemetry.access import AccessLog
from agent.telemetry.counters import Counters
from tests.proxy.fakes import API_IP, Worker, pod

CLIENT = PeerAddr("192.0.2.7", 40000)
OWN, ANY = Source(*CLIENT), Source(CLIENT.address, 0)


def runtime() -> Runtime:
    affinity = Affinity(memoryview(bytearray(size_for(1))), 1, 0)
    return Runtime(Worker(pod("api", API_IP)).view, AccessLog(enabled=False), Counters(), affinity)


class Pod:
    """Dials as told, and notes from which address."""

    key = "demo/api"

    def __init__(self, dial: Callable[[Source | None], tuple[socket.socket, bool]]) -> None:
        self._dial = dial
        self.sources: list[Source | None] = []
        self.places: set[tuple[str, int]] = set()

    def dial(self, address: str, port: int, source: Source | None) -> tuple[socket.socket, bool]:
        self.places.add((address, port))
        self.sources.append(source)
        return self._dial(source)


def fails(number: int, *, until: int = 99) -> Callable[[Source | None], tuple[socket.socket, bool]]:
    """An error the first `until` times; then a socket that is connected."""
    times = 0

    def dial(_: Source | None) -> tuple[socket.socket, bool]:
        nonlocal times
        times += 1
        if times <= until:
            raise OSError(number, os.strerror(number))
        near, far = socket.socketpair()
        _FAR.append(far)
        near.setblocking(False)
        return near, True

    return dial


_FAR: list[socket.socket] = []


PLACE = ("192.0.2.1", 80)


async def dialled(pod_: Pod, *sources: Source, at: tuple[str, int] = PLACE) -> Opening:
    bell = Bell(Deadlines())
    try:
        opening = await runtime().dial(cast("EnrolledPod", pod_), bell, *at, sources)
    finally:
        assert pod_.places == {at}
    assert opening.bell is bell
    return opening


async def test_what_answers_is_an_opening_with_its_descriptor() -> None:
    made = Pod(fails(0, until=0))
    opening = await dialled(made, OWN, ANY)
    assert made.sources == [OWN]
    assert opening.fd == opening.transport.get_extra_info("socket").fileno()
    opening.reset()
    _FAR.pop().close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("number", [errno.EADDRINUSE, errno.EADDRNOTAVAIL])
async def test_where_a_source_is_taken_the_next_one_is_tried(number: int) -> None:
    made = Pod(fails(number, until=1))
    opening = await dialled(made, OWN, ANY)
    assert made.sources == [OWN, ANY]
    opening.reset()
    _FAR.pop().close()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("number", "sources", "tries"),
    [
        (errno.ECONNREFUSED, (OWN, ANY), 1),
        (errno.EADDRNOTAVAIL, (), 1),
        (errno.EADDRINUSE, (OWN, ANY), 2),
    ],
)
async def test_what_cannot_be_dialled_is_refused_with_where_and_why(
    number: int, sources: tuple[Source, ...], tries: int
) -> None:
    made = Pod(fails(number))
    with pytest.raises(Refusal) as refused:
        await dialled(made, *sources)
    assert refused.value.outcome is Outcome.UNREACHABLE
    assert refused.value.message == f"cannot connect to 192.0.2.1:80 from demo/api: {os.strerror(number)}"
    assert len(made.sources) == tries


async def test_an_answer_that_does_not_come_is_waited_for_so_long_and_its_socket_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.01)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", lambda *_: asyncio.Event().wait(), raising=False)
    sock = socket.socket()
    sock.setblocking(False)
    with pytest.raises(Refusal, match="no answer in 0 s"):
        await dialled(Pod(lambda _: (sock, False)))
    assert sock.fileno() == -1


async def test_what_is_not_connected_yet_is_connected_to_where_it_was_to_go() -> None:
    sock = socket.socket()
    sock.setblocking(False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        opening = await dialled(Pod(lambda _: (sock, False)), at=server.getsockname())
        with server.accept()[0] as far:
            assert opening.transport.get_extra_info("peername") == server.getsockname()
            opening.transport.write(b"words")
            assert far.recv(5) == b"words"
    opening.reset()
    await asyncio.sleep(0)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_of_our_own_is_not_said_to_be_the_destinations(number: int) -> None:
    with pytest.raises(Refusal) as refused:
        await dialled(Pod(fails(number)), OWN, ANY)
    assert refused.value.outcome is Outcome.EXHAUSTED
    words = advice(OSError(number, os.strerror(number)))
    assert refused.value.message == f"demo/api cannot be dialled from: {words}"


async def test_an_error_without_a_number_is_said_in_its_own_words() -> None:
    def fail(_: Source | None) -> tuple[socket.socket, bool]:
        raise OSError("no such luck")

    with pytest.raises(Refusal, match=r"from demo/api: no such luck$"):
        await dialled(Pod(fail), OWN)


async def test_of_three_sources_the_last_is_tried_once() -> None:
    made = Pod(fails(errno.EADDRINUSE))
    third = Source("192.0.2.8", 0)
    with pytest.raises(Refusal):
        await dialled(made, OWN, ANY, third)
    assert made.sources == [OWN, ANY, third]


async def test_a_pod_that_has_left_dials_nothing_and_its_namespace_is_let_go_once() -> None:
    read, write = os.pipe()
    left = EnrolledPod(PodKey("demo/api"), read, write, 0x1234, stand_ins=True)
    left.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)
    left.close()
    with pytest.raises(ConnectionAbortedError, match=r"\] the pod has left the mesh$") as error:
        left.dial("192.0.2.1", 80, None)
    assert error.value.errno == errno.ECONNABORTED
    assert left.sources(CLIENT, OriginalDst(*PLACE), PLACE, own=False) == ()
    assert left.dialler(CLIENT, PLACE) == CLIENT
    assert not left.holds("192.0.2.1")
    os.close(write)


SOCKET = cast("socket.socket", object())


class Namespace:
    """A pod's namespace, of which only is said what is seen in it and what is done in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, shares: bool = True, stand_ins: bool = True) -> None:
        self.kernel = Kernel(range(32768, 61000), routes_by_source=False, only_address=CLIENT.address)
        self.looked = 0
        self.dials: list[tuple[Any, ...]] = []
        self.error: OSError | None = None
        """Why a port cannot be shared."""
        self.now = 1000.0
        self.fds = os.pipe()
        monkeypatch.setattr(module, "look", self._look)
        monkeypatch.setattr(module, "dial", self._dial)
        monkeypatch.setattr(module, "_SHARES", shares)
        monkeypatch.setattr("agent.proxy.runtime.time.monotonic", lambda: self.now)
        self.pod = EnrolledPod(PodKey("demo/api"), *self.fds, 0x1234, stand_ins=stand_ins)

    def _look(self, *fds: int) -> Kernel:
        assert fds == self.fds
        self.looked += 1
        return self.kernel

    def _dial(self, *args: Any, **shared: bool) -> tuple[Any, ...]:
        self.dials.append((*args, shared.get("shared", False)))
        if shared and self.error is not None:
            raise self.error
        return (SOCKET, True)

    def dialled(self, source: Source | None, *, shared: bool) -> tuple[Any, ...]:
        return (*self.fds, 0x1234, *PLACE, source, shared)


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    made = Namespace(monkeypatch)
    yield made
    made.pod.close()
    os.close(made.fds[1])


def test_what_a_pods_kernel_does_is_looked_at_now_and_then(namespace: Namespace) -> None:
    for after, looked in ((0.0, 1), (0.0, 1), (module.LOOK_SECONDS - 0.5, 1), (0.5, 2), (1.0, 2)):
        namespace.now += after
        namespace.pod.sources(CLIENT, OriginalDst(*PLACE), PLACE, own=False)
        assert namespace.looked == looked


SERVICE = OriginalDst("198.51.100.1", 80)


@pytest.mark.parametrize(
    ("shares", "stand_ins", "port", "own", "by_source", "expected"),
    [
        (True, True, 40000, False, False, {"keeps_port": True, "stand_ins": True}),
        (False, True, 40000, False, False, {"keeps_port": False, "stand_ins": True}),
        (False, True, 1024, False, False, {"keeps_port": True, "stand_ins": True}),
        (True, True, 40000, True, False, {"keeps_port": True, "stand_ins": False}),
        (True, True, 40000, False, True, {"keeps_port": True, "stand_ins": False}),
        (True, False, 40000, False, False, {"keeps_port": True, "stand_ins": False}),
    ],
)
def test_a_leg_has_a_port_and_a_stand_in_where_the_pod_and_its_kernel_can_have_them(
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bool],
    port: int,
    *,
    shares: bool,
    stand_ins: bool,
    own: bool,
    by_source: bool,
) -> None:
    made = Namespace(monkeypatch, shares=shares, stand_ins=stand_ins)
    made.kernel = msgspec.structs.replace(made.kernel, routes_by_source=by_source)
    chosen = PeerAddr(CLIENT.address, port)
    for dialled in (SERVICE, OriginalDst(*PLACE)):
        found = made.pod.sources(chosen, dialled, PLACE, own=own)
        assert found == of_application(chosen, dialled, PLACE, only=CLIENT.address, **expected)
    assert made.pod.key == "demo/api"
    made.pod.close()
    os.close(made.fds[1])


def test_a_port_that_connect_gave_to_the_application_is_shared_and_else_bound(namespace: Namespace) -> None:
    taken = Source(CLIENT.address, 40000)
    assert namespace.pod.dial(*PLACE, taken) == (SOCKET, True)
    assert namespace.dials == [namespace.dialled(taken, shared=True)]
    namespace.error = OSError(errno.EADDRNOTAVAIL, "somebody has bound it")
    namespace.pod.dial(*PLACE, taken)
    assert namespace.dials[1:] == [namespace.dialled(taken, shared=True), namespace.dialled(taken, shared=False)]
    namespace.error = OSError(errno.ECONNREFUSED, "refused")
    with pytest.raises(OSError, match="refused"):
        namespace.pod.dial(*PLACE, taken)
    assert len(namespace.dials) == 4
    for source in (None, Source(CLIENT.address, 1024), ANY):
        namespace.pod.dial(*PLACE, source)
        assert namespace.dials.pop() == namespace.dialled(source, shared=False)


def test_where_ports_cannot_be_shared_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Namespace(monkeypatch, shares=False)
    made.pod.dial(*PLACE, OWN)
    assert made.dials == [made.dialled(OWN, shared=False)]
    made.pod.close()
    os.close(made.fds[1])


def test_who_dialled_is_asked_of_the_pods_conntrack_which_is_opened_once_and_closed(
    monkeypatch: pytest.MonkeyPatch, namespace: Namespace
) -> None:
    made: list[str] = []
    own = ("10.1.0.1", 4143)

    class Asked:
        def __init__(self, *fds: int) -> None:
            assert fds == namespace.fds
            made.append("opened")
            if len(made) == 1:
                raise OSError(errno.EMFILE, "out of descriptors")

        def dialler(self, client: PeerAddr, at: tuple[str, int]) -> PeerAddr:
            assert (client, at) == (CLIENT, own)
            return PeerAddr(client.address, 7)

        def close(self) -> None:
            made.append("closed")

    monkeypatch.setattr(module, "Conntrack", Asked)
    assert [namespace.pod.dialler(CLIENT, own).port for _ in range(3)] == [CLIENT.port, 7, 7]
    namespace.pod.close()
    assert made == ["opened", "opened", "closed"]
    assert namespace.pod.dialler(CLIENT, own) == CLIENT
    namespace.pod.close()
    assert made == ["opened", "opened", "closed"]


def test_whether_an_interface_of_the_pod_has_an_address_is_asked_in_its_namespace(
    monkeypatch: pytest.MonkeyPatch, namespace: Namespace
) -> None:
    visited: list[tuple[int, ...]] = []

    def visit(*args: Any) -> bool:
        *fds, work = args
        visited.append(tuple(fds))
        return bool(work())

    monkeypatch.setattr(module, "visit", visit)
    monkeypatch.setattr(module, "holds_address", lambda address: address == API_IP)
    assert [namespace.pod.holds(each) for each in (API_IP, "192.0.2.1")] == [True, False]
    assert visited == [namespace.fds] * 2

    def fail(*_: object) -> bool:
        raise OSError(errno.EMFILE, "out of descriptors")

    monkeypatch.setattr(module, "visit", fail)
    assert not namespace.pod.holds(API_IP), "only the words of a refusal depend on it"


async def test_a_pod_dials_in_its_namespace_with_its_mark_from_a_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "dial", lambda *args: given.append(args))
    read, write = os.pipe()
    enrolled = EnrolledPod(PodKey("demo/api"), read, write, 0x1234, stand_ins=True)
    enrolled.dial("192.0.2.1", 80, ANY)
    assert given == [(read, write, 0x1234, "192.0.2.1", 80, ANY)]
    enrolled.close()
    os.close(write)


async def test_a_pod_that_is_not_in_the_catalog_is_served_no_more() -> None:
    made = runtime()
    enrolled = cast("EnrolledPod", Pod(fails(0)))
    assert made.pod_of(enrolled).key == "demo/api"
    worker = Worker()
    made.view = worker.view
    with pytest.raises(Refusal, match="is not in the catalog any more") as refused:
        made.pod_of(enrolled)
    assert refused.value.outcome is Outcome.UNENROLLED


ONE, TWO, THREE = (Endpoint(f"192.0.2.{number}", 80) for number in (1, 2, 3))


def picked(made: Runtime, *endpoints: Endpoint) -> Endpoint:
    return made.pick(Front("demo/api", 80, endpoints), CLIENT.address)


def test_of_two_endpoints_the_one_with_fewer_connections_is_taken() -> None:
    made = runtime()
    assert picked(made, ONE) == ONE
    assert {picked(made, ONE, TWO) for _ in range(100)} == {ONE, TWO}, "nobody is idle"
    made.weigh(ONE.address, ONE.port)
    assert {picked(made, ONE, TWO) for _ in range(100)} == {TWO}
    for _ in range(2):
        made.weigh(TWO.address, TWO.port)
    assert {picked(made, ONE, TWO) for _ in range(100)} == {ONE}
    assert {picked(made, ONE, TWO, THREE) for _ in range(200)} == {ONE, THREE}, "never the busiest"


def test_with_session_affinity_a_client_goes_to_where_it_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front("demo/api", 80, (ONE, TWO), affinity_seconds=60)
    asked: list[tuple[object, ...]] = []

    class Kept(Affinity):
        def pick(self, front: Front, client: str, now: float) -> Endpoint:
            asked.append((front, client, now))
            return TWO

    monkeypatch.setattr("agent.proxy.runtime.time.monotonic", lambda: 1234.5)
    kept = Kept(memoryview(bytearray(size_for(1))), 1, 0)
    made = Runtime(Worker().view, AccessLog(enabled=False), Counters(), kept)
    made.weigh(TWO.address, TWO.port)
    assert made.pick(front, CLIENT.address) == TWO, "however busy it is"
    assert asked == [(front, CLIENT.address, 1234.5)]
    assert {picked(made, ONE, TWO) for _ in range(100)} == {ONE}
    assert len(asked) == 1


def test_what_is_over_weighs_nothing_and_leaves_nothing() -> None:
    made = runtime()
    for _ in range(2):
        made.weigh(ONE.address, ONE.port)
    made.weigh(TWO.address, TWO.port)
    made.release(ONE.address, ONE.port)
    assert made.endpoint_load == {(ONE.address, ONE.port): 1, (TWO.address, TWO.port): 1}
    made.release(ONE.address, ONE.port)
    made.release(ONE.address, ONE.port)
    assert made.endpoint_load == {(TWO.address, TWO.port): 1}
