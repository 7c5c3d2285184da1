"""Network namespaces: how one is told from another, and visited by a process that has other things to do.

A visit is for one small thing that does not block, and always ends at home: a thread that cannot return home would
make sockets in the wrong pod, so the process ends instead. A worker visits on its loop's own thread, 4 µs for the two
system calls: a second thread that makes sockets fights it for the interpreter's lock, which cost thirteen futex calls
and a third of the CPU of a connection. What may block (`NetnsThread`) has a thread of its own.
"""

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
