"""Links on the way to a manifest: each is followed, live, or is a fault; none is silence."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from asyncinotify import Inotify

from agent.catalog.sources.files import directory, links
from agent.catalog.sources.files.links import MAX_LINKS, Watches, entries
from agent.tasks import spawn
from tests.catalog.sources.files.test_directory import POD, Source, until


class Linked(Source):
    """A directory of manifests in which `a.yaml` comes from elsewhere."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "manifests").mkdir()
        super().__init__(top / "manifests")

    def pod(self, path: str, name: str) -> Path:
        """Writes a pod's manifest at a path below the top, in one rename."""
        target = self.top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        new.write_text(f"kind: Pod\nmetadata: {{name: {name}}}\n")
        new.rename(target)
        return target

    def link(self, path: str, target: str | Path) -> None:
        """Makes a link below the top lead there, in one rename."""
        new = self.top / f"{path}.new-link"
        new.symlink_to(target)
        new.rename(self.top / path)


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return Linked(tmp_path)


@pytest.fixture
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen is seen by events alone."""
    monkeypatch.setattr(directory, "POLL_SECONDS", 3600.0)


class Following:
    """Starts and ends the following of a source."""

    def __init__(self, source: Source) -> None:
        self._task = spawn(source.source.run(), name="the one under test")

    async def end(self) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


async def following(source: Source) -> Following:
    """Once it is watched: the first look of `run` is published, and the second is an event's."""
    source.load()
    started = Following(source)
    await appears(source, "zz-started")
    return started


async def appears(source: Source, name: str) -> None:
    source.write(f"{name}.yaml", f"kind: Pod\nmetadata: {{name: {name}}}\n")
    async with asyncio.timeout(10):
        while f"default/{name}" not in source.pods:
            source.changed.clear()
            await source.changed.wait()
    (source.directory / f"{name}.yaml").unlink()
    async with asyncio.timeout(10):
        while f"default/{name}" in source.pods:
            source.changed.clear()
            await source.changed.wait()


async def until_fault(source: Source, words: str) -> None:
    async with asyncio.timeout(10):
        while not any(words in fault.reason for fault in source.faults):
            source.changed.clear()
            await source.changed.wait()


Change = Callable[[Linked], None]


def in_place(linked: Linked) -> None:
    (linked.top / "there/policy.yaml").write_text("kind: Pod\nmetadata: {name: two}\n")


def by_rename(linked: Linked) -> None:
    linked.pod("there/policy.yaml", "two")


def the_link(linked: Linked) -> None:
    linked.pod("elsewhere/policy.yaml", "two")
    linked.link("manifests/a.yaml", "../elsewhere/policy.yaml")


def gone_and_back(linked: Linked) -> None:
    (linked.top / "there/policy.yaml").unlink()
    (linked.top / "there/policy.yaml").write_text("kind: Pod\nmetadata: {name: two}\n")


@pytest.mark.usefixtures("unpolled")
@pytest.mark.parametrize("change", [in_place, by_rename, the_link, gone_and_back])
@pytest.mark.parametrize("absolute", [True, False])
async def test_a_change_of_what_a_link_leads_to_is_followed(linked: Linked, change: Change, absolute: bool) -> None:
    target = linked.pod("there/policy.yaml", "one")
    linked.link("manifests/a.yaml", target if absolute else "../there/policy.yaml")
    task = await following(linked)
    assert linked.pods == ["default/one"]
    change(linked)
    await until(linked, ["default/two"])
    assert linked.faults == ()
    await task.end()


@pytest.mark.usefixtures("unpolled")
@pytest.mark.parametrize("which", ["first", "dir/second", "third"])
async def test_every_link_of_a_chain_is_followed_even_one_that_is_a_directory_on_the_way(
    linked: Linked, which: str
) -> None:
    for name in ("one", "two"):
        linked.pod(f"{name}/dir/policy.yaml", name)
    (linked.top / "dir").mkdir()
    linked.link("third", "one")
    linked.link("dir/second", "../third/dir/policy.yaml")
    linked.link("first", "dir/second")
    linked.link("manifests/a.yaml", "../first")
    task = await following(linked)
    assert linked.pods == ["default/one"]
    linked.link(which, {"first": "two/dir/policy.yaml", "dir/second": "../two/dir/policy.yaml", "third": "two"}[which])
    await until(linked, ["default/two"])
    (linked.top / "two/dir/policy.yaml").write_text("kind: Pod\nmetadata: {name: three}\n")
    await until(linked, ["default/three"])
    await task.end()


