"""Network namespaces: how one is named, told from another, and entered.

No loop thread ever enters a namespace. `NetnsThread` is one dedicated thread per process that goes, does one
small thing, and always returns home; a thread that cannot return home would make sockets in the wrong pod, so
the process ends instead.
"""

import ctypes
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
log = logging.getLogger("quietwire.capture")

RUN_NETNS = Path("/run/netns")
NSFS_MAGIC = 0x6E736673
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class NetnsError(Exception):
    """A namespace that cannot be used. `str` says which and why."""


class NetnsId(NamedTuple):
    """What a namespace is, whatever path led to it."""

    device: int
    inode: int


def path_of(name: str) -> Path:
    """The file behind the annotation `quietwire.io/netns`: a name below /run/netns, or an absolute path."""
    return Path(name) if name.startswith("/") else RUN_NETNS / name


def open_netns(name: str) -> int:
    """Opens a namespace and returns its descriptor. Raises NetnsError."""
    path = path_of(name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NetnsError(f"network namespace {path} does not exist (yet)") from None
    except OSError as error:
        raise NetnsError(f"network namespace {path} cannot be opened: {error.strerror}") from error
    try:
        check_is_netns(fd, str(path))
    except NetnsError:
        os.close(fd)
        raise
    return fd


def check_is_netns(fd: int, shown: str) -> None:
    """Raises NetnsError unless the descriptor is a network namespace (a file of nsfs named `net:[…]`)."""
    if not os.readlink(f"/proc/self/fd/{fd}").startswith("net:") and _filesystem(fd) != NSFS_MAGIC:
        # The file exists a moment before the mount onto it: `ip netns add` does the two in this order.
        raise NetnsError(f"{shown} is no network namespace (yet)")


def identify(fd: int) -> NetnsId:
    """The identity of an open namespace."""
    status = os.fstat(fd)
    return NetnsId(status.st_dev, status.st_ino)


def setns(fd: int) -> None:
    """Moves the calling thread into a network namespace. Raises OSError. os.setns exists from Python 3.12 on."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def holds_address(address: str) -> bool:
    """Whether the namespace of the calling thread has this address on an interface: only then can it be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def has_ipv6() -> bool:
    """Whether the namespace of the calling thread has IPv6 at all: ::1 can be bound."""
    return holds_address("::1")


def host_netns() -> NetnsId:
    """The namespace of the agent's main thread, which is never a pod's."""
    status = os.stat("/proc/self/ns/net")
    return NetnsId(status.st_dev, status.st_ino)


class NetnsThread:
    """The one thread of this process that enters namespaces. `run` is called on it, through the executor."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns")

    def run(self, fd: int, work: Callable[[], T]) -> T:
        """Enters the namespace `fd`, does the work, returns home. Call it on `executor` only."""
        setns(fd)
        try:
            return work()
        finally:
            try:
                setns(self._home)
            except OSError:
                log.critical("cannot return to the agent's own network namespace; ending", exc_info=True)
                os._exit(70)

    def close(self) -> None:
        """Ends the thread once its work is done."""
        self.executor.shutdown(wait=True)
        os.close(self._home)


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 256))


def _filesystem(fd: int) -> int:
    buffer = _Statfs()
    if _libc.fstatfs(fd, ctypes.byref(buffer)) != 0:
        return 0
    return int(buffer.f_type)
