"""The enrolment socket, /run/quietwire/agent.sock: init steps hand their pod's namespace over here.

The client sends one JSON line, `{"version":1,"op":"enrol","pod":"ns/name"|null}`, with the namespace's descriptor
beside it (SCM_RIGHTS), and reads JSON lines: `waiting` with a reason, as often as it changes, then `captured` or
`refused`. Mode 0600, and the peer's credentials (SO_PEERCRED, unix(7)) must be root's.
"""

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.tasks import spawn
from init.netns import is_netns

log = logging.getLogger("quietwire.enrolment")

MAX_REQUEST = 4096
REQUEST_SECONDS = 5.0
MAX_CLIENTS = 1024


class HandedOver:
    """One init step that waits for its pod. The descriptor stays the socket's."""

    def __init__(self, pod: str | None, netns_fd: int, send: Callable[[dict[str, str]], None]) -> None:
        self.pod = pod
        self.netns_fd = netns_fd
        self._send = send
        self.gone = False

    def waiting(self, reason: str) -> None:
        """Tells what is still missing."""
        self._send({"state": "waiting", "reason": reason})

    def captured(self, pod: str) -> None:
        """Tells that traffic is captured from now on."""
        self._send({"state": "captured", "pod": pod})

    def refused(self, reason: str) -> None:
        """Tells that it will not be."""
        self._send({"state": "refused", "reason": reason})


class EnrolmentSocket:
    """The listening end. `handler` ends when it has answered."""

    def __init__(self, path: Path, handler: Callable[[HandedOver], Awaitable[None]]) -> None:
        self._path = path
        self._handler = handler
        self._sock: socket.socket | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens; a socket that a dead agent left is replaced."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        former = os.umask(0o177)
        try:
            sock.bind(str(self._path))
        finally:
            os.umask(former)
        sock.listen(128)
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    async def close(self) -> None:
        """Stops listening, and ends those who wait."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._path.unlink(missing_ok=True)
        if self._clients:
            await asyncio.wait(self._clients, timeout=1.0)
        for task in self._clients:
            task.cancel()

    def _accept(self) -> None:
        if self._sock is None:
            return
        try:
            client, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        pid, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid() or len(self._clients) >= MAX_CLIENTS:
            log.warning("enrolment refused to process %d of user %d: not the agent's user, or too many wait", pid, uid)
            client.close()
            return
        task = spawn(self._serve(client), name=f"enrolment by process {pid}")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, client: socket.socket) -> None:
        with client:
            fds: list[int] = []
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    line = await _request(client, fds)
            except TimeoutError:
                line = b""
            try:
                await self._answer(client, line, fds)
            finally:
                for fd in fds:
                    os.close(fd)

    async def _answer(self, client: socket.socket, line: bytes, fds: list[int]) -> None:
        def send(answer: dict[str, str]) -> None:
            try:
                client.send(json.dumps(answer).encode() + b"\n")
            except OSError:
                handed.gone = True

        handed = HandedOver(None, fds[0] if fds else -1, send)
        try:
            request = json.loads(line)
            version, op, pod = request["version"], request["op"], request.get("pod")
        except (ValueError, KeyError, TypeError, AttributeError):
            handed.refused("the request is no JSON line with version, op and pod")
            return
        if version != 1 or op != "enrol" or not (pod is None or isinstance(pod, str)):
            handed.refused(f"this agent speaks version 1 and knows only enrol, not {op!r} of version {version!r}")
            return
        if len(fds) != 1:
            handed.refused(f"one descriptor, of the network namespace, must come with the request; {len(fds)} came")
            return
        if not is_netns(fds[0]):
            handed.refused("the descriptor that came with the request is no network namespace")
            return
        handed.pod = pod
        await self._handler(handed)


async def _request(client: socket.socket, fds: list[int]) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while b"\n" not in data and len(data) < MAX_REQUEST:
        readable = loop.create_future()
        loop.add_reader(client.fileno(), _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(client.fileno())
        chunk, more, _, _ = socket.recv_fds(client, MAX_REQUEST, 4, socket.MSG_CMSG_CLOEXEC)
        fds.extend(more)
        if not chunk:
            break
        data += chunk
    return bytes(data.partition(b"\n")[0])


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
