"""Worker processes: told what they need, heard, and not left alone when either is not so any more."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from agent.link import messages, pulse
from agent.link.channel import Channel
from agent.node import workers as module
from agent.node.workers import WorkerHandle
from agent.objects.key import PodKey
from agent.objects.policy import DefaultPolicy
from agent.policy.index import PolicySettings
from agent.proxy.view import Settings
from agent.tasks import spawn
from tests.node.workers import quiet_workers


async def test_a_worker_that_could_not_be_greeted_is_gone_before_its_successor_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both would write to the same part of the sessions' memory."""
    pids: list[int] = []
    second = asyncio.Event()

    def greet(handle: WorkerHandle) -> Iterator[tuple[msgspec.Struct, tuple[int, ...]]]:
        assert handle.pid is not None
        for former in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(former, 0)
        pids.append(handle.pid)
        if len(pids) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        second.set()
        yield from ()

    workers = quiet_workers(1, greet=greet)
    workers.start()
    async with asyncio.timeout(30):
        await second.wait()
        workers.kill()
        await workers.drain(0)
    os.close(workers.session_memory)
    os.close(workers.affinity_memory)
    assert "it could not be started: Too many open files" in caplog.text
    assert len(pids) == 2


class Pair:
    """Two places for workers, filled by nobody: the test speaks for both."""

    def __init__(self, **more: Any) -> None:
        self.workers = quiet_workers(2, **more)
        self.theirs: list[Channel[messages.ToWorker]] = []
        self.listening: list[asyncio.Task[str]] = []
        for handle in self.workers.handles:
            ours, theirs = socket.socketpair()
            handle.channel = Channel(ours, messages.ToSupervisor)
            self.theirs.append(Channel(theirs, messages.ToWorker))
            self.listening.append(spawn(self.workers._listen(handle, handle.channel), name="worker's messages"))

    async def answer(self, index: int) -> None:
        """One worker says that it has carried out what it was told to."""
        message, _ = await self.theirs[index].receive()
        assert isinstance(message, messages.Sync)
        self.theirs[index].send(messages.Synced(message.number))

    async def close(self) -> None:
        for channel in self.theirs:
            channel.close()
        await asyncio.wait(self.listening)


async def test_what_is_in_force_is_in_force_in_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root's rotation goes on only then: a worker that was not waited for would refuse peers under the new one."""
    pair = Pair()
    async with asyncio.timeout(10):
        both = asyncio.gather(pair.workers.sync(), pair.answer(0), pair.answer(1))
        assert (await both)[0]
        monkeypatch.setattr(module, "SYNC_SECONDS", 0.05)
        assert (await asyncio.gather(pair.workers.sync(), pair.answer(0)))[0] is False
        assert (await asyncio.gather(pair.workers.sync(), pair.answer(0)))[0] is False, "an old answer is none"
        pair.workers.handles[1].channel = None  # one that starts is told anew
        assert (await asyncio.gather(pair.workers.sync(), pair.answer(0)))[0]
    await pair.close()


async def test_a_place_whose_worker_says_nothing_more_is_filled_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A real process, stopped: nothing it could do would let it answer."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "SYNC_SECONDS", 60)
    monkeypatch.setattr(pulse, "HUNG_SECONDS", 0.4)
    first, second = asyncio.Event(), asyncio.Event()
    pids: list[int] = []

    def greet(handle: WorkerHandle) -> Iterator[tuple[msgspec.Struct, tuple[int, ...]]]:
        assert handle.pid is not None
        pids.append(handle.pid)
        (first if len(pids) == 1 else second).set()
        settings = Settings("node-a", PolicySettings("example.test", DefaultPolicy.ALL_AUTHENTICATED, ()))
        yield messages.Configure(settings, 1), (workers.session_memory, workers.affinity_memory)

    workers = quiet_workers(1, greet=greet)
    workers.start()
    async with asyncio.timeout(60):
        await first.wait()
        assert await workers.sync()
        os.kill(pids[0], signal.SIGSTOP)
        await second.wait()
        assert workers.restarts == {module.Ending.HUNG: 1}
        workers.kill()
        await workers.drain(0)
    os.close(workers.session_memory)
    os.close(workers.affinity_memory)
    assert "it hung: nothing was heard of it for" in caplog.text


@pytest.mark.parametrize("end", ["it says what nobody understands", "what it says is heard with a fault of ours"])
async def test_a_worker_whom_nobody_hears_any_more_ends(end: str) -> None:
    """It would serve on, by the policy of yesterday."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError

    pair = Pair(changed=fault)
    handle = pair.workers.handles[0]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    handle.pid = process.pid
    if end.startswith("it says"):
        pair.theirs[0].send(messages.Sync(1))  # which is for a worker to be told
    else:
        pair.theirs[0].send(messages.Listening(PodKey("demo/web")))
    async with asyncio.timeout(10):
        await asyncio.wait([pair.listening[0]])
        assert await process.wait() == -9
    handle.pid = None
    if end.startswith("it says"):
        assert "a message cannot be decoded" in pair.listening[0].result()
    else:
        assert isinstance(pair.listening[0].exception(), ZeroDivisionError)
    await pair.close()


async def test_a_place_that_is_kept_no_more_is_known_to_who_ends_the_agent() -> None:
    def greet(_: WorkerHandle) -> Iterator[tuple[msgspec.Struct, tuple[int, ...]]]:
        raise ZeroDivisionError

    workers = quiet_workers(1, greet=greet)
    workers.start()
    async with asyncio.timeout(30):
        await asyncio.wait(workers.keepers)
    assert isinstance(workers.keepers[0].exception(), ZeroDivisionError)
    assert workers.handles[0].pid is None, "no process is left behind"
    workers.kill()
    await workers.drain(0)
    os.close(workers.session_memory)
    os.close(workers.affinity_memory)
