"""How full pods' conntrack tables are: said once when one fills up, once when it is over; the fullest is reported."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agent.capture.conntrack_room import Room
from agent.node.conntrack_watch import ConntrackWatch
from agent.node.roster import Roster
from agent.node.visits import Visits
from agent.tasks import spawn
from tests.node.places import Places

Answer = Room | OSError


class Asked:
    """Visits to one pod's table, which answer one thing after the other."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self.used: list[float] = []
        """What was reported before each visit."""
        self.over = asyncio.Event()
        self.watch: ConntrackWatch | None = None

    async def inside(self, _fd: int, _work: Callable[[], Any]) -> Room:
        assert self.watch is not None
        self.used.append(self.watch.used)
        if not self._answers:
            self.over.set()
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


async def watched(directory: Path, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> list[float]:
    """What was reported of each answer, in turn."""
    monkeypatch.setattr("agent.node.conntrack_watch.CONNTRACK_SECONDS", 0)
    api, roster, asked = Places(directory).enrolled("api"), Roster(), Asked(list(answers))
    roster.pods[api.key] = api
    asked.watch = ConntrackWatch(roster, cast("Visits", asked))
    running = spawn(asked.watch.run(), name="watch")
    async with asyncio.timeout(30):
        await asked.over.wait()
    running.cancel()
    await asyncio.wait([running])
    roster.close()
    return asked.used[1:]


async def test_a_table_that_fills_up_is_said_once_and_once_that_it_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the two bounds it is as it was: one that goes up and down there says nothing."""
    caplog.set_level(logging.INFO)
    rooms = [Room(entries, 100) for entries in (89, 90, 100, 85, 91, 80, 79, 85, 90)]
    used = await watched(tmp_path, monkeypatch, *rooms)
    assert used == [room.used for room in rooms]
    said = [(each.levelno, each.getMessage().partition(". In a full")[0]) for each in caplog.records]
    full = "the conntrack table of demo/api is full, or nearly: 90 of 100 entries"
    assert said == [
        (logging.ERROR, full),
        (logging.INFO, "the conntrack table of demo/api has room again: 79 of 100"),
        (logging.ERROR, full),
    ]


async def test_a_pod_that_cannot_be_asked_ends_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used = await watched(tmp_path, monkeypatch, Room(95, 100), OSError(24, "Too many open files"), Room(50, 0))
    assert used == [0.95, 0.0, 0.0], "a table without a limit is never full"
    assert len(caplog.records) == 1
