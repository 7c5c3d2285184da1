"""Who leaves the mesh, and what stays of it: rules go only where nobody lives any more, or where a manifest says so."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from agent.capture.netns import NetnsId
from agent.node.enrolled import Enrolled
from agent.node.left import Left
from agent.node.roster import Roster
from agent.node.rules import Rules
from agent.objects.key import PodKey
from tests.node.places import Places
from tests.node.workers import quiet_workers


class Watch:
    """The rules' watch."""

    def __init__(self, done: list[tuple[str, object]]) -> None:
        self._done = done

    def remove(self, key: PodKey) -> None:
        self._done.append(("unwatch", key))


class Node:
    """Two pods, in namespaces 1 and 2; what is done to whom is noted."""

    def __init__(self, directory: Path) -> None:
        self.places, self.roster = Places(directory), Roster()
        self.done: list[tuple[str, object]] = []
        self.watch = Watch(self.done)
        self.places.living = {}
        self.api, self.web = self.places.enrolled("api", 1), self.places.enrolled("web", 2)
        for each in (self.api, self.web):
            each.ruled = True
            self.roster.pods[each.key] = each
        self.left = Left(
            self.roster,
            self.places.visits,
            cast("Rules", self),
            quiet_workers(1),
            release=self._release,
            forget=self._forget,
        )

    async def _release(self, enrolled: Enrolled, reason: str) -> None:
        self.done.append(("release", reason))

    async def _forget(self, identity: NetnsId) -> None:
        self.done.append(("forget", identity))

    async def remove(self, pods: Sequence[Enrolled]) -> None:
        """The rules of those."""
        self.done.append(("remove", [each.key for each in pods]))

    def take(self) -> list[tuple[str, object]]:
        """What was done since this was asked last."""
        done = list(self.done)
        self.done.clear()
        return done


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.roster.close()


GONE = "its manifest is gone"
AT_FIRST = [("unwatch", "demo/api"), ("release", f"demo/api left the mesh: {GONE}")]


async def test_an_empty_namespace_loses_its_rules_and_is_forgotten(node: Node) -> None:
    await node.left.let_go([node.api], GONE)
    assert node.take() == [*AT_FIRST, ("remove", ["demo/api"]), ("forget", node.api.identity)]
    assert node.roster.all == [node.web]
    assert not node.places.is_open(node.api.fd, "api")


@pytest.mark.parametrize("by", ["a process", "a socket"])
async def test_whoever_lives_on_keeps_its_rules_until_it_ends(
    node: Node, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    if by == "a process":
        node.places.living = {1: "process 4711 (nginx)"}
    else:
        node.places.found = {node.api.identity: True}
    await node.left.let_go([node.api], GONE)
    assert node.take() == [*AT_FIRST, ("remove", [])]
    assert node.roster.is_left(node.api)
    assert node.api not in node.roster
    assert node.api.ruled, "its rules are repaired as anybody's"
    who = "process 4711 (nginx)" if by == "a process" else "somebody who has left it, and has sockets in it,"
    assert f"but {who} still lives in its namespace: its rules stay" in caplog.text
    await node.left.clear()
    assert node.take() == [("remove", [])]
    node.places.living, node.places.found = {}, {}
    await node.left.clear()
    assert node.take() == [("remove", ["demo/api"]), ("forget", node.api.identity)]
    assert node.roster.all == [node.web]


async def test_a_manifest_that_says_so_takes_the_rules_though_somebody_lives(node: Node) -> None:
    node.places.living = {1: "process 4711 (nginx)"}
    await node.left.let_go([node.api], GONE, strip=True)
    assert ("remove", ["demo/api"]) in node.take()
    assert not node.roster.left


async def test_one_that_is_enrolled_again_while_it_is_cleared_keeps_its_rules(node: Node) -> None:
    """Its namespace is looked at; when that is done, it is a pod's again."""
    node.places.living = {1: "process 4711 (nginx)"}
    await node.left.let_go([node.api], GONE)
    node.take()
    node.places.living = {}

    def enrolled_again() -> None:
        node.roster.left.pop(node.api.identity, None)
        node.roster.pods[node.api.key] = node.api

    node.places.meanwhile = enrolled_again
    await node.left.clear()
    assert node.take() == [("remove", [])]
    assert node.places.is_open(node.api.fd, "api")


async def test_the_agents_own_listeners_are_nobody_who_lives_there(node: Node) -> None:
    node.places.found = {node.api.identity: True}
    node.api.listeners.append({})
    assert await node.left.inhabitant(node.api) is None
    node.api.listeners.clear()
    assert await node.left.inhabitant(node.api) is not None
