"""Worker processes that cannot be told what they need."""

import asyncio
import errno
import os
from collections.abc import Iterator

import msgspec
import pytest

from agent.supervisor.workers import WorkerHandle, Workers


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

    workers = Workers(
        1,
        node="node-a",
        log_format="text",
        log_level="error",
        greet=greet,
        changed=lambda: None,
        counted=lambda *_: None,
    )
    workers.start()
    async with asyncio.timeout(30):
        await second.wait()
        workers.kill()
        await workers.drain(0)
    os.close(workers.session_memory)
    assert "it could not be started: Too many open files" in caplog.text
    assert len(pids) == 2
