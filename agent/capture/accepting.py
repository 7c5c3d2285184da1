"""Accepting connections, wherever the agent listens: so many in one wake-up, and no spin where descriptors run out.

A loop's own way (libuv's) takes a connection that it has no descriptor for with one kept in reserve and closes it,
again and again, and nobody hears of it. Here those who come wait in the kernel's queue, and are served a moment later.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from agent.capture import _sockets

log = logging.getLogger("quietwire.listener")

ACCEPTED_AT_ONCE = 16
"""Connections of one listener that are accepted before anything else has its turn."""
SHORTAGE_SECONDS = 0.5
"""How long nobody is accepted after descriptors or memory ran out."""
TOLD_SECONDS = 10.0
"""Least time between two lines in the log about one kind of shortage, whichever listeners have it."""
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What a process, or the machine, has too little of: perhaps soon not any more."""
_FAILED_BEFORE = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENETDOWN),
        *(errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET),
    }
)
"""What a connection had failed with before it was accepted: accept(2), "Error handling"."""
_ADVICE = {
    errno.EMFILE: "this process may open no more descriptors: raise its limit (LimitNOFILE= of its unit, ulimit -n)",
    errno.ENFILE: "this machine may open no more files: raise the sysctl fs.file-max, or find who holds them",
    errno.ENOBUFS: "this machine has no memory for sockets: see the sysctl net.ipv4.tcp_mem",
    errno.ENOMEM: "this machine, or this process's cgroup, has no memory left",
}


def advice(error: OSError) -> str:
    """What ran out, and what to do about it; else the kernel's words."""
    words = error.strerror or str(error)
    more = _ADVICE.get(error.errno or 0)
    return words if more is None else f"{words}: {more}"


class Told:
    """Bounds lines in the log: one in TOLD_SECONDS, with how many there would have been since. Time is the loop's."""

    def __init__(self) -> None:
        self._at: dict[object, float] = {}
        self._untold: dict[object, int] = {}

    def may(self, kind: object, now: float) -> int | None:
        """How many lines of this kind were not told since the last one; None: nor is this."""
        if now - self._at.get(kind, float("-inf")) < TOLD_SECONDS:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return None
        self._at[kind] = now
        return self._untold.pop(kind, 0)


class Listener:
    """Accepts for one listening socket, which is the listener's from now on, until `close`.

    `taken` gets each connection's socket, which does not block, and is its own from then on; `short` hears of each time
    that accepting stopped, for whoever counts it or can give descriptors back.
    """

    def __init__(
        self,
        sock: socket.socket,
        taken: Callable[[socket.socket], None],
        *,
        name: str,
        told: Told,
        short: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._taken = taken
        self._name = name
        self._told = told
        self._short = short
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._closed = False
        self._listen()

    @property
    def paused(self) -> bool:
        """Whether nobody is accepted for the moment."""
        return self._resume is not None

    def close(self) -> None:
        """Accepts nobody any more, and closes the socket: who waits is refused, if no other process has it too."""
        if self._closed:
            return
        self._closed = True
        if self._resume is not None:
            self._resume.cancel()
        else:
            self._loop.remove_reader(self.sock.fileno())
        self.sock.close()

    def _listen(self) -> None:
        self._resume = None
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def _accept(self) -> None:
        sock = self.sock
        for _ in range(ACCEPTED_AT_ONCE):
            if self._closed:
                return  # by who was taken
            try:
                fd = _sockets.accept(sock.fileno())
            except OSError as error:
                if error.errno in _FAILED_BEFORE:
                    continue
                self._pause(error)
                return
            if fd < 0:
                return
            self._taken(socket.socket(sock.family, sock.type | socket.SOCK_NONBLOCK, sock.proto, fd))

    def _pause(self, error: OSError) -> None:
        """Those who come wait in the kernel's queue. So with what is no shortage but a fault: nothing may spin."""
        self._loop.remove_reader(self.sock.fileno())
        self._resume = self._loop.call_later(SHORTAGE_SECONDS, self._listen)
        untold = self._told.may(error.errno, self._loop.time())
        if untold is not None:
            log.error(
                "%s: nobody is accepted for %g s, and who comes waits in the kernel's queue: %s%s",
                self._name,
                SHORTAGE_SECONDS,
                advice(error),
                f" (and {untold} times before that were not logged)" if untold else "",
            )
        self._short(error)
