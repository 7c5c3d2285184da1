"""The worker process: owns connections and nothing else.

Everything that it knows comes over the channel, in order; when the channel ends, so does the process, and the
kernel resets what it held (SO_LINGER on and zero): a dead supervisor means refused, never plaintext.

    python -m agent.worker.main --channel FD --parent PID --index I --node NAME
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from typing import NamedTuple

import uvloop
from setproctitle import setproctitle

from agent.capture.accepting import Listener, Told
from agent.capture.netns import open_home
from agent.capture.sockets import BACKLOG
from agent.link import affinity_memory, messages, session_memory
from agent.link.channel import Channel, ChannelClosed
from agent.link.pulse import BEAT_SECONDS
from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.policy.model import Denial
from agent.process import die_with_parent
from agent.proxy import inbound, outbound
from agent.proxy.accept import Acceptor
from agent.proxy.affinity import Affinity
from agent.proxy.connection import Direction
from agent.proxy.live import SWEEP_SECONDS
from agent.proxy.runtime import EnrolledPod, Runtime
from agent.proxy.view import Touched, View
from agent.tasks import spawn
from agent.telemetry import logs
from agent.telemetry.access import AccessLog
from agent.telemetry.counters import Counters
from agent.tls._store import SessionStore

log = logging.getLogger("quietwire.worker")

JUDGED_AT_ONCE = 500
"""Connections that are judged again before others get their turn."""


class Served(NamedTuple):
    """A pod that this worker serves, and what it accepts its connections by."""

    enrolled: EnrolledPod
    listeners: list[Listener]


class Worker:
    """Carries out the supervisor's messages, one after the other."""

    def __init__(
        self,
        channel: Channel[messages.ToWorker],
        configure: messages.Configure,
        sessions: SessionStore,
        affinity: Affinity,
    ) -> None:
        self._channel = channel
        self._view = View(configure.settings, sessions)
        access_log = AccessLog(enabled=configure.settings.access_log)
        self._runtime = Runtime(self._view, access_log, Counters(), affinity)
        self._home_fd = open_home()
        self._drained = False
        self._told = Told()
        self._pods: dict[PodKey, Served] = {}

    async def run(self) -> None:
        """Serves until the channel ends or a drain is done, or until what it cannot be without has died.

        Whoever went on without the sweep would let strangers wait for ever, and count them for ever.
        """
        needed = {
            spawn(self._obey(), name="messages"),
            spawn(self._sweep(), name="sweep"),
            spawn(self._beat(), name="pulse"),
        }
        ended, others = await asyncio.wait(needed, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for task in ended:
            task.result()  # raises what it died of: the process ends, and is replaced

    async def _beat(self) -> None:
        while True:
            self._channel.send(messages.Alive())
            await asyncio.sleep(BEAT_SECONDS)

    async def _obey(self) -> None:
        while True:
            try:
                message, fds = await self._channel.receive()
            except ChannelClosed as closed:
                if self._drained:
                    return
                log.warning("the supervisor is gone (%s): ending, and refusing from here on", closed)
                return
            if isinstance(message, messages.Drain):
                spawn(self._drain(message.seconds), name="drain")
                continue
            await self._carry_out(message, fds)

    async def _carry_out(self, message: messages.ToWorker, fds: list[int]) -> None:
        match message:
            case messages.SetCatalog(catalog):
                self._view.set_catalog(catalog)
            case messages.ChangeCatalog(change):
                await self._reauthorize(self._view.change_catalog(change))
            case messages.SetNodeAddresses(addresses):
                self._view.set_node_addresses(addresses)
                await self._reauthorize(Touched())
            case messages.SetBundle(bundle):
                self._view.set_bundle(bundle)
                await self._end_unidentified()
            case messages.SetSvid(svid):
                self._view.set_svid(svid)
            case messages.ForgetSvid(spiffe_id):
                self._view.forget_svid(spiffe_id)
            case messages.Enrol():
                await self._enrol(message, fds)
            case messages.Unenrol(pod, reason):
                await self._unenrol(pod, reason)
                # The transports close in the loop's next turns; "released" means that their resets have gone out.
                for _ in range(3):
                    await asyncio.sleep(0)
                self._channel.send(messages.Released(pod))
            case messages.Scrape(number):
                await self._send_counts(number)
            case messages.Sync(number):
                self._channel.send(messages.Synced(number))
            case _:
                log.error("unexpected message %r", type(message).__name__)

    async def _enrol(self, message: messages.Enrol, fds: list[int]) -> None:
        netns_fd, *listening = fds
        sockets = [socket.socket(fileno=fd) for fd in listening]
        pod = self._view.catalog.pod(message.pod)
        if pod is None or self._view.contexts_of(pod, self._runtime.now()) is None:
            for sock in sockets:
                sock.close()
            os.close(netns_fd)
            missing = "catalog entry" if pod is None else "valid SVID"
            self._channel.send(messages.EnrolFailed(message.pod, f"the worker has no {missing} for it"))
            return
        if message.pod in self._pods:
            await self._unenrol(message.pod, "enrolled again")
        enrolled = EnrolledPod(message.pod, netns_fd, self._home_fd, message.mark, stand_ins=message.stand_ins)
        listeners: list[Listener] = []
        self._pods[message.pod] = Served(enrolled, listeners)
        try:
            for name, sock in zip(message.listeners, sockets, strict=True):
                direction = Direction.OUTBOUND if name.startswith("outbound") else Direction.INBOUND
                sock.listen(BACKLOG)
                listeners.append(self._listener(enrolled, direction, sock))
        except OSError as error:
            await self._unenrol(message.pod, "it cannot be listened for")
            for sock in sockets:
                sock.close()
            self._channel.send(messages.EnrolFailed(message.pod, f"the worker cannot listen for it: {error.strerror}"))
            return
        self._channel.send(messages.Listening(message.pod))

    def _listener(self, enrolled: EnrolledPod, direction: Direction, sock: socket.socket) -> Listener:
        return Listener(
            sock,
            Acceptor(self._runtime, enrolled, direction),
            name=f"{direction} connections of {enrolled.key}",
            told=self._told,
            short=lambda _: self._runtime.counters.short(direction),
        )

    async def _unenrol(self, key: PodKey, reason: str) -> None:
        served = self._pods.pop(key, None)
        if served is None:
            return
        enrolled, listeners = served
        for listener in listeners:
            listener.close()
        await self._runtime.live.terminate(
            Outcome.UNENROLLED, reason, lambda connection: connection.enrolled is enrolled
        )
        enrolled.close()

    async def _reauthorize(self, touched: Touched) -> None:
        """Judges connections again under the catalog now in force, and ends those that are no longer permitted."""
        for number, connection in enumerate(self._runtime.live.relayed(), 1):
            if not self._runtime.live.is_joined(connection):
                continue  # it ended while others were looked at
            inward = connection.direction is Direction.INBOUND
            now = (inbound if inward else outbound).still_permitted(connection, touched)
            if isinstance(now, Denial) and now.outcome is not Outcome.UNENROLLED:
                connection.decision = now
                connection.terminate(Outcome.TERMINATED, f"no longer permitted: {now.message}")
            if number % JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)
        for connection in self._runtime.live.opening():
            connection.look_again()

    async def _end_unidentified(self) -> None:
        """Ends connections that stand on a certificate which the bundle now in force does not bear."""
        for number, connection in enumerate(self._runtime.live.relayed(), 1):
            if self._runtime.live.is_joined(connection) and (problem := connection.identity_problem()) is not None:
                connection.terminate(Outcome.TERMINATED, f"no longer permitted: {problem}")
            if number % JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _send_counts(self, number: int) -> None:
        for reported, connection in enumerate(self._runtime.live.relayed(), 1):
            connection.report_bytes()
            if reported % JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._channel.send(messages.Counts(number, self._runtime.counters.snapshot(), self._runtime.live.count()))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self._runtime.live.sweep()
            self._runtime.access_log.tell_suppressed()

    async def _drain(self, seconds: float) -> None:
        for served in self._pods.values():
            for listener in served.listeners:
                listener.close()
        ended = 0
        try:
            async with asyncio.timeout(seconds):
                await self._runtime.live.wait_until_empty()
        except TimeoutError:
            ended = await self._runtime.live.terminate(
                Outcome.DRAINED, f"the agent is shutting down, and the drain timeout of {seconds:g} s is over"
            )
        await self._send_counts(0)
        self._channel.send(messages.Drained(ended))
        await self._channel.flushed()
        self._drained = True
        self._channel.close("drained")


