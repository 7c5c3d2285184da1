"""What ends the agent, and what must not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.node.supervisor import EXIT_FAULT, Supervisor
from agent.tasks import spawn
from tests.node.config import config


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(config(tmp_path))
    yield made
    made.enrolment.close()


async def follows() -> None:
    await asyncio.Event().wait()


async def dies() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a fault of ours")


async def test_the_death_of_what_the_agent_cannot_be_without_ends_it_and_it_is_not_ready_any_more(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor._said_ready = True
    ready = [supervisor.facts().ready]
    tasks = [spawn(follows(), name="identity"), spawn(dies(), name="catalog")]
    async with asyncio.timeout(10):
        assert await supervisor._until_stopped(tasks) == EXIT_FAULT
    ready.append(supervisor.facts().ready)
    assert ready == [True, False]
    assert "catalog has ended by a fault" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    tasks[0].cancel()


async def test_without_a_fault_it_ends_when_it_is_told_to(supervisor: Supervisor) -> None:
    task = spawn(follows(), name="catalog")
    asyncio.get_running_loop().call_later(0.01, supervisor._stopping.set)
    async with asyncio.timeout(10):
        assert await supervisor._until_stopped([task]) == 0
    task.cancel()
