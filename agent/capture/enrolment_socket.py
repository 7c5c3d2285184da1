"""The enrolment socket, /run/quietwire/enrol/enrol.sock: init steps hand their pod's namespace over here.

The client sends one JSON line, `{"version":1,"op":"enrol","pod":"ns/name"|null}`, with the descriptor of the namespace
that it is in itself beside it (SCM_RIGHTS), and reads JSON lines: `waiting` with a reason, as often as it changes, then
`captured` or `refused`. More bytes, more descriptors or an end before that, and it gets nothing.

Pods' init steps reach it by its directory, mounted read-only: an agent that starts again makes another socket, and a
mount of the socket itself would lead to the former one for ever. Nothing else is in that directory.

Whoever reaches the socket is not believed: mode 0600, the kernel's word for user, process and namespace
(`agent.capture.caller`), and what ties the process to the pod is for the handler to judge (`agent.node.claim`).
Nothing that a client does may end the agent, or keep the other pods from being enrolled.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from agent.capture import caller as callers
from agent.capture import private_socket
from agent.capture.accepting import Listener, Told
from agent.capture.caller import Caller, CallerUnknown
from agent.capture.netns import identify
from agent.tasks import spawn
from init.netns import is_netns

log = logging.getLogger("quietwire.enrolment")

MAX_REQUEST = 4096
REQUEST_SECONDS = 5.0
"""How long a request may take to arrive."""
WAIT_SECONDS = 900.0
"""How long somebody may wait for being captured; then it is refused, and may ask again."""
MAX_CLIENTS = 1024
MAX_CLIENTS_OF_A_POD = 4
"""Of one pod, by its cgroup: an init step, and one that was started again before the first was noticed to be gone."""
MAX_CLIENTS_OF_A_PROCESS = 4
MAX_STRANGERS = 64
"""Of processes that are in no pod and do not administer the host: containers that the kubelet knows nothing of."""


class HandedOver:
    """One init step that waits for its pod. The descriptor stays the socket's."""

    def __init__(
        self,
        pod: str | None,
        caller: Caller,
        netns_fd: int,
        send: Callable[[dict[str, str]], None],
        tell: Callable[[str], None],
    ) -> None:
        self.pod = pod
        """Which pod it says that it is: a wish, and no proof."""
        self.caller = caller
        self.netns_fd = netns_fd
        """The namespace that `caller` is in itself."""
        self._send = send
        self._tell = tell

    def waiting(self, reason: str) -> None:
        """Tells what is still missing."""
        self._send({"state": "waiting", "reason": reason})

    def captured(self, pod: str) -> None:
        """Tells that traffic is captured from now on."""
        self._send({"state": "captured", "pod": pod})

    def refused(self, reason: str) -> None:
        """Tells that it will not be, and the log, at its rate: whoever is refused may ask as often as it likes."""
        self._tell(f"enrolment of {self.caller} refused: {reason}")
        self._send({"state": "refused", "reason": reason})


class _Gone(Exception):
    """The client is gone, or does not keep to the protocol."""


