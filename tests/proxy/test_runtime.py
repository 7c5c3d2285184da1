"""What connections share: dialling from inside a pod, and the choice among endpoints."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from agent.capture.address import PeerAddr, Source
from agent.catalog.fronts import Front
from agent.objects.key import PodKey
from agent.objects.model import Endpoint
from agent.outcome import Outcome
from agent.proxy import runtime as module
from agent.proxy.affinity import Affinity, size_for
from agent.proxy.opening import Bell, Deadlines, Opening
from agent.proxy.refusal import Refusal
from agent.proxy.runtime import EnrolledPod, Runtime
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

    def dial(self, address: str, port: int, source: Source | None) -> tuple[socket.socket, bool]:
        del address, port
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


async def dialled(pod_: Pod, *sources: Source) -> Opening:
    return await runtime().dial(cast("EnrolledPod", pod_), Bell(Deadlines()), "192.0.2.1", 80, sources)


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


async def test_a_pod_that_has_left_dials_nothing_and_its_namespace_is_let_go_once() -> None:
    read, write = os.pipe()
    left = EnrolledPod(PodKey("demo/api"), read, write, 0x1234, stand_ins=True)
    left.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)
    left.close()
    with pytest.raises(ConnectionAbortedError, match="the pod has left the mesh"):
        left.dial("192.0.2.1", 80, None)
    os.close(write)


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
