"""What makes a worker, and what ends it: whatever it cannot be without."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.link import affinity_memory, messages, session_memory
from agent.link.channel import Channel
from agent.objects.policy import DefaultPolicy
from agent.policy.index import PolicySettings
from agent.proxy.view import Settings
from agent.worker.main import Worker, configured


@pytest.fixture
async def run() -> Callable[[], Awaitable[tuple[Worker, Channel[messages.ToSupervisor]]]]:
    async def make() -> tuple[Worker, Channel[messages.ToSupervisor]]:
        ours, theirs = socket.socketpair()
        settings = Settings("node-a", PolicySettings("example.test", DefaultPolicy.ALL_AUTHENTICATED, ()))
        sessions, affinity = session_memory.create(1), affinity_memory.create(1)
        worker = Worker(
            Channel(theirs, messages.ToWorker),
            messages.Configure(settings, 1),
            session_memory.attach(sessions, 1, 0),
            affinity_memory.attach(affinity, 1, 0),
        )
        return worker, Channel(ours, messages.ToSupervisor)

    return make


Run = Callable[[], Awaitable[tuple[Worker, Channel[Any]]]]


async def test_a_worker_that_cannot_sweep_any_more_ends_by_its_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, supervisor = await run()

    async def fault() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "_sweep", fault)
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await worker.run()
    supervisor.close()


async def test_a_worker_that_cannot_do_what_it_is_told_ends_by_its_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, supervisor = await run()

    async def fault(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "_carry_out", fault)
    supervisor.send(messages.SetNodeAddresses(()))
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await worker.run()
    supervisor.close()


@pytest.mark.parametrize("end", ["the supervisor is gone", "it says what nobody understands"])
async def test_a_worker_that_is_told_nothing_any_more_ends(run: Run, end: str) -> None:
    worker, supervisor = await run()
    if end == "the supervisor is gone":
        supervisor.close()
    else:
        supervisor.send(messages.Synced(1))  # which is for the supervisor to hear
    async with asyncio.timeout(10):
        await worker.run()
    supervisor.close()


async def test_a_worker_is_made_of_its_first_message() -> None:
    ours, theirs = socket.socketpair()
    supervisor: Channel[Any] = Channel(ours, messages.ToSupervisor)
    settings = Settings("node-a", PolicySettings("example.test", DefaultPolicy.ALL_AUTHENTICATED, ()))
    memories = session_memory.create(1), affinity_memory.create(1)
    supervisor.send(messages.Configure(settings, 1), memories)
    async with asyncio.timeout(10):
        assert isinstance(await configured(Channel(theirs, messages.ToWorker), 0), Worker)
    for fd in memories:
        os.close(fd)
    supervisor.close()


@pytest.mark.parametrize("first", ["another message", "none"])
async def test_without_its_first_message_there_is_no_worker(first: str) -> None:
    ours, theirs = socket.socketpair()
    supervisor: Channel[Any] = Channel(ours, messages.ToSupervisor)
    channel: Channel[messages.ToWorker] = Channel(theirs, messages.ToWorker)
    async with asyncio.timeout(10):
        if first == "none":
            supervisor.close()
            assert await configured(channel, 0) is None
        else:
            supervisor.send(messages.SetNodeAddresses(()))
            with pytest.raises(TypeError, match="SetNodeAddresses, not Configure"):
                await configured(channel, 0)
            supervisor.close()
    channel.close()
