"""Network namespaces: how one is told from another, and visited by a process that has other things to do.

A visit is for one small thing that does not block, and always ends at home: a thread that cannot return home would
make sockets in the wrong pod, so the process ends instead. A worker visits on its loop's own thread, 4 µs for the two
system calls: a second thread that makes sockets fights it for the interpreter's lock, which cost thirteen futex calls
and a third of the CPU of a connection. What may block (`NetnsThread`) has a thread of its own.
"""

import ctypes
import errno
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from init.netns import setns

T = TypeVar("T")
log = logging.getLogger("quietwire.capture")


class NetnsId(NamedTuple):
    """What a namespace is, whatever path led to it."""

    device: int
    inode: int


def identify(fd: int) -> NetnsId:
    """The identity of an open namespace."""
    status = os.fstat(fd)
    return NetnsId(status.st_dev, status.st_ino)


def holds_address(address: str) -> bool:
    """Whether the namespace of the calling thread has this address on an interface: only then can it be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # whatever the reason: the pod waits, and is asked for again
            return False
    return True


def host_netns() -> NetnsId:
    """The namespace of the agent's main thread, which is never a pod's."""
    status = os.stat("/proc/self/ns/net")
    return NetnsId(status.st_dev, status.st_ino)


def stranded() -> NoReturn:
    """The calling thread cannot come home: ends the process."""
    log.critical("cannot return to the agent's own network namespace; ending")
    os._exit(70)


def open_home() -> int:
    """A descriptor of the namespace that the process is in."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def visit(fd: int, home: int, work: Callable[[], T]) -> T:
    """Enters the namespace `fd`, does the work, returns to the namespace `home`.

    Raises what setns(2) or the work raises.
    """
    setns(fd)
    try:
        return work()
    finally:
        try:
            setns(home)
        except OSError:
            stranded()


MS_BIND = 0x1000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
"""sys/mount.h"""

_libc = ctypes.CDLL(None, use_errno=True)


def pin(fd: int, path: Path) -> None:
    """Mounts a namespace onto a new file: it lives until `unpin`, and can be opened there. Raises OSError."""
    unpin(path)  # whatever lies there: a mount would go to where a link leads
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o000))
    if _libc.mount(f"/proc/self/fd/{fd}".encode(), os.fsencode(path), None, MS_BIND, None) != 0:
        number = ctypes.get_errno()
        path.unlink()
        raise OSError(number, os.strerror(number), str(path))


def unpin(path: Path) -> None:
    """Takes the mount and the file away, as far as they are there; of a link only itself. Raises OSError."""
    if _libc.umount2(os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOENT}:  # it is no mount (any more)
            raise OSError(number, os.strerror(number), str(path))
    path.unlink(missing_ok=True)


class NetnsThread:
    """One thread that visits namespaces. `run` is called on it, through the executor."""

    def __init__(self) -> None:
        self._home = open_home()
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns")

    def run(self, fd: int, work: Callable[[], T]) -> T:
        """Does the work in the namespace `fd`: see `visit`. Call it on `executor` only."""
        return visit(fd, self._home, work)

    def close(self) -> None:
        """Ends the thread once its work is done."""
        self.executor.shutdown(wait=True)
        os.close(self._home)
