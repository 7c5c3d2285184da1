"""Namespaces that are remembered: pinned by a mount, found again as the very same ones, and let go of."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.capture.netns import NetnsId, identify, unpin
from agent.node.remembered import INDEX, Handed, Remembered
from agent.objects.key import PodKey
from init import netns

API, WEB = PodKey("demo/api"), PodKey("demo/web")


def new_namespace() -> int:
    """A descriptor of a network namespace that nobody is in."""
    opened: list[int] = []

    def make() -> None:
        netns.unshare()
        opened.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return opened.pop()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Nothing is mounted below it afterwards."""
    made = tmp_path / "namespaces"
    yield made
    for path in made.glob("[0-9]*"):
        unpin(path)


def keep(remembered: Remembered, key: PodKey, uid: str = "uid-1") -> NetnsId:
    """Remembers a new namespace, whose only descriptor is closed then: the pin alone holds it."""
    fd = new_namespace()
    remembered.keep(Handed(key, uid, fd))
    identity = identify(fd)
    os.close(fd)
    return identity


def load(directory: Path) -> dict[NetnsId, tuple[PodKey, str]]:
    """What an agent that starts finds."""
    found = Remembered(directory).load()
    kept = {identify(each.fd): (each.key, each.uid) for each in found}
    for each in found:
        os.close(each.fd)
    return kept


def pins(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("[0-9]*")}


def test_what_was_kept_is_found_again_though_nobody_else_holds_it(directory: Path) -> None:
    assert load(directory) == {}
    remembered = Remembered(directory)
    api, web = keep(remembered, API), keep(remembered, WEB, "")
    assert load(directory) == {api: (API, "uid-1"), web: (WEB, "")}
    assert directory.stat().st_mode & 0o777 == 0o700, "whoever could write there could enrol"
    remembered.forget(api)
    remembered.forget(api)
    assert load(directory) == {web: (WEB, "")}
    assert pins(directory) == {str(web.inode)}


def test_a_namespace_that_is_another_pods_now_is_pinned_once(directory: Path) -> None:
    remembered, fd = Remembered(directory), new_namespace()
    remembered.keep(Handed(API, "uid-1", fd))
    remembered.keep(Handed(API, "uid-2", fd))
    identity = identify(fd)
    os.close(fd)
    assert load(directory) == {identity: (API, "uid-2")}
    remembered.forget(identity)
    assert pins(directory) == set(), "one mount, which is gone"


def test_what_is_no_more_what_it_was_is_said_and_forgotten(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after the machine was started anew; or another one has the place."""
    remembered = Remembered(directory)
    api, web = keep(remembered, API), keep(remembered, WEB)
    unpin(directory / str(api.inode))
    index = directory / INDEX
    index.write_text(index.read_text().replace(f'"device":{web.device}', '"device":1'))
    assert load(directory) == {}
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("the namespace of demo/api is lost")
    assert said[1].startswith("the namespace of demo/web is another one now")
    assert pins(directory) == set(), "what nobody remembers is pinned no longer"
    assert index.read_text() == "[]"


@pytest.mark.parametrize("spoilt", [b"", b"{}", b'[{"pod":"demo/api"}]', b"\xff"])
def test_an_index_that_cannot_be_read_loses_its_pods_and_no_more(
    directory: Path, spoilt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    keep(Remembered(directory), API)
    (directory / INDEX).write_bytes(spoilt)
    assert load(directory) == {}
    assert "pods that their init steps enrolled must be enrolled again" in caplog.text
    web = keep(Remembered(directory), WEB)
    assert load(directory) == {web: (WEB, "uid-1")}


@pytest.mark.parametrize(
    ("remembered", "asked", "same"),
    [("uid-1", "uid-1", True), ("uid-1", "uid-2", False), ("", "uid-2", True), ("uid-1", "", True)],
)
def test_without_a_uid_the_name_decides(remembered: str, asked: str, same: bool) -> None:
    handed = Handed(API, remembered, -1)
    assert handed.is_for(API, asked) is same
    assert not handed.is_for(WEB, asked)
