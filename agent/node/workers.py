"""The worker processes as the supervisor sees them: started, told everything, replaced when they die."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec

from agent.link import affinity_memory, messages, session_memory
from agent.link.channel import Channel, ChannelClosed
from agent.link.pulse import LOOK_SECONDS, Pulse
from agent.objects.key import PodKey
from agent.tasks import spawn

log = logging.getLogger("quietwire.supervisor")

RESTART_SECONDS = 0.1
RESTART_CAP_SECONDS = 10.0
"""A worker that dies is replaced at once; one that dies again and again, ever more slowly, up to this."""
STABLE_SECONDS = 30.0
"""After this long a worker's former deaths are forgotten."""
RELEASE_SECONDS = 5.0
"""How long a worker may take to let go of a pod."""
SCRAPE_SECONDS = 2.0
"""How long a worker may take to send its counters."""
SYNC_SECONDS = 10.0
"""How long a worker may take to carry out what it was sent."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "8388608", "MALLOC_TOP_PAD_": "1048576"}
"""glibc's malloc in a worker (mallopt(3)). By default each read of a quarter of a megabyte is given pages of its own by
the kernel, cleared and taken back: a third of the CPU of a bulk transfer. A worker keeps 8 MB at most for it."""


class Ending(StrEnum):
    """Why a worker had to be replaced; the value is the metric's label."""

    HUNG = "hung"
    """It said nothing any more, and was killed."""
    SIGNAL = "signal"
    """Somebody else killed it: the kernel, out of memory, or an operator. So after a fault on its channel."""
    EXIT = "exit"
    NOT_STARTED = "not_started"


_encoder = msgspec.msgpack.Encoder()


