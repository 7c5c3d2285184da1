"""What holds the legs of a connection in set-up, and how each stage ends."""

import asyncio
import socket

import pytest

from agent.proxy.opening import Bell, Deadlines, Opening
from agent.proxy.stage import Accepted, SetUp
from agent.tasks import spawn
from tests.proxy.fakes import opening


async def forever(_: object = None) -> None:
    await asyncio.Event().wait()


async def test_a_socket_that_was_accepted_is_carried_on_by_the_same_task() -> None:
    near, far = socket.socketpair()
    carried: asyncio.Future[SetUp] = asyncio.get_running_loop().create_future()

    async def set_up(stage: Accepted) -> None:
        carried.set_result(await stage.carried(Deadlines()))
        await forever()

    with far:
        Accepted(near, set_up, "set-up")
        async with asyncio.timeout(10):
            stage = await carried
        assert (stage.accepted.fd, stage.dialled) == (near.fileno(), None)
        stage.refuse(b"alert", b"")
        stage.cancel()
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().run_in_executor(None, far.recv, 100) == b"alert"


async def test_a_socket_without_a_transport_is_closed_whatever_its_peer_was_to_read() -> None:
    near, far = socket.socketpair()
    stage = Accepted(near, forever, "set-up")
    stage.refuse(b"alert", b"")
    stage.cancel()
    with far:
        assert far.recv(100) == b""
    assert near.fileno() == -1


@pytest.mark.parametrize("dialled", [True, False])
async def test_each_leg_that_there_is_gets_its_own_alert(monkeypatch: pytest.MonkeyPatch, *, dialled: bool) -> None:
    ended: list[tuple[Opening, bytes]] = []
    monkeypatch.setattr(Opening, "refuse", lambda leg, alert: ended.append((leg, alert)))
    bell, task = Bell(Deadlines()), spawn(forever(), name="set-up")
    stage, other = SetUp(opening(bell), task), opening(bell)
    stage.dialled = other if dialled else None
    stage.refuse(b"", b"alert")
    assert ended == [(stage.accepted, b""), (other, b"alert")][: 1 + dialled]
    stage.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
