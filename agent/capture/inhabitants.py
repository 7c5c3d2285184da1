"""Who lives in a network namespace: the processes, and threads, that are in it.

`/proc/<pid>/ns/net` would say so too, but only to who may trace the process (ptrace(2), PTRACE_MODE_READ). What
`/proc/<pid>/net` shows is each namespace's own, with inodes of its own, and anybody may ask for those
(proc_pid_net(5)).
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from init.netns import sees_kernel_threads

PROC = Path("/proc")
_INODE = 9
"""The field of a line of /proc/net/tcp."""
_UNKNOWN = "a process that cannot be seen"


def number_here() -> int:
    """What tells the calling thread's namespace from others for as long as it lives. Raises OSError."""
    return os.stat("/proc/thread-self/net/tcp").st_ino


def holds_connections(proc: Path = PROC) -> bool:
    """Whether somebody, wherever he lives, has a TCP socket in the calling thread's namespace that listens or talks.

    A process may leave for a namespace of its own making (unshare(2), without any capability) and keep its sockets, or
    give them away. What the kernel only winds up is nobody's: it has no inode (proc_pid_net(5)). True where it cannot
    be told.
    """
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "thread-self/net" / name).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6
        except OSError:
            return True
        if any(line.split()[_INODE] != "0" for line in lines):
            return True
    return False


def inhabitants(numbers: Collection[int], *, ours: Collection[int] = (), proc: Path = PROC) -> dict[int, str]:
    """For each namespace (`number_here`) in which somebody lives, one who does: `process 4711 (nginx)`.

    Processes in `ours` only visit. Where it cannot be told, each is taken for inhabited: whoever asks would take its
    rules away.
    """
    if not numbers:
        return {}
    if not sees_kernel_threads(proc):  # not the host's pid namespace: pods' processes are in others
        return dict.fromkeys(numbers, _UNKNOWN)
    found: dict[int, str] = {}
    for pid in _numbers(proc):
        if pid in ours:
            continue
        for tid in _numbers(proc / str(pid) / "task"):
            try:
                number = os.stat(proc / str(pid) / "task" / str(tid) / "net/tcp").st_ino
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            except OSError:
                return dict.fromkeys(numbers, f"process {pid}, which cannot be looked at,")
            if number in numbers and number not in found:
                found[number] = _name(proc, pid)
    return found


def _numbers(directory: Path) -> Iterator[int]:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended
    yield from (int(name) for name in names if name.isdigit())


def _name(proc: Path, pid: int) -> str:
    try:
        name = (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "ended"
    return f"process {pid} ({name})"
