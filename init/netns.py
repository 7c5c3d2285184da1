"""Network namespaces: opened by name, path or process, told apart by device and inode, entered."""

import ctypes
import fcntl
import os
import socket
import sys
from enum import Enum
from pathlib import Path

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
"""linux/nsfs.h"""
RUN_NETNS = Path("/run/netns")
FIRST_INODE = 0xEFFFFFF9
"""NET_NS_INIT_INO of linux/nsfs.h: fixed for the first namespace, and below all that are given to others."""
FIRST_COOKIE = 1
"""Cookies of namespaces are counted from the first; from Linux 6.18 on together with other kinds of namespaces."""
SO_NETNS_COOKIE = 71
"""asm-generic/socket.h"""

_libc = ctypes.CDLL(None, use_errno=True)


class NetnsError(Exception):
    """A namespace that cannot be used; `str` says which and why."""


def setns(fd: int) -> None:
    """Moves the calling thread into a network namespace. Raises OSError. os.setns exists from Python 3.12 on."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter(fd: int) -> None:
    """Moves the calling thread into a network namespace, unless it is there. Raises OSError.

    A pod's own init step is there, and may go nowhere: setns(2) wants SYS_ADMIN.
    """
    here, there = os.stat("/proc/thread-self/ns/net"), os.fstat(fd)
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        setns(fd)


def unshare() -> None:
    """Moves the calling thread into a new network namespace. Raises OSError."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def path_of(name: str) -> Path:
    """The file that a name below /run/netns, or a path, means."""
    return Path(name) if "/" in name else RUN_NETNS / name


def open_netns(name: str) -> int:
    """Opens a namespace by name or path and returns its descriptor. Raises NetnsError."""
    path = path_of(name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NetnsError(f"network namespace {path} does not exist (yet)") from None
    except OSError as error:
        raise NetnsError(f"network namespace {path} cannot be opened: {error.strerror}") from error
    if not is_netns(fd):
        os.close(fd)
        # `ip netns add` makes the file a moment before it mounts the namespace onto it.
        raise NetnsError(f"{path} is no network namespace (yet)")
    return fd


def is_netns(fd: int) -> bool:
    """Whether an open file is a network namespace (setns(2) would take it)."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:  # ENOTTY: no namespace at all. Whoever asks refuses what is none
        return False


class Whose(Enum):
    """Whose namespace one is, by all that tells of it. Only POD may be captured without being asked again."""

    POD = "a pod's"
    MACHINE = "the machine's own"
    UNKNOWN = "perhaps the machine's own"


def whose(fd: int, started_in: os.stat_result, proc: Path = Path("/proc")) -> Whose:
    """Whether this is the machine's own namespace, in which a pod's rules would capture the node.

    One sign that it is the machine's is enough: the kernel's own numbers for its first namespace (the inode, from
    Linux 6.18 on; the cookie, from 5.14 to 6.17), or that process 1 or the kernel's threads live in it. Processes count
    only where process 2 is kthreadd, as in the host's pid namespace only: seen from inside a container, a pod's
    namespace is that of its process 1.

    It is a pod's if the kernel could tell and nothing says otherwise. An error is no answer: where the cookie cannot be
    had, or process 1 cannot be looked at and this is where the caller was `started_in`, it is UNKNOWN.

    The calling thread must be in the namespace (`enter`): the cookie is that of a socket made here.
    """
    here = os.fstat(fd)
    cookie = _cookie_here()
    if here.st_ino == FIRST_INODE or cookie == FIRST_COOKIE:
        return Whose.MACHINE
    told = cookie is not None  # older than Linux 5.14: neither number says anything
    if sees_kernel_threads(proc):
        init, kthreadd = (_is_in(proc / process, here) for process in ("1", "2"))
        if init or kthreadd:
            return Whose.MACHINE
        if init is None and os.path.samestat(here, started_in):
            return Whose.UNKNOWN
        told = told or init is not None
    return Whose.POD if told else Whose.UNKNOWN


def _is_in(process: Path, here: os.stat_result) -> bool | None:
    """Whether a process is in a namespace; None where we may not look (SYS_PTRACE), which is not the answer no."""
    try:
        return os.path.samestat(os.stat(process / "ns/net"), here)
    except OSError:
        return None


def _cookie_here() -> int | None:
    """The number of the calling thread's namespace (SO_NETNS_COOKIE, socket(7)); None: this kernel does not say."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError:
        return None


def sees_kernel_threads(proc: Path) -> bool:
    """Whether process 2 is kthreadd. Where it cannot be read, there is no such sign; `whose` needs another one then."""
    try:
        return "kthreadd" in (proc / "2/comm").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
