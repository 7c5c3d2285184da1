"""What is said and counted of rules that were looked at, by results that the test gives."""

import asyncio
import logging
import os
from collections.abc import Iterator
from typing import cast

import pytest

from agent.node.enrolled import Enrolled
from agent.node.roster import Roster
from agent.node.rules import Rules
from agent.node.visits import Visits
from agent.objects.model import Pod
from init.client import BatchRequest, BatchResult
from init.model import Options


class FakeVisits:
    """Gives a result in place of a child process."""

    def __init__(self) -> None:
        self.result = BatchResult(0, ok=True)

    async def blocking(self, _work: object, requests: list[BatchRequest], _seconds: float) -> list[BatchResult]:
        for request in requests:
            os.close(request.netns_fd)
        return [self.result for _ in requests]


class Looked:
    """One pod, whose rules are looked at."""

    def __init__(self) -> None:
        self.visits, roster = FakeVisits(), Roster()
        pod = Pod("demo", "web", "web", "node-a", ("192.0.2.1",))
        self.enrolled = Enrolled(pod, os.open("/proc/self/ns/net", os.O_RDONLY), 1, Options())
        self.enrolled.ruled = True
        roster.pods[pod.key] = self.enrolled
        self.rules = Rules(roster, cast(Visits, self.visits), backend="nft", verify_seconds=0.0, release=self._release)

    async def _release(self, _enrolled: Enrolled, _reason: str) -> None:
        raise AssertionError("nobody is released")

    async def once(self, result: BatchResult) -> None:
        """One round."""
        self.visits.result = result
        done = asyncio.Event()

        async def before() -> None:
            if done.is_set():
                raise StopRoundsError
            done.set()

        with pytest.raises(StopRoundsError):
            await self.rules.keep(before)


class StopRoundsError(Exception):
    """One is enough."""


@pytest.fixture
def looked() -> Iterator[Looked]:
    made = Looked()
    yield made
    made.rules.close()
    made.enrolled.close()


async def test_rules_that_were_broken_are_said_to_be_and_counted(
    looked: Looked, caplog: pytest.LogCaptureFixture
) -> None:
    await looked.once(BatchResult(0, ok=True, changed=True, missing=("nat OUTPUT",)))
    assert "the rules of demo/web were changed by somebody else: nat OUTPUT" in caplog.messages
    assert looked.rules.repairs == 1
    assert looked.enrolled.ruled


async def test_of_rules_that_could_not_be_looked_at_in_time_nobody_says_that_they_were_changed(
    looked: Looked, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine may be busy. They are written anew all the same."""
    caplog.set_level(logging.INFO)
    await looked.once(BatchResult(0, ok=False, error="no result in 60 s"))
    assert caplog.messages == ["the rules of demo/web could not be repaired: no result in 60 s"]
    assert looked.rules.repairs == 0
    assert not looked.enrolled.ruled