async def configured(channel: Channel[messages.ToWorker], index: int) -> Worker | None:
    """A worker, by the first message of its channel; None where that ended before.

    Raises TypeError where another message came first.
    """
    try:
        first, fds = await channel.receive()
    except ChannelClosed:
        return None
    if not isinstance(first, messages.Configure):
        raise TypeError(f"the first message was {type(first).__name__}, not Configure")
    of_sessions, of_affinity = fds
    sessions = session_memory.attach(of_sessions, first.workers, index)
    affinity = affinity_memory.attach(of_affinity, first.workers, index)
    for fd in fds:
        os.close(fd)
    return Worker(channel, first, sessions, affinity)


async def _main(channel_fd: int, index: int) -> None:
    worker = await configured(Channel(socket.socket(fileno=channel_fd), messages.ToWorker), index)
    if worker is not None:
        await worker.run()


def main() -> int:
    """Runs one worker; started by the supervisor only."""
    parser = argparse.ArgumentParser(description="One worker of quietwire's agent; started by its supervisor.")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--log-format", choices=("json", "text"), default="json")
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args()
    die_with_parent(given.parent)
    # A terminal's ^C and systemd's stop reach every process of the group: only the supervisor decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setproctitle(f"quietwire worker {given.index} {given.node}")
    logs.configure(given.log_format, given.log_level, node=given.node, process=f"worker {given.index}")
    gc.collect()
    gc.freeze()  # what was imported stays: full collections need not walk it
    uvloop.run(_main(given.channel, given.index))
    # Not sys.exit: threads and transports of connections that were reset need no farewell.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
