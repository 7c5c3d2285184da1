"""Namespaces that were handed over: whose each is, for how long it is kept, and that no descriptor stays open."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from agent.capture import netns
from agent.capture.netns import NetnsId
from agent.node.left import Left
from agent.node.namespaces import Namespaces
from agent.node.remembered import Handed, Remembered
from agent.objects.key import PodKey
from agent.objects.model import Pod
from init.netns import NetnsError
from tests.node.places import Places, pod

API = pod("api", uid="uid-1")
REPLACED = pod("api", uid="uid-2")


class Fake:
    """What is remembered, and who lives where."""

    def __init__(self, directory: Path) -> None:
        self.places = Places(directory)
        self.loads: list[Handed] | OSError = []
        self.kept: dict[NetnsId, tuple[PodKey, str]] = {}
        self.short: OSError | None = None
        self.living: dict[NetnsId, str] = {}
        self.namespaces = Namespaces(cast("Remembered", self), self.places.visits)
        self.left = cast("Left", self)

    def load(self) -> list[Handed]:
        if isinstance(self.loads, OSError):
            raise self.loads
        return self.loads

    def keep(self, handed: Handed) -> None:
        if self.short is not None:
            raise self.short
        self.kept[netns.identify(handed.fd)] = (handed.key, handed.uid)

    def forget(self, identity: NetnsId) -> None:
        if self.short is not None:
            raise self.short
        self.kept.pop(identity, None)

    async def somebody_in(self, fd: int, _number: int) -> str | None:
        return self.living.get(netns.identify(fd))

    async def put(self, name: str, given: Pod = API) -> str | None:
        """An init step gives a namespace, and closes its own descriptor."""
        fd = self.places.open(name)
        try:
            return await self.namespaces.put(given, fd, self.left)
        finally:
            os.close(fd)

    async def restarted(self, name: str, given: Pod = API) -> None:
        """The agent takes up what one before it remembered."""
        fd = self.places.open(name)
        self.loads = [Handed(given.key, given.uid, fd)]
        self.kept[netns.identify(fd)] = (API.key, API.uid)
        await self.namespaces.restore()

    def opened(self, given: Pod = API) -> NetnsId:
        """Which namespace is opened for a pod."""
        fd = self.namespaces.open(given)
        try:
            return netns.identify(fd)
        finally:
            os.close(fd)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    """With as many descriptors open afterwards as before."""
    before = os.listdir("/proc/self/fd")
    made = Fake(tmp_path)
    yield made
    made.namespaces.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_what_is_handed_over_is_opened_for_its_pod_until_it_is_enrolled_and_then_remembered(fake: Fake) -> None:
    assert API.key not in fake.namespaces
    assert await fake.put("one") is None
    assert API.key in fake.namespaces
    assert fake.opened() == fake.places.identity("one")
    assert fake.kept == {}
    fd = fake.namespaces.open(API)
    await fake.namespaces.enrolled(API, fd)
    os.close(fd)
    assert fake.kept == {fake.places.identity("one"): (API.key, "uid-1")}
    with pytest.raises(NetnsError, match="no network namespace is known for it"):
        fake.namespaces.open(API)


async def test_a_second_namespace_for_a_pod_waits_and_the_same_one_may_come_again(fake: Fake) -> None:
    assert await fake.put("one") is None
    assert await fake.put("one") is None
    said = "another namespace was handed over for demo/api a moment ago"
    assert await fake.put("two") == said
    assert await fake.put("one", REPLACED) == said, "the pod of that name is another one"
    fake.namespaces.drop_others({API.key: "uid-2"})
    assert await fake.put("two", REPLACED) is None
    fake.namespaces.drop_others({API.key: "uid-2"})
    assert fake.opened(REPLACED) == fake.places.identity("two")


async def test_what_its_maker_deletes_is_let_go_of_and_another_may_take_its_place(fake: Fake) -> None:
    assert await fake.put("one") is None
    fake.namespaces.delete(NetnsId(0, 1))
    assert API.key in fake.namespaces
    fake.namespaces.delete(fake.places.identity("one"))
    assert API.key not in fake.namespaces
    assert await fake.put("two") is None


async def test_one_from_before_a_restart_is_its_pods_and_no_other_ones(fake: Fake) -> None:
    await fake.restarted("one")
    assert API.key in fake.namespaces
    assert fake.namespaces.handed(API.key) is None
    assert fake.opened() == fake.places.identity("one")
    assert fake.namespaces.of(REPLACED) is None
    with pytest.raises(NetnsError):
        fake.namespaces.open(REPLACED)
    found = fake.namespaces.of(API)
    assert found is not None
    assert netns.identify(found[0]) == fake.places.identity("one")
    os.close(found[0])


async def test_a_pod_gets_no_second_namespace_while_somebody_lives_in_the_one_from_before(fake: Fake) -> None:
    """Else whoever has its address could take its name over."""
    await fake.restarted("one")
    fake.living = {fake.places.identity("one"): "process 4711 (nginx)"}
    assert await fake.put("two") == (
        "demo/api has another namespace since before a restart, in which process 4711 (nginx) still lives"
    )
    assert await fake.put("one") is None, "its own may come again"
    fake.namespaces.drop(API.key)
    fake.living = {}
    assert await fake.put("two") is None
    assert fake.opened() == fake.places.identity("two")
    assert fake.kept == {}, "the one from before is let go of"


async def test_what_is_of_no_pod_is_kept_while_somebody_lives_there(fake: Fake) -> None:
    await fake.restarted("one")
    fake.living = {fake.places.identity("one"): "process 4711 (nginx)"}
    await fake.namespaces.clear(fake.left)
    assert API.key in fake.namespaces
    fake.living = {}
    await fake.namespaces.clear(fake.left)
    assert API.key not in fake.namespaces
    assert fake.kept == {}


async def test_one_from_before_that_is_enrolled_waits_no_longer(fake: Fake) -> None:
    await fake.restarted("one")
    fd = fake.namespaces.open(API)
    await fake.namespaces.enrolled(API, fd)
    os.close(fd)
    assert API.key not in fake.namespaces
    assert fake.places.identity("one") in fake.kept


async def test_a_namespace_that_the_manifest_names_is_not_remembered(fake: Fake) -> None:
    fd = fake.places.open("one")
    await fake.namespaces.enrolled(pod("api", uid="uid-1", annotated="api"), fd)
    os.close(fd)
    assert fake.kept == {}


async def test_a_disk_that_fails_is_said_and_ends_nothing(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    fake.loads = PermissionError(13, "Permission denied")
    await fake.namespaces.restore()
    assert "what init steps handed over before cannot be read" in caplog.text
    fake.short = OSError(28, "No space left on device")
    assert await fake.put("one") is None
    fd = fake.namespaces.open(API)
    await fake.namespaces.enrolled(API, fd)
    os.close(fd)
    assert "demo/api is served, but its namespace cannot be remembered" in caplog.text
    await fake.namespaces.forget(fake.places.identity("one"))
    assert "a namespace could not be let go of" in caplog.text
