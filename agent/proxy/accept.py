"""From a listener to a served connection: learns the original destination and runs the set-up."""

import socket
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial

from agent.capture.address import OriginalDst, PeerAddr
from agent.capture.sockets import ends
from agent.outcome import Outcome
from agent.proxy import inbound, outbound
from agent.proxy.connection import Connection, Direction
from agent.proxy.refusal import Refusal
from agent.proxy.runtime import EnrolledPod, Runtime
from agent.proxy.stage import Accepted, SetUp

Serve = Callable[[Connection, SetUp], Awaitable[None]]

_SERVE: dict[Direction, Serve] = {Direction.INBOUND: inbound.serve, Direction.OUTBOUND: outbound.serve}


_original = lru_cache(maxsize=4096)(OriginalDst)
"""One value for all connections to one place: each keeps it for as long as it lives."""


class Acceptor:
    """What becomes of the connections of one pod's listeners in one direction."""

    def __init__(self, runtime: Runtime, enrolled: EnrolledPod, direction: Direction) -> None:
        self._runtime = runtime
        self._enrolled = enrolled
        self._direction = direction
        self._serve = _SERVE[direction]

    def __call__(self, sock: socket.socket) -> None:
        """Takes a connection over that was just accepted, and counts it before anything is spent on it."""
        runtime = self._runtime
        try:
            peer, own, dialled = ends(sock.fileno())
        except OSError:  # reset before it was accepted: nobody is there to be served
            sock.close()
            return
        client, original = PeerAddr(*peer), _original(*dialled)
        if dialled != own:
            client = self._enrolled.dialler(client, own)
        connection = Connection(runtime, self._enrolled, self._direction, client, original)
        over = runtime.live.admit(connection)
        refusal: tuple[Outcome, str] | None = None
        if dialled == own:
            message = f"{client} dialled the agent's own port {original}; dial the application's port instead"
            refusal = Outcome.DIRECT_TO_LISTENER, message
        elif over is not None:
            message = f"{over}; is {client.address} opening connections and sending nothing?"
            refusal = Outcome.TOO_MANY_OPENING, message
        connection.stage = Accepted(sock, partial(self._set_up, connection, refusal), f"{self._direction} {client}")

    async def _set_up(self, connection: Connection, refusal: tuple[Outcome, str] | None, stage: Accepted) -> None:
        served = False
        try:
            connection.stage = setup = await stage.carried(self._runtime.deadlines)
            if refusal is not None:
                raise Refusal(*refusal)  # made here: what was raised and is kept would be a cycle
            await self._serve(connection, setup)
            served = True
        except Refusal as refused:
            connection.refuse(refused.outcome, refused.message, refused.alert)
            served = True
        finally:
            if not served and self._runtime.live.knows(connection):
                # A fault of ours: the task's traceback is logged by `spawn`; the connection must not stay.
                connection.terminate(Outcome.FAILED, "the agent failed while it set the connection up; see the log")
