"""Which processes of a pod may do what capture cannot hold: those that have NET_RAW or NET_ADMIN over its namespace.

NET_ADMIN may take the rules away. NET_RAW may send frames and packets that no socket of the kernel's made (packet(7),
raw(7)). docs/threat-model.md says what follows.
"""

import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NET_ADMIN, NET_RAW = "NET_ADMIN", "NET_RAW"
CAPABILITIES = {NET_ADMIN: 12, NET_RAW: 13}
"""Bits of a set of capabilities, linux/capability.h."""
PROCESSES = 32768
"""How many are looked at."""
NAMED = 8
"""How many are named of one pod."""
NS_GET_USERNS = 0xB701
"""linux/nsfs.h: the user namespace that a namespace belongs to."""
INITIAL_USER_NAMESPACE = 0xEFFFFFFD
"""PROC_USER_INIT_INO of the kernel's linux/proc_ns.h: its capabilities count in every namespace."""

_STATUS = re.compile(rb"^Name:\t(.*)\n(?:.*\n)*?CapPrm:\t([0-9a-f]+)$", re.MULTILINE)


class Holder(NamedTuple):
    """A process, the user namespace in which its capabilities count, and those of the two that it has."""

    pid: int
    name: str
    user_namespace: int
    capabilities: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}, {' and '.join(self.capabilities)})"


def holders(proc: Path = Path("/proc")) -> dict[int, list[Holder]]:
    """The processes that there are now which have one of the two capabilities, by the inode of their network namespace.

    Advice, and no guard: what ends meanwhile, or cannot be looked at, is left out.
    """
    found: dict[int, list[Holder]] = {}
    pids = sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    for pid in pids[:PROCESSES]:
        if pid == os.getpid():
            continue
        try:
            status = _STATUS.search((proc / str(pid) / "status").read_bytes())
            if status is None:
                continue
            permitted = int(status[2], 16)
            has = tuple(name for name, bit in CAPABILITIES.items() if permitted >> bit & 1)
            if has:
                network, user = (os.stat(proc / str(pid) / "ns" / kind).st_ino for kind in ("net", "user"))
                name = status[1].decode(errors="replace")
                found.setdefault(network, []).append(Holder(pid, name, user, has))
        except OSError:
            continue  # it has ended, or may not be looked at: it is not named, and capture is none the worse for that
    return found


class Named(NamedTuple):
    """Processes of one namespace in words, some of them; and which of both capabilities any of them has."""

    words: list[str]
    capabilities: list[str]


def named_in(netns_fds: Sequence[int]) -> list[Named]:
    """Those of each namespace. Looks at every process of the machine once: 60 µs for one."""
    found = holders()
    return [named(found.get(os.fstat(fd).st_ino, []), fd) for fd in netns_fds]


def named(here: list[Holder], netns_fd: int) -> Named:
    """Those whose capabilities count in a namespace, and how many there are besides those that are named.

    Who has NET_ADMIN comes first. Whoever has made a user namespace of its own has all capabilities there, and none
    over a network namespace that it did not make.
    """
    owner = _owner(netns_fd)
    counting = [each for each in here if owner is None or each.user_namespace in {owner, INITIAL_USER_NAMESPACE}]
    counting.sort(key=lambda each: NET_ADMIN not in each.capabilities)
    words = [str(holder) for holder in counting[:NAMED]]
    if len(counting) > NAMED:
        words.append(f"{len(counting) - NAMED} more")
    return Named(words, sorted({each for holder in counting for each in holder.capabilities}))


def _owner(netns_fd: int) -> int | None:
    """The inode of the user namespace that it belongs to; None where that is not told: then everybody's count."""
    try:
        fd = fcntl.ioctl(netns_fd, NS_GET_USERNS)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)
