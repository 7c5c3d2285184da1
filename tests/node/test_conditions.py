"""What an agent says of its pods in the cluster's objects: when, to whom, and until it is taken."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.client import NO_QUERY, Query
from agent.kubernetes.errors import ApiError, Refused, Unreachable
from agent.node.conditions import STRATEGIC_MERGE_PATCH, Conditions, Due, due
from agent.objects.key import PodKey
from agent.objects.model import MESHED_CONDITION, MeshSettings, Pod
from agent.tasks import spawn


def pod(name: str, *, injected: bool = True, published: bool | None = False, uid: str = "u") -> Pod:
    settings = MeshSettings(injected=injected)
    return Pod("demo", name, "default", "n1", ("192.0.2.1",), uid=uid, settings=settings, published=published)


def saying(*pods: Pod, captured: bool = True, enrolled: bool = True) -> set[tuple[str, bool]]:
    return {(each.name, each.meshed) for each in due(pods, lambda _: captured, lambda _: enrolled)}


def test_a_pod_is_said_to_be_meshed_when_it_is_captured_and_not_before() -> None:
    assert saying(pod("api"), captured=False) == set()
    assert saying(pod("api"), captured=True) == {("api", True)}
    assert saying(pod("api", published=True)) == set(), "it is said already"


def test_what_was_said_stays_while_the_pod_is_not_captured_for_a_while() -> None:
    assert saying(pod("api", published=True), captured=False, enrolled=False) == set()


def test_it_is_taken_back_when_the_pod_is_not_to_be_meshed_and_has_been_let_go() -> None:
    out = pod("api", injected=False, published=True)
    assert saying(out, captured=False, enrolled=True) == set(), "it is still refused in plaintext"
    assert saying(out, captured=False, enrolled=False) == {("api", False)}


def test_nothing_is_said_of_a_pod_whose_object_cannot_be_told_from_another_of_its_name() -> None:
    assert saying(pod("api", uid="")) == set()


@given(st.booleans(), st.booleans(), st.sampled_from([None, False, True]), st.booleans())
def test_what_is_said_once_is_not_due_again(
    injected: bool, captured: bool, published: bool | None, enrolled: bool
) -> None:
    for each in due([pod("api", injected=injected, published=published)], lambda _: captured, lambda _: enrolled):
        after = pod("api", injected=injected, published=each.meshed)
        assert due([after], lambda _: captured, lambda _: enrolled) == set()


def test_the_patch_is_of_this_very_object_and_of_one_condition() -> None:
    patch = Due("demo", "api", "u-1", True).patch(0.0)
    assert patch["metadata"] == {"uid": "u-1"}
    (condition,) = patch["status"]["conditions"]
    assert (condition["type"], condition["status"]) == (MESHED_CONDITION, "True")
    assert condition["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    assert Due("demo", "api", "u-1", False).patch(0.0)["status"]["conditions"][0]["status"] == "False"


class Server:
    """An API server that answers as it is told to: with an error, or by taking it."""

    def __init__(self, *answers: ApiError | None) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.under_way = 0
        self.most = 0
        self._again = asyncio.Event()

    async def request(
        self,
        method: str,
        path: str,
        query: Query = NO_QUERY,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        content_type: str,
    ) -> bytes:
        assert (method, content_type) == ("PATCH", STRATEGIC_MERGE_PATCH)
        assert isinstance(body, dict)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.asked.append((path, body["status"]["conditions"][0]["status"]))
        self._again.set()
        answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer
        return b"{}"

    async def until_asked(self, times: int) -> None:
        while len(self.asked) < times:
            self._again.clear()
            await self._again.wait()


async def settled(conditions: Conditions) -> None:
    """Lets what was begun come to its end."""
    conditions.stir()
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "error", [Unreachable("nobody answers"), Refused(403, "Forbidden", "may not"), Refused(500, "", "no")]
)
async def test_what_is_not_taken_is_said_again_until_it_is_and_the_log_names_the_pod(
    error: ApiError, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(error, error)
    wanted = {Due("demo", "api", "u", True)}
    conditions = Conditions(server, lambda: wanted, chance=lambda: 0.0, clock=lambda: 0.0)
    task = spawn(conditions.run(), name="conditions")
    conditions.stir()
    await server.until_asked(3)
    await settled(conditions)
    task.cancel()
    assert server.asked == [("/api/v1/namespaces/demo/pods/api/status", "True")] * 3
    (record,) = caplog.records
    assert "demo/api: that it is meshed cannot be said in its object" in record.getMessage()
    assert str(error) in record.getMessage()


@pytest.mark.parametrize("error", [Refused(404, "NotFound", "gone"), Refused(409, "Conflict", "another uid"), None])
async def test_what_was_taken_or_is_about_nobody_any_more_is_not_said_again_before_the_catalog_knows(
    error: ApiError | None,
) -> None:
    server = Server(error)
    wanted = {Due("demo", "api", "u", True)}
    conditions = Conditions(server, lambda: wanted, chance=lambda: 0.0, clock=lambda: 0.0)
    task = spawn(conditions.run(), name="conditions")
    conditions.stir()
    await server.until_asked(1)
    await settled(conditions)
    assert len(server.asked) == 1
    wanted = set()
    await settled(conditions)
    wanted = {Due("demo", "api", "u", True)}  # somebody has taken it back in the object
    await settled(conditions)
    task.cancel()
    assert len(server.asked) == 2


async def test_of_two_hundred_pods_a_few_are_under_way_at_once_and_all_are_said() -> None:
    server = Server()
    wanted = {Due("demo", f"p{at}", "u", True) for at in range(200)}
    conditions = Conditions(server, lambda: wanted, chance=lambda: 0.0, clock=lambda: 0.0)
    task = spawn(conditions.run(), name="conditions")
    conditions.stir()
    await server.until_asked(200)
    task.cancel()
    assert len({path for path, _ in server.asked}) == 200
    assert 1 < server.most <= 8


def test_whoever_is_asked_whether_a_pod_is_captured_is_given_its_key() -> None:
    asked: list[PodKey] = []

    def captured(key: PodKey) -> bool:
        asked.append(key)
        return False

    due([pod("api")], captured, lambda _: False)
    assert asked == ["demo/api"]