@pytest.mark.usefixtures("unpolled")
async def test_a_directory_of_manifests_that_is_a_link_is_followed_to_another(linked: Linked) -> None:
    for name in ("one", "two"):
        linked.pod(f"releases/{name}/a.yaml", name)
    linked.link("current", "releases/one")
    source = Source(linked.top / "current")
    task = await following(source)
    linked.link("current", "releases/two")
    await until(source, ["default/two"])
    linked.pod("releases/two/b.yaml", "three")
    await until(source, ["default/two", "default/three"])
    await task.end()


@pytest.mark.usefixtures("unpolled")
async def test_the_directory_that_a_link_leads_into_is_renamed(linked: Linked) -> None:
    target = linked.pod("there/policy.yaml", "one")
    linked.link("manifests/a.yaml", target)
    task = await following(linked)
    os.rename(linked.top / "there", linked.top / "away")
    await until_fault(linked, "is a link to nothing")
    assert linked.pods == ["default/one"], "what it said stays in force"
    assert linked.faults[0].last_good
    await task.end()


# -- what no event tells --


def a_directory_high_above(linked: Linked) -> None:
    linked.pod("other/b/c/policy.yaml", "two")
    os.rename(linked.top / "a", linked.top / "away")
    os.rename(linked.top / "other", linked.top / "a")


def another_name_of_the_file(linked: Linked) -> None:
    (linked.top / "hard.yaml").write_text("kind: Pod\nmetadata: {name: two}\n")


