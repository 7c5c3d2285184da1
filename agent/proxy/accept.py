"""From a listener to a served connection: learns the original destination and runs the set-up."""

from collections.abc import Awaitable, Callable
from functools import lru_cache

from agent.capture.address import OriginalDst, PeerAddr
from agent.capture.sockets import ends
from agent.outcome import Outcome
from agent.proxy import inbound, outbound
from agent.proxy.connection import Connection, Direction, Refusal
from agent.proxy.opening import Bell, Opening
from agent.proxy.runtime import EnrolledPod, Runtime
from agent.tasks import spawn

Serve = Callable[[Connection, Opening], Awaitable[None]]

_SERVE: dict[Direction, Serve] = {Direction.INBOUND: inbound.serve, Direction.OUTBOUND: outbound.serve}


_original = lru_cache(maxsize=4096)(OriginalDst)
"""One value for all connections to one place: each keeps it for as long as it lives."""


class Acceptor:
    """The protocol factory of one pod's listeners in one direction."""

    def __init__(self, runtime: Runtime, enrolled: EnrolledPod, direction: Direction) -> None:
        self._runtime = runtime
        self._enrolled = enrolled
        self._direction = direction
        self._serve = _SERVE[direction]

    def __call__(self) -> Opening:
        """Makes the protocol of a connection that was just accepted."""
        return Opening(Bell(self._runtime.deadlines), on_made=self._made)

    def _made(self, opening: Opening) -> None:
        runtime = self._runtime
        try:
            opening.fd = opening.transport.get_extra_info("socket").fileno()
            peer, own, dialled = ends(opening.fd)
        except OSError:  # reset before it was accepted: nobody is there to be served
            opening.reset()
            return
        client, original = PeerAddr(*peer), _original(*dialled)
        connection = Connection(runtime, self._enrolled, self._direction, opening, client, original)
        over = runtime.live.admit(connection)
        if dialled == own:
            connection.refuse(
                Outcome.DIRECT_TO_LISTENER,
                f"{client} dialled the agent's own port {original}; dial the application's port instead",
            )
        elif over is not None:
            connection.refuse(
                Outcome.TOO_MANY_OPENING, f"{over}; is {client.address} opening connections and sending nothing?"
            )
        else:
            connection.setup = spawn(self._set_up(connection, opening), name=f"{self._direction} {client}")

    async def _set_up(self, connection: Connection, opening: Opening) -> None:
        served = False
        try:
            await self._serve(connection, opening)
            served = True
        except Refusal as refusal:
            connection.refuse(refusal.outcome, refusal.message, refusal.alert)
            served = True
        finally:
            if not served and self._runtime.live.knows(connection):
                # A fault of ours: the task's traceback is logged by `spawn`; the connection must not stay.
                connection.terminate(Outcome.FAILED, "the agent failed while it set the connection up; see the log")
            connection.setup = None
