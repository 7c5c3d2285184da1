"""Whose a namespace is: what cannot be told is never taken for a pod's."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from init import netns
from init.netns import Whose, is_netns, whose


@pytest.fixture
def here() -> Iterator[int]:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield fd
    os.close(fd)


class Proc:
    """A /proc that says what a test wants: process 2's name, and which namespaces processes 1 and 2 are in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for process in ("1", "2"):
            (path / process / "ns").mkdir(parents=True)

    def second_is(self, name: str) -> None:
        (self.path / "2/comm").write_text(f"{name}\n")

    def lives_in(self, process: int, where: str) -> None:
        """A link to nowhere stands for one that we may not look at."""
        link = self.path / str(process) / "ns/net"
        link.unlink(missing_ok=True)
        link.symlink_to(where)


HERE, ELSEWHERE, UNSEEN = "/proc/self/ns/net", "/proc/self/ns/uts", "/nowhere"


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's numbers say that this is not its first namespace: what is asked of is not where the tests run."""
    monkeypatch.setattr(netns, "FIRST_INODE", -1)
    monkeypatch.setattr(netns, "FIRST_COOKIE", -1)


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(
    ("second", "one_in", "two_in", "own", "answer"),
    [
        ("kthreadd", HERE, HERE, True, Whose.MACHINE),
        ("kthreadd", HERE, UNSEEN, False, Whose.MACHINE),
        ("kthreadd", UNSEEN, HERE, False, Whose.MACHINE),
        ("kthreadd", ELSEWHERE, HERE, True, Whose.MACHINE),
        ("kthreadd", ELSEWHERE, ELSEWHERE, True, Whose.POD),
        ("kthreadd", ELSEWHERE, UNSEEN, True, Whose.POD),
        ("kthreadd", UNSEEN, ELSEWHERE, True, Whose.UNKNOWN),
        ("kthreadd", UNSEEN, UNSEEN, True, Whose.UNKNOWN),
        ("kthreadd", UNSEEN, UNSEEN, False, Whose.POD),
        ("pause", HERE, HERE, True, Whose.POD),
        ("pause", UNSEEN, UNSEEN, True, Whose.POD),
    ],
)
def test_processes_tell_on_a_host_and_what_cannot_be_seen_is_no_answer(
    tmp_path: Path, here: int, second: str, one_in: str, two_in: str, own: bool, answer: Whose
) -> None:
    proc = Proc(tmp_path)
    proc.second_is(second)
    proc.lives_in(1, one_in)
    proc.lives_in(2, two_in)
    started_in = os.stat(HERE if own else ELSEWHERE)
    assert whose(here, started_in, proc.path) is answer


@pytest.mark.parametrize("number", ["FIRST_INODE", "FIRST_COOKIE"])
@pytest.mark.usefixtures("numbers")
def test_the_kernels_own_number_for_its_first_namespace_is_enough_whoever_is_seen(
    tmp_path: Path, here: int, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container on the host's network sees neither kernel threads nor the host's process 1."""
    proc = Proc(tmp_path)
    proc.second_is("pause")
    proc.lives_in(1, HERE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 71, 8), "little")
    monkeypatch.setattr(netns, number, {"FIRST_INODE": os.fstat(here).st_ino, "FIRST_COOKIE": cookie}[number])
    assert whose(here, os.stat(ELSEWHERE), proc.path) is Whose.MACHINE


@pytest.mark.usefixtures("numbers")
def test_where_the_kernel_numbers_nothing_a_container_cannot_tell(
    tmp_path: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "SO_NETNS_COOKIE", 9999)
    proc = Proc(tmp_path)
    proc.second_is("pause")
    proc.lives_in(1, HERE)
    assert whose(here, os.stat(ELSEWHERE), proc.path) is Whose.UNKNOWN
    (tmp_path / "2/comm").unlink()
    assert whose(here, os.stat(ELSEWHERE), proc.path) is Whose.UNKNOWN


def test_only_network_namespaces_are_taken_for_one() -> None:
    for path, expected in (("/proc/self/ns/net", True), ("/proc/self/ns/uts", False), ("/etc/hostname", False)):
        fd = os.open(path, os.O_RDONLY)
        try:
            assert is_netns(fd) is expected
        finally:
            os.close(fd)