class WorkerHandle:
    """One place for a worker, and the process that fills it at the moment."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.incarnation = 0
        self.pid: int | None = None
        self.channel: Channel[messages.ToSupervisor] | None = None
        self.heard = False
        """Whether this incarnation has said anything since somebody looked."""
        self.listening: set[PodKey] = set()
        """Pods that this incarnation listens for."""
        self.refused: dict[PodKey, str] = {}
        """Why this incarnation does not serve a pod."""


class Workers:
    """All workers of one agent.

    `greet` gives what a new worker must be told before anything else, in order; `changed` is called when a pod's
    state in a worker has changed; `counted` with each set of counters.
    """

    def __init__(
        self,
        count: int,
        *,
        node: str,
        log_format: str,
        log_level: str,
        greet: Callable[[WorkerHandle], Iterable[tuple[msgspec.Struct, tuple[int, ...]]]],
        changed: Callable[[], None],
        counted: Callable[[WorkerHandle, messages.Counts], None],
    ) -> None:
        self.handles = [WorkerHandle(index) for index in range(count)]
        self.restarts: Counter[Ending] = Counter()
        self.session_memory = -1
        """Descriptor: see there. What was negotiated outlives the worker that did."""
        self.affinity_memory = -1
        """The same of who went where."""
        self._node = node
        self._log_flags = ["--log-format", log_format, "--log-level", log_level]
        self._greet = greet
        self._changed = changed
        self._counted = counted
        self._answers: dict[tuple[int, int], asyncio.Future[None]] = {}
        """By worker and number: whoever waits for an answer to that number."""
        self._releases: dict[tuple[int, PodKey], asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._stopping = False
        self.keepers: list[asyncio.Task[None]] = []
        """One for each place. One that dies, by a fault of ours, leaves its place empty: the agent ends."""

    def start(self) -> None:
        """Starts every worker, and keeps each place filled until `stop`. Raises OSError where there is no memory."""
        self.session_memory = session_memory.create(len(self.handles))
        self.affinity_memory = affinity_memory.create(len(self.handles))
        self.keepers = [spawn(self._keep(handle), name=f"worker {handle.index}") for handle in self.handles]

    async def _keep(self, handle: WorkerHandle) -> None:
        clock = asyncio.get_running_loop().time
        pause = RESTART_SECONDS
        while True:
            began = clock()
            try:
                ending, status = await self._run_once(handle)
            except OSError as error:  # no memory, no process numbers, no descriptors: perhaps soon again
                ending, status = Ending.NOT_STARTED, f"it could not be started: {error.strerror}"
            if self._stopping:
                return
            self.restarts[ending] += 1
            pause = RESTART_SECONDS if clock() - began > STABLE_SECONDS else min(pause * 2, RESTART_CAP_SECONDS)
            log.error(
                "worker %d ended (%s): replacing it; connections that it held are reset, queued ones are not lost",
                handle.index,
                status,
                extra={"fields": {"event": "worker", "worker": handle.index, "reason": ending.value}},
            )
            if pause > RESTART_SECONDS * 2:
                await asyncio.sleep(pause)

    async def _run_once(self, handle: WorkerHandle) -> tuple[Ending, str]:
        """Starts a worker, and waits until it has ended; why it did. Raises OSError where it could not be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.ExitStack() as unless_started, theirs:
            unless_started.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agent.worker.main",
                *("--channel", str(theirs.fileno()), "--parent", str(os.getpid())),
                *("--index", str(handle.index), "--node", self._node),
                *self._log_flags,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | ALLOCATOR,
            )
            unless_started.pop_all()
        handle.incarnation += 1
        handle.pid = process.pid
        channel: Channel[messages.ToSupervisor] = Channel(ours, messages.ToSupervisor)
        try:
            for message, fds in self._greet(handle):
                channel.send(message, fds)
        except BaseException as error:  # no descriptors, say: half told, it must not go on beside its successor
            channel.close(f"it could not be told what it needs ({error})")
            process.kill()
            await process.wait()
            handle.pid = None
            raise
        handle.channel = channel
        reader = spawn(self._listen(handle, channel), name=f"worker {handle.index} messages")
        watching = spawn(self._watch(handle), name=f"worker {handle.index} pulse")
        status = await process.wait()
        hung = watching.done()
        watching.cancel()
        channel.close(f"the process ended ({status})")
        why = await reader
        handle.channel = None
        handle.pid = None
        handle.listening.clear()
        handle.refused.clear()
        self._changed()
        if hung:
            return Ending.HUNG, watching.result()
        if status < 0:
            return Ending.SIGNAL, f"{signal.Signals(-status).name}: {why}"
        return Ending.EXIT, f"exit status {status}: {why}"

    async def _watch(self, handle: WorkerHandle) -> str:
        """Looks whether a worker hangs; then kills it, and says what was seen."""
        clock = asyncio.get_running_loop().time
        handle.heard = False
        pulse = Pulse.of_start(clock())
        while not pulse.hangs:
            await asyncio.sleep(LOOK_SECONDS)
            pulse = pulse.look(clock(), heard=handle.heard)
            handle.heard = False
        self._kill(handle)
        return f"it hung: nothing was heard of it for {pulse.silence:.0f} s, and it was killed"

    async def _listen(self, handle: WorkerHandle, channel: Channel[messages.ToSupervisor]) -> str:
        """Does what a worker says, until its channel ends; why it did. The worker ends too, whatever happens here."""
        try:
            return await self._heed(handle, channel)
        finally:
            self._kill(handle)  # a process whom nobody hears, or tells anything, would serve on by what held yesterday

    async def _heed(self, handle: WorkerHandle, channel: Channel[messages.ToSupervisor]) -> str:
        while True:
            try:
                message, _ = await channel.receive()
            except ChannelClosed as closed:
                return str(closed)
            handle.heard = True
            match message:
                case messages.Alive():
                    pass
                case messages.Listening(pod):
                    handle.listening.add(pod)
                    handle.refused.pop(pod, None)
                    self._changed()
                case messages.EnrolFailed(pod, reason):
                    handle.refused[pod] = reason
                    self._changed()
                case messages.Released(pod):
                    handle.listening.discard(pod)
                    released = self._releases.pop((handle.index, pod), None)
                    if released is not None and not released.done():
                        released.set_result(None)
                    self._changed()
                case messages.Counts():
                    self._counted(handle, message)
                    self._answered(handle, message.number)
                case messages.Synced(number):
                    self._answered(handle, number)
                case messages.Drained(ended):
                    if ended:
                        log.warning(
                            "worker %d: %d connections were still open at the drain timeout", handle.index, ended
                        )

    def _answered(self, handle: WorkerHandle, number: int) -> None:
        waiting = self._answers.pop((handle.index, number), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _ask(self, question: Callable[[int], msgspec.Struct], seconds: float) -> int:
        """Asks every worker that runs, and waits for the answers, though not longer; how many did not answer."""
        waiting = []
        for handle in self.handles:
            if handle.channel is not None:
                number = next(self._numbers)
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._answers[handle.index, number] = future
                handle.channel.send(question(number))
                waiting.append((handle.index, number))
        if waiting:
            await asyncio.wait([self._answers[key] for key in waiting], timeout=seconds)
        return sum(self._answers.pop(key, None) is not None for key in waiting)

    def _kill(self, handle: WorkerHandle) -> None:
        if handle.pid is not None:
            try:
                os.kill(handle.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def broadcast(
        self, message: msgspec.Struct, fds_for: Callable[[WorkerHandle], tuple[int, ...]] = lambda _: ()
    ) -> None:
        """Sends one message to every worker that runs; encoded once."""
        body = _encoder.encode(message)
        for handle in self.handles:
            if handle.channel is not None:
                handle.channel.send_encoded(body, fds_for(handle))

    async def release(self, pod: PodKey, reason: str) -> None:
        """Has each worker let go of a pod, and waits until their resets have gone out."""
        waiting = []
        for handle in self.handles:
            handle.refused.pop(pod, None)
            if handle.channel is not None:  # "listening" may be on its way: "released" comes after it
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._releases[handle.index, pod] = future
                waiting.append(future)
                handle.channel.send(messages.Unenrol(pod, reason))
        if waiting:
            await asyncio.wait(waiting, timeout=RELEASE_SECONDS)

    async def scrape(self) -> None:
        """Has each worker send its counters, and waits for them, though not for a worker that hangs."""
        late = await self._ask(messages.Scrape, SCRAPE_SECONDS)
        if late:
            log.warning("%d workers did not send their counters in %g s", late, SCRAPE_SECONDS)

    async def sync(self) -> bool:
        """Whether every worker that runs has carried out all that it was sent before. One that starts is told anew."""
        return await self._ask(messages.Sync, SYNC_SECONDS) == 0

    async def drain(self, seconds: float) -> None:
        """Has every worker finish its connections and end; returns when all have ended."""
        self._stopping = True
        self.broadcast(messages.Drain(seconds))
        if self.keepers:
            await asyncio.wait(self.keepers)

    def kill(self) -> None:
        """Ends every worker now."""
        self._stopping = True
        for handle in self.handles:
            self._kill(handle)
