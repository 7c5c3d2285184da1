"""Ready-made sockets of one pod, so that a connection costs no trip to the namespace thread.

A socket belongs to the namespace it was made in. Making one there from the loop would mean a hop to
`NetnsThread` and back for every connection; instead the thread makes a handful ahead.
"""

import asyncio
import socket
from collections import deque

from agent.capture.netns import NetnsThread
from agent.capture.sockets import dialling_socket
from agent.tasks import spawn

FIRST_BATCH = 4
LARGEST_BATCH = 64
"""Most sockets that wait per pod and family; reached only by pods that dial that often."""


class SocketPool:
    """Dialling sockets of one pod and family. Fills itself on first use; each shortage doubles the batch."""

    def __init__(self, thread: NetnsThread, netns_fd: int, family: int) -> None:
        self._thread = thread
        self._netns_fd = netns_fd
        self._family = family
        self._ready: deque[socket.socket] = deque()
        self._batch = FIRST_BATCH
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self) -> socket.socket:
        """A socket for one connection; the caller closes it. Raises OSError, ConnectionAbortedError when closed."""
        while not self._ready:
            if self._closed:
                raise ConnectionAbortedError("the pod has left the mesh")
            if self._filling is None:
                self._batch = min(self._batch * 2, LARGEST_BATCH)
            await asyncio.shield(self._fill())
        sock = self._ready.popleft()
        if len(self._ready) < self._batch // 4:
            self._fill()
        return sock

    def _fill(self) -> asyncio.Task[None]:
        if self._filling is None:
            self._filling = spawn(self._make(self._batch), name="socket pool")
        return self._filling

    async def _make(self, count: int) -> None:
        try:
            made = await asyncio.get_running_loop().run_in_executor(
                self._thread.executor, self._thread.run, self._netns_fd, lambda: self._make_here(count)
            )
        finally:
            self._filling = None
        if self._closed:
            for sock in made:
                sock.close()
        else:
            self._ready.extend(made)

    def _make_here(self, count: int) -> list[socket.socket]:
        made: list[socket.socket] = []
        try:
            while len(made) < count:
                made.append(dialling_socket(self._family))
        except OSError:
            if not made:  # out of descriptors: what there is, is given out; with none, the caller learns why
                raise
        return made

    def close(self) -> None:
        """Closes what waits; sockets given out are their takers'."""
        self._closed = True
        while self._ready:
            self._ready.popleft().close()
