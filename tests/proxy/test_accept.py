"""From a listener to a set-up: who is refused at once, and that no end of a set-up leaves a connection behind."""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import cast

import pytest

from agent.capture._sockets import prepare
from agent.capture.address import OriginalDst, PeerAddr
from agent.outcome import Outcome
from agent.proxy import accept, live
from agent.proxy.accept import Acceptor
from agent.proxy.connection import Connection, Direction
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.runtime import EnrolledPod
from agent.proxy.stage import Accepted, SetUp
from agent.telemetry.counters import DENIED
from tests.proxy.fakes import API_IP, PORT, Enrolled, Worker, pod

Serve = Callable[[Connection, SetUp], object]


class Case:
    """An acceptor behind a real listener; what it accepted was dialled as `original` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, direction: Direction = Direction.INBOUND) -> None:
        self.worker = Worker(pod("api", API_IP))
        self.served: list[Connection] = []
        self.serve: Serve = lambda *_: None
        self.original: tuple[str, int] | None = (API_IP, PORT)
        monkeypatch.setattr(accept, "ends", self._ends)
        monkeypatch.setitem(accept._SERVE, direction, self._served)
        self.enrolled = Enrolled("demo/api")
        self.acceptor = Acceptor(self.worker, cast("EnrolledPod", self.enrolled), direction)
        self.changed = asyncio.Event()

    def _ends(self, fd: int) -> object:
        with socket.socket(fileno=fd) as sock:
            peer, own = sock.getpeername(), sock.getsockname()
            sock.detach()
        if self.original is None:
            raise OSError("it was reset")
        return peer, own, self.original if self.original[1] else own

    async def _served(self, connection: Connection, setup: SetUp) -> None:
        assert setup is connection.stage
        self.served.append(connection)
        try:
            found = self.serve(connection, setup)
            if asyncio.iscoroutine(found):
                await found
        finally:
            asyncio.get_running_loop().call_soon(self.changed.set)

    async def comes(self) -> socket.socket:
        """A client's end of what was accepted."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            far = socket.create_connection(server.getsockname())
            near, _ = server.accept()
        far.setblocking(False)
        prepare(near.fileno())
        near.setblocking(False)
        self.acceptor(near)
        return far

    async def denials(self) -> dict[tuple[str, ...], int]:
        """Once there are some."""
        async with asyncio.timeout(10):
            while True:
                found = {key[1:]: value for key, value in self.worker.counters.snapshot().items() if key[0] == DENIED}
                if found:
                    return found
                await asyncio.sleep(0)


