"""Links and FIFOs where the agent's own files are: nothing is written, mounted or unmounted behind them.

Only root can lay them there. What is behind one is read, if it is what it must be, and the file is made anew.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.lab.mesh import MeshError
from tests.netns.test_catalog import asks
from tests.netns.test_handed_over import handed_over, pins
from tests.netns.world import Echo, World

PORT = 7000
OTHERS = "others' text, and long enough to be missed"


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """Another's file system, with a file in it."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "quietwire-test", str(directory)], check=True)
    try:
        (directory / "file").write_text(OTHERS)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def others(tmp_path: Path, name: str) -> Path:
    """Another's file."""
    path = tmp_path / name
    path.write_text(OTHERS)
    path.chmod(0o640)
    return path


def untouched(path: Path) -> bool:
    """Whether another's file is as it was."""
    return path.read_text() == OTHERS and path.stat().st_mode & 0o777 == 0o640


def test_links_in_the_run_and_state_directories_lead_nowhere(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(workers=1)
    client, late = handed_over(world)
    echo = Echo(world, late, PORT)
    world.mesh.stop()
    run, state = world.mesh.directory / "run", world.mesh.directory / "state"
    index, last_good = run / "namespaces" / "index.json", state / "last-good.msgpack"
    theirs = {name: others(tmp_path, name) for name in ("socket", "last-good", "pin")}
    last_good.rename(tmp_path / "kept")
    last_good.symlink_to(theirs["last-good"])
    (run / "enrol" / "enrol.sock").symlink_to(theirs["socket"])
    (run / "namespaces" / "8").symlink_to(theirs["pin"])
    index.rename(tmp_path / "index")
    index.symlink_to(tmp_path / "index")
    before = (tmp_path / "index").read_bytes()
    with mounted(tmp_path / "theirs") as directory:
        (run / "namespaces" / "7").symlink_to(directory)
        world.start()
        assert asks(world, client, late.ipv4) == b"hello", "what was handed over is known from behind the link"
        assert (directory / "file").read_text() == OTHERS, "it is mounted still"
    assert [path for path in theirs.values() if not untouched(path)] == []
    assert len(pins(world)) == 1
    world.withdraw(late)
    world.until(lambda: not last_good.is_symlink(), "what is in force is written, to a file of its own")
    assert untouched(theirs["last-good"])
    assert not index.is_symlink()
    assert (tmp_path / "index").read_bytes() == before
    echo.close()


def test_a_fifo_in_the_place_of_what_was_last_good_is_said_and_not_waited_for(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    world.pod("pod")
    last_good = world.mesh.directory / "state" / "last-good.msgpack"
    last_good.parent.mkdir(mode=0o700)
    os.mkfifo(last_good)
    world.start()
    assert f"{last_good} cannot be used ([Errno 22] it is no regular file" in world.mesh.last_words(100)
    assert world.ready()["ready"]
    assert last_good.is_file()


@pytest.mark.parametrize("name", ["lock", "enrol"])
def test_a_link_in_the_place_of_the_lock_or_of_the_sockets_directory_is_refused(
    make_world: Callable[..., World], tmp_path: Path, name: str
) -> None:
    world = make_world(workers=1)
    world.pod("pod")
    run = world.mesh.directory / "run"
    run.mkdir()
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MeshError):
        world.start()
    assert world.mesh.last_words(1).startswith(f"quietwire: --run-dir, {run}, cannot be used: ")
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_the_place_of_what_was_handed_over_is_said_and_nothing_is_pinned_behind_it(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(workers=1)
    handed_over(world)
    world.mesh.stop()
    world.mesh.forget_namespaces()
    directory, elsewhere = world.mesh.directory / "run" / "namespaces", tmp_path / "elsewhere"
    directory.rename(tmp_path / "former")
    elsewhere.mkdir()
    (elsewhere / "7").write_text(OTHERS)
    directory.symlink_to(elsewhere)
    (world.mesh.manifests / "pod-late.yaml").unlink()
    world.start()
    assert "what init steps handed over before cannot be read" in world.mesh.last_words(100)
    assert [path.name for path in elsewhere.iterdir()] == ["7"]
    assert (elsewhere / "7").read_text() == OTHERS
