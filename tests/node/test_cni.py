"""What the runtime is answered: only a pod that is captured starts, or one that need not be."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from agent.capture.netns import NetnsId, identify
from agent.cni.request import CniError, Code, Request, parse
from agent.kubernetes.errors import ApiError, Unreachable
from agent.node import cni
from agent.node.cni import CniService
from agent.node.enrolment import Enrolment
from agent.objects.key import PodKey
from agent.objects.model import MeshSettings, Pod
from tests.cni.asked import configuration, environment, frame
from tests.node.places import pod

API = msgspec.structs.replace(pod("api", uid="u-1"), ips=())
OWN = "/proc/self/ns/net"
ADDRESS = "192.0.2.7"


def unmeshed(api: Pod = API) -> Pod:
    return msgspec.structs.replace(api, settings=MeshSettings(injected=False))


def asked(command: str, *, netns: str = OWN, previous: bool = True) -> Request:
    given = configuration(f"{ADDRESS}/24") if previous else configuration()
    return parse(frame(environment(command, netns=netns), given))


class Node:
    """What an agent knows of one node; each look at what is missing is one step of what `then` has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cni, "LOOK_SECONDS", 0)
        self.known: Pod | None = API
        self.api: Pod | ApiError | None = API
        self.asked = 0
        self.holds = True
        self.problem: str | None = None
        self.lacks: str | None = None
        self.ready: str | None = None
        self.enrolled: NetnsId | None = None
        self.handed: list[Pod] = []
        self.deleted: list[NetnsId] = []
        self.rounds = 0
        self.then: list[Callable[[], object]] = []

    def service(self, *, host: bool = False) -> CniService:
        return CniService(
            cast("Enrolment", self),
            pod=self._pod,
            ask=None if host else self._ask,
            missing=self._missing,
            unready=lambda: self.ready,
            taken=self._taken,
        )

    def _pod(self, key: PodKey) -> Pod | None:
        assert key == "demo/api"
        if self.then:
            self.then.pop(0)()
        return self.known

    async def _ask(self, key: PodKey) -> Pod | None:
        assert key == "demo/api"
        self.asked += 1
        if isinstance(self.api, ApiError):
            raise self.api
        return self.api

    def _missing(self, _: PodKey) -> str | None:
        return self.lacks

    def _taken(self) -> None:
        self.rounds += 1

    async def find(self, fd: int, pods: list[Pod]) -> Pod | None:
        assert identify(fd) == identify_of(OWN)
        assert [each.ips for each in pods] == [(ADDRESS,)]
        return pods[0] if self.holds else None

    async def hand_over(self, given: Pod, fd: int) -> str | None:
        if self.problem is None:
            self.handed.append(given)
            self.enrolled = identify(fd)
        return self.problem

    def serves(self, _: PodKey, identity: NetnsId) -> bool:
        return self.enrolled == identity

    def delete(self, identity: NetnsId) -> bool:
        self.deleted.append(identity)
        return self.enrolled == identity


def identify_of(path: str) -> NetnsId:
    fd = os.open(path, os.O_RDONLY)
    try:
        return identify(fd)
    finally:
        os.close(fd)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4, "those of the loop"


def set_to(it: object, **fields: Any) -> Callable[[], None]:
    def work() -> None:
        for name, value in fields.items():
            setattr(it, name, value)

    return work


