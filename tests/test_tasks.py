"""Tasks that cannot be lost: one that nobody refers to is not collected, and one that dies is heard of."""

import asyncio
import gc
import logging
import weakref

import pytest

from agent.tasks import spawn


async def test_a_task_that_nobody_refers_to_is_not_collected() -> None:
    """What it waits for is referred to by nobody else either: the loop alone would let both go."""

    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    task = weakref.ref(spawn(wait(), name="alone"))
    await asyncio.sleep(0)
    gc.collect()
    running = task()
    assert running is not None
    running.cancel()
    await asyncio.wait([running])


async def test_a_death_is_logged_with_its_name_and_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def die() -> None:
        raise ValueError("inside")

    await asyncio.wait([spawn(die(), name="the watch")])
    (said,) = caplog.records
    assert (said.levelno, said.getMessage()) == (logging.ERROR, "task the watch died")
    assert said.exc_info is not None
    assert isinstance(said.exc_info[1], ValueError)


async def test_an_end_and_a_cancellation_are_no_deaths(caplog: pytest.LogCaptureFixture) -> None:
    forever = asyncio.Event()
    ended, cancelled = spawn(asyncio.sleep(0, "done"), name="ended"), spawn(forever.wait(), name="cancelled")
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([ended, cancelled])
    assert ended.result() == "done"
    assert cancelled.cancelled()
    assert caplog.records == []
