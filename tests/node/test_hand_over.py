"""An init step that hands its namespace over hears what it waits for, and that its pod is captured."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from agent.capture.caller import Caller
from agent.capture.enrolment_socket import HandedOver
from agent.capture.netns import NetnsId
from agent.node import hand_over as module
from agent.node.enrolment import Enrolment
from agent.node.hand_over import HandOver
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.tasks import spawn
from tests.node.places import pod

HERE, FD = NetnsId(4, 7), 33
API = pod("api", uid="uid-1")
CALLER = Caller(4711, 0, HERE, "uid-1", administers=False)


class Fake:
    """An enrolment, and what else an agent knows; and what an init step hears of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LOOK_SECONDS", 0)
        self.local: list[Pod] = [API]
        self.holds: Pod | None = API
        self.problem: str | None = None
        self.lacks: str | None = None
        self.served: tuple[PodKey, NetnsId] | None = (API.key, HERE)
        self.short = False
        self.taken: list[tuple[PodKey, int]] = []
        self.rounds = 0
        self.looks = 0
        self.said: list[dict[str, str]] = []
        self.logged: list[str] = []
        self.stopping = asyncio.Event()
        self.then: list[Callable[[], object]] = []
        """What happens after each word to the init step."""
        self.hand_over_ = HandOver(
            cast("Enrolment", self),
            node="node-a",
            local=self._local,
            missing=lambda _: self.lacks,
            taken=self._taken,
            stopping=self.stopping,
        )

    def _local(self) -> list[Pod]:
        self.looks += 1
        return self.local

    def _taken(self) -> None:
        self.rounds += 1

    def _say(self, words: dict[str, str]) -> None:
        self.said.append(words)
        if self.then:
            self.then.pop(0)()

    async def find(self, fd: int, pods: tuple[Pod, ...]) -> Pod | None:
        assert fd == FD
        if self.short:
            self.short = False
            raise OSError(24, "Too many open files")
        return self.holds if self.holds in pods else None

    async def hand_over(self, given: Pod, fd: int) -> str | None:
        if self.problem is None:
            self.taken.append((given.key, fd))
        return self.problem

    def serves(self, key: PodKey, identity: NetnsId) -> bool:
        return self.served == (key, identity)

    async def serve(self, *, asked: str | None = None, caller: Caller = CALLER) -> list[dict[str, str]]:
        async with asyncio.timeout(30):
            await self.hand_over_.serve(HandedOver(asked, caller, FD, self._say, self.logged.append))
        return self.said


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


CAPTURED = {"state": "captured", "pod": "demo/api"}


async def test_a_namespace_is_taken_and_told_to_be_captured(fake: Fake) -> None:
    assert await fake.serve() == [CAPTURED]
    assert fake.taken == [(API.key, FD)]
    assert fake.rounds == 1, "a round of enrolment is asked for once"


async def test_each_thing_that_it_waits_for_is_said_once(fake: Fake) -> None:
    def at_last(**now: object) -> Callable[[], object]:
        return lambda: vars(fake).update(now)

    fake.local, fake.holds, fake.problem = [], None, "another namespace was handed over"
    fake.lacks, fake.served = "its SVID has not come yet", None
    fake.then = [
        at_last(local=[API]),
        at_last(holds=API),
        at_last(problem=None),
        at_last(lacks=None),
        at_last(served=(API.key, HERE)),
    ]
    said = await fake.serve(asked="demo/api")
    assert [each.get("reason") for each in said] == [
        "the catalog has no demo/api on node node-a yet",
        "the namespace holds no address of demo/api yet",
        "another namespace was handed over",
        "its SVID has not come yet",
        "demo/api is still enrolled in another namespace",
        None,
    ]
    assert said[-1] == CAPTURED
    assert fake.rounds == 1, "a round of enrolment is asked for once it was taken, though not at the first try"


async def test_a_pod_that_its_manifest_gives_a_namespace_is_not_handed_over(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated = pod("api", uid="uid-1", annotated="somewhere")
    fake.local, fake.holds = [annotated], annotated
    monkeypatch.setattr(module, "named", lambda _: HERE)
    assert await fake.serve() == [CAPTURED]
    assert fake.taken == []


async def test_whoever_may_not_is_refused_and_the_log_says_so(fake: Fake) -> None:
    stranger = Caller(4712, 1000, HERE, None, administers=False)
    (said,) = await fake.serve(caller=stranger)
    assert said["state"] == "refused"
    assert fake.taken == []
    (logged,) = fake.logged
    assert "refused" in logged
    assert "4712" in logged


async def test_it_goes_on_where_descriptors_had_run_out(fake: Fake) -> None:
    fake.short = True
    waiting, captured = await fake.serve()
    assert waiting["reason"] == "the agent cannot take it at the moment: Too many open files"
    assert captured == CAPTURED


async def test_whoever_waits_when_the_agent_stops_is_told_and_not_refused(fake: Fake) -> None:
    """The next agent may be about to start."""
    fake.lacks = "its SVID has not come yet"
    fake.then = [fake.stopping.set]
    assert [each["state"] for each in await fake.serve()] == ["waiting", "waiting"]
    assert fake.said[-1]["reason"] == "the agent is shutting down"


async def test_all_who_wait_share_what_is_looked_at(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart of a node brings a hundred of them at once."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600)
    await asyncio.gather(*(spawn(fake.serve(), name=f"init step {number}") for number in range(100)))
    assert fake.said == [CAPTURED] * 100
    assert fake.looks == 1