@pytest.mark.parametrize("change", [a_directory_high_above, another_name_of_the_file])
async def test_what_no_event_tells_is_seen_by_a_look_at_signatures(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    monkeypatch.setattr(directory, "POLL_SECONDS", 0.05)
    target = linked.pod("a/b/c/policy.yaml", "one")
    os.link(target, linked.top / "hard.yaml")
    linked.link("manifests/a.yaml", target)
    task = await following(linked)
    change(linked)
    await until(linked, ["default/two"])
    assert linked.faults == ()
    await task.end()


async def test_what_cannot_be_watched_is_seen_by_a_look_at_signatures_and_is_said(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(directory, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(links, "MAX_WATCHED", 0)
    linked.link("manifests/a.yaml", linked.pod("there/policy.yaml", "one"))
    task = await following(linked)
    linked.pod("there/policy.yaml", "two")
    await until(linked, ["default/two"])
    assert [each.getMessage() for each in caplog.records if "links of manifests" in each.getMessage()] == [
        "not all links of manifests are watched (more than 0 directories): changes there are seen a second later"
    ]
    await task.end()


async def test_the_whole_directory_of_manifests_is_replaced_from_high_above(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(directory, "RETRY_SECONDS", 0.05)
    for top, name in (("a", "one"), ("other", "two")):
        linked.pod(f"{top}/manifests/a.yaml", name)
    source = Source(linked.top / "a" / "manifests")
    task = await following(source)
    os.rename(linked.top / "a", linked.top / "away")
    os.rename(linked.top / "other", linked.top / "a")
    await until(source, ["default/two"])
    linked.pod("a/manifests/b.yaml", "three")
    await until(source, ["default/two", "default/three"])
    await task.end()


async def test_a_directory_that_cannot_be_watched_is_said_once_however_often_it_is_tried(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(directory, "RETRY_SECONDS", 0.01)
    tried = asyncio.Event()
    tries = 0

    class Refusing(Inotify):
        def __init__(self) -> None:
            nonlocal tries
            tries += 1
            if tries == 5:
                tried.set()
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(directory, "Inotify", Refusing)
    linked.link("manifests/a.yaml", linked.pod("there/policy.yaml", "one"))
    task = Following(linked)
    async with asyncio.timeout(10):
        await tried.wait()
    linked.pod("there/policy.yaml", "two")
    await until(linked, ["default/two"])
    assert [each.getMessage() for each in caplog.records if "cannot be watched" in each.getMessage()] == [
        f"{linked.directory} cannot be watched ([Errno 24] Too many open files): it is read every second"
    ]
    await task.end()


# -- what leads nowhere --


def test_a_link_to_nothing_that_led_somewhere_keeps_what_it_said(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = linked.pod("there/policy.yaml", "one")
    linked.link("manifests/a.yaml", target)
    linked.load()
    target.unlink()
    linked.load()
    assert (linked.pods, linked.faults) == (["default/one"], ()), "for a moment that is no fault"
    monkeypatch.setattr(directory, "PATIENCE_SECONDS", 0)
    linked.load()
    (fault,) = linked.faults
    assert (fault.origin.file, fault.last_good) == ("a.yaml", True)
    assert "is a link to nothing" in fault.reason
    assert linked.pods == ["default/one"]
    linked.pod("there/policy.yaml", "two")
    linked.load()
    assert (linked.pods, linked.faults) == (["default/two"], ())
    (linked.directory / "a.yaml").unlink()
    linked.load()
    assert (linked.pods, linked.faults) == ([], ()), "a link that is gone itself takes what it said with it"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("../nowhere.yaml", "is a link to nothing"),
        ("a.yaml", "cannot be read: Too many levels of symbolic links"),
        ("b.yaml", "cannot be read: Too many levels of symbolic links"),
        (".", "is no regular file"),
        ("/dev/null", "is no regular file"),
        ("../top.yaml/below", "cannot be read: Not a directory"),
    ],
)
def test_a_link_that_leads_to_no_manifest_is_a_fault(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    monkeypatch.setattr(directory, "PATIENCE_SECONDS", 0)
    linked.pod("top.yaml", "top")
    linked.link("manifests/a.yaml", target)
    (linked.directory / "b.yaml").symlink_to("a.yaml")
    (linked.directory / "good.yaml").write_text("kind: Pod\nmetadata: {name: good}\n")
    linked.load()
    assert linked.pods == ["default/good"]
    assert [fault.origin.file for fault in linked.faults] == ["a.yaml", "b.yaml"]
    assert words in linked.faults[0].reason
    loaded = directory.load([linked.directory])
    assert len(loaded.faults) == 2


async def test_a_link_to_nothing_becomes_a_fault_by_itself_and_is_mended_by_what_comes_there(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(directory, "POLL_SECONDS", 3600.0)
    target = linked.pod("there/policy.yaml", "one")
    linked.link("manifests/a.yaml", target)
    task = await following(linked)
    target.unlink()
    await until_fault(linked, "is a link to nothing")
    linked.pod("there/policy.yaml", "two")
    await until(linked, ["default/two"])
    assert linked.faults == ()
    await task.end()


# -- the walk, and the watches --


def test_the_walk_names_every_link_and_where_it_ends(tmp_path: Path) -> None:
    top = str(tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").touch()
    (tmp_path / "up").symlink_to("dir/../dir")
    (tmp_path / "first").symlink_to(f"{top}/up/./file")
    (tmp_path / "lost").symlink_to("dir/none/below")
    (tmp_path / "loop").symlink_to("loop")
    assert entries(f"{top}/dir/file") == [(f"{top}/dir", "file")]
    assert entries(f"{top}/first") == [(top, "first"), (top, "up"), (f"{top}/dir", "file")]
    assert entries(f"{top}/lost") == [(top, "lost"), (f"{top}/dir", "none")]
    assert entries(f"{top}/loop") == [(top, "loop")] * (MAX_LINKS + 1)


@pytest.fixture
async def watches(tmp_path: Path) -> AsyncIterator[tuple[Inotify, Watches]]:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "there").mkdir()
    with Inotify() as inotify:
        yield inotify, Watches(inotify, str(tmp_path / "manifests"))


async def test_of_other_directories_only_what_names_a_manifest_matters(
    tmp_path: Path, watches: tuple[Inotify, Watches]
) -> None:
    inotify, watched = watches
    there = tmp_path / "there"
    watched.follow([(str(there), "policy.yaml"), (str(tmp_path / "manifests"), "a.yaml")])
    for path in (there / "noise", there / "policy.yaml", tmp_path / "manifests" / "any"):
        path.touch()
    found: list[tuple[str, bool, bool]] = []
    async with asyncio.timeout(10):
        while len(found) < 3 or found[-1][0] != "any":
            event = await inotify.get()
            found.append((str(event.name), watched.concerns(event), watched.ended(event)))
    assert set(found) == {("noise", False, False), ("policy.yaml", True, False), ("any", True, False)}


async def test_a_directory_that_goes_matters_and_only_that_of_the_manifests_ends_the_following(
    tmp_path: Path, watches: tuple[Inotify, Watches]
) -> None:
    inotify, watched = watches
    watched.follow([(str(tmp_path / "there"), "policy.yaml")])
    shutil.rmtree(tmp_path / "there")
    async with asyncio.timeout(10):
        event = await inotify.get()
        assert (watched.concerns(event), watched.ended(event)) == (True, False)
        watched.follow([(str(tmp_path / "there"), "policy.yaml")])
        (tmp_path / "manifests").rmdir()
        while not watched.ended(event):
            event = await inotify.get()


def test_a_pod_is_still_read_through_a_link(linked: Linked) -> None:
    linked.write("../there.yaml", POD)
    linked.link("manifests/a.yaml", "../there.yaml")
    assert linked.load().pods == ["demo/web"]
