"""Files and directories of our own, whatever lies in their place."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from init.on_disk import make_private, read, replace, without_waiting

ROOT = Path(__file__).parent.parent.parent
WRITES = re.compile(r"O_CREAT|\.write_(?:text|bytes)\(|\bopen\([^)]*[\"'][wax]b?\+?[\"']|\.touch\(")
WRITERS = {
    "agent/authority/ledger.py": "SQLite's own file, which may lie behind a link; a new one needs its mode first",
    "agent/authority/directory.py": "a lock, which is refused where it is a link; nothing is written there",
    "agent/capture/netns.py": "what a namespace is mounted on: made anew, or refused",
    "agent/cli/work/authority/minting.py": "where an operator wants it: made anew, or refused",
    "agent/node/start.py": "a lock, which is refused where it is a link; nothing is written there",
    "init/agent_mark.py": "a key that the first one draws: made anew, and put in its place by link(2)",
    "init/kernel.py": "sysctls",
    "init/on_disk.py": "this is it",
    "init/xtables.py": "iptables' own lock; nothing is written there",
}
"""Who makes files in another way, and why that cannot write through a link."""


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("lies_there", ["nothing", "a file", "a link to another's file", "a link to nothing"])
def test_a_file_is_replaced_and_never_written_through(tmp_path: Path, lies_there: str, *, durable: bool) -> None:
    """Whoever may write to the directory would else choose which file of the host is overwritten."""
    path, others = tmp_path / "run" / "memory.json", tmp_path / "others"
    path.parent.mkdir()
    others.write_text("others'")
    match lies_there:
        case "a file":
            path.write_text("former")
        case "a link to another's file":
            path.symlink_to(others)
        case "a link to nothing":
            path.symlink_to(tmp_path / "nothing")
    replace(path, b"new", durable=durable)
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert others.read_text() == "others'"
    assert sorted(each.name for each in path.parent.iterdir()) == ["memory.json"]
    assert not (tmp_path / "nothing").exists()


def test_the_temporary_name_is_no_way_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tmp_path / "others"
    others.write_text("others'")
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / ".memory.json.7").symlink_to(others)
    replace(tmp_path / "memory.json", b"new")
    assert others.read_text() == "others'"


def test_what_cannot_be_put_in_its_place_names_the_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "memory.json" / "something").mkdir(parents=True)
    with pytest.raises(OSError, match=r"directory: '.*/memory\.json'"):
        replace(tmp_path / "memory.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]


def test_nothing_else_in_the_project_makes_files_of_its_own() -> None:
    """But for a lab's, and those of a demonstration."""
    found = {
        str(path.relative_to(ROOT))
        for top in ("agent", "init")
        for path in (ROOT / top).rglob("*.py")
        if WRITES.search(path.read_text(encoding="utf-8"))
    }
    assert {each for each in found if not each.startswith(("agent/lab/", "agent/cli/demo/"))} == set(WRITERS)


def test_a_file_is_read_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "link") == b"content"
    assert read(tmp_path / "file", 7) == b"content"
    with pytest.raises(OSError, match="more than 6 bytes"):
        read(tmp_path / "file", 6)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "it is no regular file"),
        (Path.mkdir, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (_socket, "No such device or address"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.symlink_to("nothing"), "No such file"),
    ],
)
def test_what_is_no_file_is_an_error_at_once_and_costs_no_descriptor(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "path")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=words):
        read(tmp_path / "path")
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_opens_a_fifo_does_not_wait_for_whoever_writes_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "fifo", "rb", opener=without_waiting) as file:
        assert file.read() == b""


def test_a_directory_of_ours_is_closed_to_others(tmp_path: Path) -> None:
    directory = tmp_path / "enrol"
    make_private(directory)
    directory.chmod(0o777)
    make_private(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("wrong", ["a link", "a link to nothing", "a file"])
def test_what_is_no_directory_of_ours_is_refused(tmp_path: Path, wrong: str) -> None:
    directory, elsewhere = tmp_path / "enrol", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if wrong == "a file":
        directory.touch()
    else:
        directory.symlink_to(elsewhere if wrong == "a link" else "nothing")
    with pytest.raises(OSError, match="enrol"):
        make_private(directory)
    assert elsewhere.stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "nothing").exists()
