"""Events: what is told, when, how often, and that a limit loses nothing."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.client import NO_QUERY, Query
from agent.kubernetes.errors import ApiError, Refused, Unreachable
from agent.manifests.fault import Fault
from agent.manifests.origin import Origin
from agent.node.events import (
    AGAIN_SECONDS,
    BURST,
    EACH_SECONDS,
    MAX_MESSAGE,
    SPREAD_SECONDS,
    WAITING_SECONDS,
    Events,
    Limit,
    Told,
    of_faults,
    of_waiting,
)
from agent.objects.model import Pod
from agent.tasks import spawn

V1 = "gateway.networking.k8s.io/v1"
POD = Pod("demo", "api", "default", "n1", (), uid="u-1")
FAULT = Fault(
    Origin(object="HTTPRoute.gateway.networking.k8s.io demo/web", path="spec.rules", uid="u-2", api_version=V1),
    "HTTPRoute.gateway.networking.k8s.io demo/web",
    "is no list",
    closed=True,
)


def test_a_fault_is_told_of_its_object_with_the_field_and_what_holds_meanwhile() -> None:
    (told,) = of_faults([FAULT])
    assert told == Told(
        "HTTPRoute", "demo", "web", "u-2", "CannotBeUsed",
        "spec.rules: is no list; until it is mended, what it should decide is denied", V1,
    )  # fmt: skip
    assert told.path == "/api/v1/namespaces/demo/events"
    assert told.event(0.0, "n1")["involvedObject"]["apiVersion"] == V1, "kubectl events --for looks by it"


def test_a_fault_of_what_has_no_namespace_is_told_where_kubectl_looks_for_it() -> None:
    (told,) = of_faults([Fault(Origin(object="Namespace demo", uid="u", api_version="v1"), "Namespace demo", "bad")])
    event = told.event(0.0, "n1")
    assert told.path == "/api/v1/namespaces/default/events"
    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {"kind": "Namespace", "apiVersion": "v1", "name": "demo", "uid": "u"}


def test_a_file_is_no_object() -> None:
    assert of_faults([Fault(Origin("a.yaml", 3), "Pod demo/api", "bad")]) == set()


def test_an_event_is_called_by_what_it_says_so_that_the_second_agent_finds_it_there() -> None:
    (told,) = of_faults([FAULT])
    one, two = told.event(1.0, "n1"), told.event(2.0, "n2")
    assert one["metadata"] == two["metadata"]
    (waiting,) = of_waiting([(POD, "no address")])
    (other,) = of_waiting([(POD, "no namespace")])
    assert waiting.event(1.0, "n1")["metadata"]["name"] != other.event(1.0, "n1")["metadata"]["name"]


def test_a_long_message_is_cut_where_the_api_server_would_refuse_it() -> None:
    (told,) = of_waiting([(POD, "x" * 5000)])
    assert len(told.event(0.0, "n1")["message"]) == MAX_MESSAGE


@given(st.lists(st.floats(0, 10), max_size=200))
def test_no_limit_lets_more_through_than_a_burst_and_one_each_so_many_seconds(pauses: list[float]) -> None:
    now, through = 0.0, 0
    limit = Limit(now)
    for pause in pauses:
        now += pause
        through += limit.wait(now) == 0
    assert through <= BURST + now / EACH_SECONDS + 1e-6


class Holding:
    """What holds, and the time; and an API server that is told."""

    def __init__(self, *answers: ApiError | None) -> None:
        self.faults: list[Fault] = []
        self.waiting: list[tuple[Pod, str]] = []
        self.now = 1000.0
        self.chance = 0.5
        self.posted: list[str] = []
        self._answers = list(answers)
        self._again = asyncio.Event()
        self.events = Events(
            self,
            lambda: self.faults,
            lambda: self.waiting,
            node="n1",
            chance=lambda: self.chance,
            clock=lambda: self.now,
        )

    async def request(
        self, method: str, path: str, query: Query = NO_QUERY, body: Mapping[str, Any] | bytes | None = None
    ) -> bytes:
        assert method == "POST"
        assert isinstance(body, dict)
        self.posted.append(body["message"])
        self._again.set()
        if self._answers and (answer := self._answers.pop(0)) is not None:
            raise answer
        return b"{}"

    async def until(self, times: int) -> None:
        while len(self.posted) < times:
            self._again.clear()
            await self._again.wait()


@pytest.fixture
def holding() -> Holding:
    return Holding()


def test_a_pod_that_waits_a_moment_is_no_news(holding: Holding) -> None:
    holding.waiting = [(POD, "no address")]
    assert holding.events.due(holding.now) == []
    assert holding.events.due(holding.now + WAITING_SECONDS - 0.1) == []
    (told,) = holding.events.due(holding.now + WAITING_SECONDS)
    assert told.message == "it is not meshed yet: no address"
    holding.waiting = []
    assert holding.events.due(holding.now + WAITING_SECONDS + 1) == []


def test_what_every_agent_finds_is_told_by_each_at_a_time_of_its_own(holding: Holding) -> None:
    holding.faults = [FAULT]
    assert holding.events.due(holding.now) == []
    assert len(holding.events.due(holding.now + SPREAD_SECONDS * holding.chance)) == 1


async def test_what_holds_is_told_once_and_again_before_it_is_forgotten(
    holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.node.events.LOOK_SECONDS", 0.0)
    holding.chance = 0.0
    holding.faults = [FAULT]
    task = spawn(holding.events.run(), name="events")
    await holding.until(1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(holding.posted) == 1
    holding.now += AGAIN_SECONDS
    await holding.until(2)
    task.cancel()


async def test_what_the_api_server_did_not_hear_is_told_when_it_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.node.events.LOOK_SECONDS", 0.0)
    holding = Holding(Unreachable("nobody"), Unreachable("nobody"))
    holding.chance = 0.0
    holding.faults = [FAULT]
    task = spawn(holding.events.run(), name="events")
    await holding.until(3)
    task.cancel()
    assert len(set(holding.posted)) == 1


async def test_what_may_not_be_told_is_logged_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.node.events.LOOK_SECONDS", 0.0)
    holding = Holding(Refused(403, "Forbidden", "may not create events"))
    holding.chance = 0.0
    other = Fault(Origin(object="Server demo/api", uid="u-3"), "Server demo/api", "bad")
    holding.faults = [FAULT, other]
    task = spawn(holding.events.run(), name="events")
    await holding.until(2)
    task.cancel()
    (record,) = caplog.records
    assert "may not create events" in record.getMessage()


@pytest.mark.parametrize(
    "answer",
    [
        Refused(409, "AlreadyExists", "another agent has told it"),
        Refused(404, "NotFound", "its namespace is gone"),
        Refused(403, "Forbidden", "its namespace goes", causes=("NamespaceTerminating",)),
    ],
    ids=lambda answer: answer.reason,
)
async def test_one_that_another_agent_has_told_or_that_has_no_place_any_more_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: Refused
) -> None:
    monkeypatch.setattr("agent.node.events.LOOK_SECONDS", 0.0)
    holding = Holding(answer)
    holding.chance = 0.0
    holding.faults = [FAULT]
    task = spawn(holding.events.run(), name="events")
    await holding.until(1)
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    assert len(holding.posted) == 1
    assert caplog.records == []
