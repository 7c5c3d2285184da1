"""The socket on which the runtime's program asks: root's alone, one question a connection, few at once, briefly.

It is not the enrolment socket, which pods have: whoever reaches this one is believed about which pod a namespace is of,
for it is what made the namespace.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.capture import private_socket
from agent.capture.accepting import Listener, Told
from agent.cni.request import MAX_BYTES, SUPPORTED, CniError, Code, Request, answer, error, parse
from agent.tasks import spawn

log = logging.getLogger("quietwire.cni")

REQUEST_SECONDS = 5.0
"""How long a question may take to arrive, and its answer to be read."""
MAX_CLIENTS = 1024
"""More than a kubelet starts pods at once; each more is told to try again."""
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""


class CniSocket:
    """The listening end. `handler` gives what the plugin prints; it raises CniError."""

    def __init__(
        self,
        path: Path,
        handler: Callable[[Request], Awaitable[bytes]],
        *,
        short: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._handler = handler
        self._short = short
        self._listener: Listener | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._told = Told()

    def bind(self) -> socket.socket:
        """Makes the socket, on which nobody is heard yet. Raises OSError, with the file that it is about."""
        return private_socket.bind(self._path)

    def start(self, bound: socket.socket) -> None:
        """Listens on what `bind` made, which is ours from now on. Raises OSError."""
        bound.listen(128)
        self._listener = Listener(bound, self._take, name="the CNI socket", told=self._told, short=self._short)

    async def close(self) -> None:
        """Stops listening; whoever waits gets no answer, and asks the next agent."""
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):  # a dead agent leaves one too
                self._path.unlink()
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    def _take(self, client: socket.socket) -> None:
        try:
            pid, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError as fault:
            self._tell(f"a question by CNI was not answered, for nobody knows whose it is: {fault.strerror}")
            client.close()
            return
        if uid != os.geteuid() or len(self._clients) >= MAX_CLIENTS:
            why = f"of user {uid}" if uid != os.geteuid() else f"one too many: {MAX_CLIENTS} wait"
            self._tell(f"a question by CNI was not answered: process {pid} is {why}")
            client.close()
            return
        task = spawn(self._serve(client), name=f"CNI of process {pid}")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    def _tell(self, words: str) -> None:
        untold = self._told.may("turned away", asyncio.get_running_loop().time())
        if untold is not None:
            log.warning("%s%s", words, f" (and {untold} before that were not logged)" if untold else "")

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        version = SUPPORTED[-1]
        with client:
            try:
                try:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        data = await _whole(client)
                    request = parse(data)
                    version = request.version
                    said = answer(0, await self._handler(request))
                except CniError as fault:
                    said = answer(1, error(fault, version))
                async with asyncio.timeout(REQUEST_SECONDS):
                    await loop.sock_sendall(client, said)
            except (TimeoutError, OSError) as fault:
                why = str(fault) or "it did not come, or its answer was not read, in time"
                self._tell(f"a question by CNI was not answered: {why}")


async def _whole(client: socket.socket) -> bytes:
    """All that somebody sends until he sends no more. Raises OSError, CniError."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while chunk := await loop.sock_recv(client, 65536):
        data += chunk
        if len(data) > MAX_BYTES + 65536:
            raise CniError(Code.UNDECODABLE, f"the question is longer than {MAX_BYTES} bytes")
    return bytes(data)