@pytest.fixture
async def case(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    made = Case(monkeypatch)
    yield made
    await made.worker.live.terminate(Outcome.DRAINED, "the test is over")
    for each in made.served:
        if isinstance(each.stage, SetUp) and not each.stage.accepted.lost:
            each.stage.accepted.reset()
    for _ in range(10):
        await asyncio.sleep(0)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the access log."""
    return [each.getMessage() for each in caplog.records if each.name == "quietwire.access"]


async def gone(far: socket.socket) -> None:
    """Returns once the client's end was reset."""
    with far, pytest.raises(ConnectionResetError):
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_recv(far, 1)


async def test_what_was_redirected_is_set_up_as_what_was_dialled(case: Case) -> None:
    far = await case.comes()
    async with asyncio.timeout(10):
        await case.changed.wait()
    (connection,) = case.served
    assert connection.original_destination == OriginalDst(API_IP, PORT)
    assert (connection.client.address, connection.client.port) == far.getsockname()
    assert (connection.pod, connection.direction) == ("demo/api", Direction.INBOUND)
    assert case.worker.live.opening() == [connection]
    assert isinstance(connection.stage, SetUp)
    assert connection.stage.dialled is None
    assert connection.stage.accepted.fd >= 0
    assert not connection.stage.accepted.lost
    far.close()


async def test_who_dialled_what_was_redirected_is_whom_the_pod_names(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the port of the dialler's own socket, which may not be the one that came here."""
    asked: list[tuple[PeerAddr, tuple[str, int]]] = []

    def dialler(client: PeerAddr, own: tuple[str, int]) -> PeerAddr:
        asked.append((client, own))
        return PeerAddr(client.address, 7)

    monkeypatch.setattr(case.enrolled, "dialler", dialler)
    far = await case.comes()
    async with asyncio.timeout(10):
        await case.changed.wait()
    (connection,) = case.served
    assert asked == [(PeerAddr(*far.getsockname()), far.getpeername())]
    assert connection.client == PeerAddr(far.getsockname()[0], 7)
    assert isinstance(connection.stage, SetUp)
    assert connection.stage.accepted.bell._deadlines is case.worker.deadlines
    far.close()


async def test_a_set_up_under_way_can_be_ended(case: Case) -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    begun = asyncio.Event()

    def serve(*_: object) -> object:
        begun.set()
        return waits()

    case.serve = serve
    far = await case.comes()
    async with asyncio.timeout(10):
        await begun.wait()
    (connection,) = case.served
    connection.terminate(Outcome.UNENROLLED, "the pod has left")
    await gone(far)
    assert len(case.worker.live) == 0


@pytest.mark.parametrize("turns", range(4))
async def test_a_set_up_can_be_ended_before_it_has_a_transport_too(case: Case, turns: int) -> None:
    """In whichever turn of the loop it is: no descriptor is left, and nobody is served."""
    far = await case.comes()
    (connection,) = case.worker.live.opening()
    stages = [type(connection.stage)]
    for _ in range(turns):
        await asyncio.sleep(0)
        stages.append(type(connection.stage))
    assert stages[0] is Accepted
    connection.terminate(Outcome.UNENROLLED, "the pod has left")
    await gone(far)
    assert connection.stage is None
    assert len(case.worker.live) == 0


async def test_whoever_dials_the_agents_own_port_is_served_nothing(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.original = ("its own", 0)
    far = await case.comes()
    assert await case.denials() == {("inbound", "direct_to_listener"): 1}
    client, own = (PeerAddr(*name) for name in (far.getsockname(), far.getpeername()))
    words = f"{client} dialled the agent's own port {own}; dial the application's port instead"
    assert said(caplog) == [f"denied: {words}"]
    await gone(far)
    assert case.served == []
    assert len(case.worker.live) == 0


async def test_a_client_over_its_bound_is_served_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "MAX_OPENING", 0)
    far = await case.comes()
    assert await case.denials() == {("inbound", "too_many_opening"): 1}
    words = "a worker has 0 connections in set-up at most; is 127.0.0.1 opening connections and sending nothing?"
    assert said(caplog) == [f"denied: {words}"]
    await gone(far)
    assert case.served == []


async def test_what_was_reset_before_it_was_accepted_leaves_nothing(case: Case) -> None:
    case.original = None
    await gone(await case.comes())
    assert (case.served, len(case.worker.live)) == ([], 0)


async def test_a_refusal_ends_the_connection_and_is_no_fault(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> None:
        raise Refusal(Outcome.UNAUTHENTICATED, "who are you?", b"alert")

    case.serve = refuse
    far = await case.comes()
    assert await case.denials() == {("inbound", "unauthenticated"): 1}
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().sock_recv(far, 100) == b"alert"
    far.close()
    assert len(case.worker.live) == 0
    assert said(caplog) == ["denied: who are you?"]


async def test_a_fault_of_ours_leaves_no_connection_that_nobody_serves(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    case.serve = fault
    far = await case.comes()
    assert await case.denials() == {("inbound", "failed"): 1}
    await gone(far)
    assert len(case.worker.live) == 0
    assert any(each.levelno == logging.ERROR and "died" in each.getMessage() for each in caplog.records)
    assert said(caplog) == ["failed: the agent failed while it set the connection up; see the log"]


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> int:
    """How many there are of what a set-up is made of."""
    return sum(type(each) in {Connection, Accepted, SetUp, Opening} for each in gc.get_objects())


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("end", ["refused", "refused at once", 0, 1, 2, 3, 9])
async def test_what_was_never_relayed_is_freed_without_the_garbage_collector(case: Case, end: str | int) -> None:
    """Refused, or ended in this turn of the loop."""
    former = held()

    def refuse(*_: object) -> None:
        raise Refusal(Outcome.UNAUTHENTICATED, "who are you?")

    async def waits() -> None:
        await asyncio.Event().wait()

    case.serve = refuse if end == "refused" else lambda *_: waits()
    case.original = ("its own", 0) if end == "refused at once" else case.original
    far = await case.comes()
    if isinstance(end, int):
        for _ in range(end):
            await asyncio.sleep(0)
        await case.worker.live.terminate(Outcome.UNENROLLED, "the pod has left")
    await gone(far)
    case.served.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    assert held() == former
