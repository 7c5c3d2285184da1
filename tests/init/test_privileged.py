"""Processes that capture cannot hold are named, by what they may do over the pod's own namespace."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from init.privileged import INITIAL_USER_NAMESPACE, NAMED, Holder, holders, named

RAW, ADMIN = 1 << 13, 1 << 12


@pytest.fixture
def netns() -> Iterator[int]:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield fd
    os.close(fd)


def process(proc: Path, pid: int, name: str, permitted: int) -> None:
    """A process as proc(5) shows it, in namespaces that are files of a directory."""
    directory = proc / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "status").write_bytes(
        b"Name:\t%s\nUmask:\t0022\nCapInh:\t%016x\nCapPrm:\t%016x\nCapEff:\t%016x\nCapBnd:\t%016x\n"
        % (name.encode(), RAW, permitted, 0, RAW | ADMIN)
    )
    for kind in ("net", "user"):
        (proc / f"{kind}-of-{name}").touch()
        (directory / "ns" / kind).symlink_to(proc / f"{kind}-of-{name}")


def test_whoever_has_one_of_the_two_is_found_in_its_namespace(tmp_path: Path) -> None:
    for pid, name, permitted in ((7, "raw", RAW), (8, "both", RAW | ADMIN | 1), (9, "none", ~(RAW | ADMIN) & 0xFFFF)):
        process(tmp_path, pid, name, permitted)
    process(tmp_path, os.getpid(), "ourselves", RAW)
    (tmp_path / "10").mkdir()  # it has just ended
    (tmp_path / "self").mkdir()
    found = holders(tmp_path)
    inode = {
        name: (tmp_path / name).stat().st_ino for name in ("net-of-raw", "user-of-raw", "net-of-both", "user-of-both")
    }
    assert found == {
        inode["net-of-raw"]: [Holder(7, "raw", inode["user-of-raw"], ("NET_RAW",))],
        inode["net-of-both"]: [Holder(8, "both", inode["user-of-both"], ("NET_ADMIN", "NET_RAW"))],
    }


def test_only_those_whose_capabilities_count_there_are_named_and_only_some(netns: int) -> None:
    owner = os.stat("/proc/self/ns/user").st_ino
    mine = [Holder(pid, "app", owner, ("NET_RAW",)) for pid in range(NAMED + 3)]
    nodes = Holder(100, "node", INITIAL_USER_NAMESPACE, ("NET_ADMIN", "NET_RAW"))
    stranger = Holder(101, "rootless", 1, ("NET_ADMIN",))
    assert named([stranger, nodes], netns) == (["node (process 100, NET_ADMIN and NET_RAW)"], ["NET_ADMIN", "NET_RAW"])
    words, capabilities = named(mine, netns)
    assert (words[-1], len(words), capabilities) == ("3 more", NAMED + 1, ["NET_RAW"])
    assert named([*mine, nodes], netns).words[0].startswith("node"), "who may take the rules away is always named"
    assert named([stranger], netns) == ([], [])