class EnrolmentSocket:
    """The listening end. `handler` ends when it has answered, and is cancelled when the client is gone."""

    def __init__(
        self,
        path: Path,
        handler: Callable[[HandedOver], Coroutine[object, object, None]],
        *,
        short: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._handler = handler
        self._short = short
        self._listener: Listener | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._held: Counter[str] = Counter()
        """How many clients each process, pod and kind has at the moment."""
        self._told = Told()

    def bind(self) -> socket.socket:
        """Makes the socket, on which nobody is heard yet. Raises OSError, with the file that it is about."""
        return private_socket.bind(self._path)

    def start(self, bound: socket.socket) -> None:
        """Listens on what `bind` made, which is ours from now on. Raises OSError."""
        bound.listen(128)
        self._listener = Listener(bound, self._take, name="the enrolment socket", told=self._told, short=self._short)

    async def close(self) -> None:
        """Stops listening, and ends those who wait."""
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):  # a dead agent leaves one too
                self._path.unlink()
        if self._clients:
            await asyncio.wait(self._clients, timeout=1.0)
        for task in self._clients:
            task.cancel()

    def _take(self, client: socket.socket) -> None:
        try:
            who = callers.identify(client)
            holds = _holds(who)
            if who.uid != os.geteuid():
                raise CallerUnknown(f"{who} is of user {who.uid}, and not of the agent's")
            if len(self._clients) >= MAX_CLIENTS:
                raise CallerUnknown(f"{who} is one too many: {MAX_CLIENTS} wait")
            for name, limit in holds.items():
                if self._held[name] >= limit:
                    raise CallerUnknown(f"{who} is one too many: {limit} of {name} wait")
        except CallerUnknown as error:
            self._tell(f"enrolment refused: {error}")
            _send(client, {"state": "refused", "reason": str(error)})
            client.close()
            return
        self._held.update(holds.keys())
        task = spawn(self._serve(client, who), name=f"enrolment by process {who.pid}")
        self._clients.add(task)
        task.add_done_callback(lambda task: self._done(task, holds))

    def _done(self, task: asyncio.Task[None], holds: dict[str, int]) -> None:
        self._clients.discard(task)
        self._held.subtract(holds.keys())
        for name in holds:
            if not self._held[name]:
                del self._held[name]

    def _tell(self, words: str) -> None:
        untold = self._told.may("turned away", asyncio.get_running_loop().time())
        if untold is not None:
            log.warning("%s%s", words, f" (and {untold} before that were not logged)" if untold else "")

    async def _serve(self, client: socket.socket, who: Caller) -> None:
        fds: list[int] = []
        with client:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    line = await _request(client, fds)
                await self._answer(client, who, line, fds)
            except (TimeoutError, _Gone, OSError) as error:
                reason = str(error) or f"no request came in {REQUEST_SECONDS:g} s"
                self._tell(f"enrolment of {who} ended: {reason}")
                _send(client, {"state": "refused", "reason": reason})
            finally:
                for fd in fds:
                    os.close(fd)

    async def _answer(self, client: socket.socket, who: Caller, line: bytes, fds: list[int]) -> None:
        """Raises _Gone when the client hangs up, or speaks again."""
        handed = HandedOver(None, who, fds[0] if fds else -1, partial(_send, client), self._tell)
        try:
            request = json.loads(line)
            version, op, pod = request["version"], request["op"], request.get("pod")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            handed.refused("the request is no JSON line with version, op and pod")
            return
        if version != 1 or op != "enrol" or not (pod is None or isinstance(pod, str)):
            handed.refused(f"this agent speaks version 1 and knows only enrol, not {op!r} of version {version!r}")
            return
        if not fds:
            handed.refused("the descriptor of the network namespace must come with the request; none did")
            return
        if not is_netns(fds[0]):
            handed.refused("the descriptor that came with the request is no network namespace")
            return
        if identify(fds[0]) != who.netns:
            handed.refused(
                f"the namespace that came with the request is not the one that {who} itself is in: run the init step "
                f"in the pod's own namespace, or with --netns, and with SYS_ADMIN"
            )
            return
        handed.pod = pod
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._until_gone(client, handed)
        except TimeoutError:
            handed.refused(f"it was not captured in {WAIT_SECONDS:g} s; ask again")

    async def _until_gone(self, client: socket.socket, handed: HandedOver) -> None:
        """Runs the handler. Raises _Gone, and ends it, when the client hangs up or sends more than one request."""
        handler = spawn(self._handler(handed), name=f"enrolment of {handed.pod or 'a pod'}")
        more = spawn(_readable(client), name="enrolment's client")
        try:
            await asyncio.wait({handler, more}, return_when=asyncio.FIRST_COMPLETED)
            if not handler.done():
                raise _Gone("it hung up, or sent more than one request, before it was captured")
            await handler
        finally:
            for task in (handler, more):
                task.cancel()
            await asyncio.wait({handler, more})


def _holds(who: Caller) -> dict[str, int]:
    """Of what a client takes a place, and how many places there are."""
    holds = {str(who): MAX_CLIENTS_OF_A_PROCESS}
    if who.pod_uid is not None:
        holds[f"pod {who.pod_uid}"] = MAX_CLIENTS_OF_A_POD
    elif not who.administers:
        holds["strangers"] = MAX_STRANGERS
    return holds


async def _request(client: socket.socket, fds: list[int]) -> bytes:
    """One line, with at most one descriptor. Raises _Gone for anything else."""
    data = bytearray()
    while b"\n" not in data:
        if len(data) >= MAX_REQUEST:
            raise _Gone(f"its request is longer than {MAX_REQUEST} bytes")
        await _readable(client)
        chunk, more, flags, _ = socket.recv_fds(client, MAX_REQUEST, 1, socket.MSG_CMSG_CLOEXEC)
        fds.extend(more)
        if len(fds) > 1 or flags & socket.MSG_CTRUNC:
            raise _Gone("more descriptors came with its request than one, or than the agent can take")
        if not chunk:
            raise _Gone("it hung up before its request was there")
        data += chunk
    line, _, rest = bytes(data).partition(b"\n")
    if rest:
        raise _Gone("more than one line came")
    return line


def _send(client: socket.socket, answer: dict[str, str]) -> None:
    """Sends what the kernel takes at once. Whoever reads nothing is hung up on, which whoever waits for it sees."""
    try:
        client.send(json.dumps(answer).encode() + b"\n")
    except OSError:
        with contextlib.suppress(OSError):  # it is gone already
            client.shutdown(socket.SHUT_RDWR)


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(client.fileno(), _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(client.fileno())


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
