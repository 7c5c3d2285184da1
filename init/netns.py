"""Network namespaces: opened by name, path or process, told apart by device and inode, entered."""

import ctypes
import fcntl
import os
from pathlib import Path

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
"""linux/nsfs.h"""

_libc = ctypes.CDLL(None, use_errno=True)


class NetnsError(Exception):
    """A namespace that cannot be used; `str` says which and why."""


def setns(fd: int) -> None:
    """Moves the calling thread into a network namespace. Raises OSError. os.setns exists from Python 3.12 on."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare() -> None:
    """Moves the calling thread into a new network namespace. Raises OSError."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def open_netns(*, netns: str | None, pid: int | None) -> int:
    """Opens what the flags name: a name below /run/netns, a path, a process; else the current namespace."""
    if netns is not None:
        path = Path(netns) if "/" in netns else Path("/run/netns") / netns
        hint = "`ip netns list` shows the names that there are"
    elif pid is not None:
        path, hint = Path(f"/proc/{pid}/ns/net"), "does the process still run, and are you root?"
    else:
        path, hint = Path("/proc/self/ns/net"), ""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetnsError(f"network namespace {path} cannot be opened: {error.strerror}; {hint}") from None
    if not is_netns(fd):
        os.close(fd)
        raise NetnsError(f"{path} is no network namespace; {hint}")
    return fd


def is_netns(fd: int) -> bool:
    """Whether an open file is a network namespace (setns(2) would take it)."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def is_host(fd: int) -> bool:
    """Whether this is the machine's own namespace, in which a pod's rules would capture the node.

    In a container process 1 is the container's own, and the answer rightly is no: seen from inside, the pod's
    namespace is process 1's. So the host is told by kernel threads: process 2 is kthreadd in the host's pid
    namespace only.
    """
    try:
        if "kthreadd" not in Path("/proc/2/comm").read_text(encoding="ascii"):
            return False
        host = os.stat("/proc/1/ns/net")
    except OSError:
        return False
    status = os.fstat(fd)
    return (host.st_dev, host.st_ino) == (status.st_dev, status.st_ino)