async def fails(node: Node, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> CniError:
    """What an ADD that cannot be is answered."""
    monkeypatch.setattr(cni, "ADD_SECONDS", 0.02)
    set_to(node, **fields)()
    with pytest.raises(CniError) as raised:
        await node.service().serve(asked("ADD"))
    return raised.value


async def test_a_pod_that_is_to_be_meshed_is_handed_over_and_starts_when_it_is_captured(node: Node) -> None:
    node.lacks = "its SVID has not come yet"
    node.then = [lambda: None, lambda: None, set_to(node, lacks=None)]
    request = asked("ADD")
    assert await node.service().serve(request) == request.previous
    assert [(each.key, each.uid, each.ips) for each in node.handed] == [("demo/api", "u-1", (ADDRESS,))]
    assert (node.asked, node.rounds) == (1, 1)


async def test_one_that_is_not_starts_at_once_and_nobody_touches_its_namespace(node: Node) -> None:
    node.api = unmeshed()
    request = asked("ADD", netns="/nowhere")
    assert await node.service().serve(request) == request.previous
    assert node.handed == []


async def test_a_container_of_no_pod_is_nobodys_concern(node: Node) -> None:
    request = parse(frame(environment("ADD", args=""), configuration(f"{ADDRESS}/24")))
    assert await node.service().serve(request) == request.previous
    assert node.asked == 0


async def test_what_the_api_server_says_counts_and_not_a_catalog_that_lags(node: Node) -> None:
    """It was annotated a moment ago: it waits until the catalog has heard of it."""
    node.known = unmeshed()
    node.then = [lambda: None, lambda: None, set_to(node, known=API)]
    await node.service().serve(asked("ADD"))
    assert len(node.handed) == 1


async def test_where_the_api_server_is_away_what_is_known_of_this_very_pod_counts(node: Node) -> None:
    node.api = Unreachable("away")
    await node.service().serve(asked("ADD"))
    assert len(node.handed) == 1
    node.handed.clear()
    node.known = unmeshed()
    await node.service().serve(asked("ADD"))
    assert node.handed == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"api": Unreachable("away"), "known": None}, "cannot be asked (away)"),
        ({"api": Unreachable("away"), "known": pod("api", uid="former")}, "cannot be asked (away)"),
        ({"api": Unreachable("away"), "known": unmeshed(pod("api", uid="former"))}, "cannot be asked (away)"),
        ({"api": None}, "there is no pod demo/api"),
        ({"api": unmeshed(pod("api", uid="another"))}, "UID another now"),
        ({"known": None}, "the catalog does not know yet"),
        ({"known": pod("api", uid="former")}, "the catalog does not know yet"),
        ({"known": unmeshed()}, "the catalog does not know yet"),
        ({"problem": "demo/api is enrolled elsewhere"}, "is enrolled elsewhere"),
        ({"lacks": "its rules are not in force yet"}, "its rules are not in force yet"),
    ],
    ids=str,
)
async def test_what_does_not_come_to_be_captured_does_not_start_and_is_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], words: str
) -> None:
    error = await fails(node, monkeypatch, **fields)
    assert error.code is Code.TRY_AGAIN
    assert words in error.details


async def test_an_agent_without_descriptors_takes_it_when_it_has_some_again(node: Node) -> None:
    def short() -> None:
        raise OSError(24, "Too many open files")

    node.then = [short]
    await node.service().serve(asked("ADD"))
    assert len(node.handed) == 1


async def test_a_plugin_that_does_not_come_last_is_told_so(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await fails(node, monkeypatch, holds=False)).code is Code.CONFIGURATION
    for service in (node.service(), node.service(host=True)):
        with pytest.raises(CniError, match="no prevResult"):
            await service.serve(asked("ADD", previous=False))


async def test_a_namespace_that_is_none_is_an_error_at_once(node: Node) -> None:
    with pytest.raises(CniError) as raised:
        await node.service().serve(asked("ADD", netns="/dev/null"))
    assert raised.value.code is Code.ENVIRONMENT


async def test_on_a_host_the_catalog_says_who_is_meshed(node: Node) -> None:
    node.known = None
    node.then = [lambda: None, set_to(node, known=API)]
    await node.service(host=True).serve(asked("ADD"))
    assert (len(node.handed), node.asked) == (1, 0)


async def test_a_check_finds_a_pod_that_is_not_captured(node: Node) -> None:
    service = node.service()
    node.enrolled = identify_of(OWN)
    assert await service.serve(asked("CHECK")) == b""
    for fields in ({"lacks": "its rules are gone"}, {"lacks": None, "enrolled": None}):
        set_to(node, **fields)()
        with pytest.raises(CniError) as raised:
            await service.serve(asked("CHECK"))
        assert raised.value.code is Code.NOT_CAPTURED
    node.api = unmeshed()
    assert await service.serve(asked("CHECK")) == b""
    node.api = None
    with pytest.raises(CniError) as raised:
        await service.serve(asked("CHECK"))
    assert raised.value.code is Code.TRY_AGAIN


async def test_what_is_deleted_is_let_go_of_again_and_again(node: Node) -> None:
    service = node.service()
    node.enrolled = identify_of(OWN)
    for netns in (OWN, OWN, "/nowhere", ""):
        assert await service.serve(asked("DEL", netns=netns)) == b""
    assert node.deleted == [identify_of(OWN)] * 2
    assert node.rounds == 2


async def test_status_says_whether_pods_are_taken_and_a_clean_up_has_nothing_to_do(node: Node) -> None:
    service = node.service()
    assert await service.serve(asked("STATUS")) == await service.serve(asked("GC")) == b""
    node.ready = "the trust bundle has not come yet"
    with pytest.raises(CniError) as raised:
        await service.serve(asked("STATUS"))
    assert (raised.value.code, raised.value.details) == (Code.NOT_AVAILABLE, "the trust bundle has not come yet")
