"""The relay: two legs, and what each one's end means for the other.

TCP's meaning is kept. Each direction ends on its own; an end of stream is passed on as an end of stream (over
TLS as close_notify, RFC 8446 section 6.1), a reset as a reset, and TLS that is cut without close_notify is a
reset too. When both directions have ended, both legs are closed; until then neither is.

Backpressure is the transports' own: a leg whose write buffer is over its high-water mark pauses the reading of
the other, so a reader that stops stops the writer, and what is buffered is bounded on each side.

Only callbacks here, no task per connection: one wake-up reads, decrypts or encrypts, and writes. That part, which every
message takes, is native (`_flow.pyx`).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from agent.capture.sockets import cork, finish_on_close, has_died, reset_on_close
from agent.outcome import Outcome
from agent.policy.model import Permit
from agent.proxy._flow import Flow
from agent.proxy.opening import ALERT_SECONDS, Opening
from agent.proxy.route import Passage
from agent.tls.machine import TlsFailure, TlsMachine

OUR_FAULT = "the agent failed while it relayed the connection; see the log"

WRITE_HIGH_WATER = 262144
"""Bytes that may wait in a leg's write buffer before the other leg's reading pauses."""


class Owner(Protocol):
    """Whoever is told how the relay ended; called once."""

    def relay_ended(self, outcome: Outcome, detail: str) -> None:
        """Both legs are gone, or going."""


class Leg(Flow, asyncio.BufferedProtocol):
    """One plain TCP leg of a relay."""

    __slots__ = ()

    def took_last(self, data: bytes) -> None:
        """Passes bytes on that the end of the stream follows."""
        self.ended = True
        other = self.other
        other.forward_with_end(data)
        if other.ended:
            self.relay.both_ended()

    def eof_received(self) -> bool:
        """Passes the end of the stream on, and keeps the other direction open."""
        self.stream_ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """A leg that goes before both streams have ended takes the other with it, by a reset."""
        self.lost = True
        self.relay.leg_lost(self, exc)
        self.let_go()

    def pause_writing(self) -> None:
        """The write buffer is full: the other leg stops reading."""
        other = self.other
        if not (other.lost or other.paused):
            other.paused = True
            other.transport.pause_reading()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        other = self.other
        if other.paused and not other.lost:
            other.paused = False
            if other.behind:
                other.go_on_soon()  # what it has read comes before what it will read
            elif not other.ended:
                other.transport.resume_reading()

    def fault(self) -> None:
        """Ends the connection: a fault of ours leaves none that nobody reads."""
        self.relay.failed(Outcome.FAILED, OUR_FAULT)

    def go_on_soon(self) -> None:
        """Takes what was put by up in the loop's next turn."""
        asyncio.get_running_loop().call_soon(self.go_on)

    def flush(self) -> None:
        """Sends what waits for the relay to begin."""

    def forward_end(self) -> None:
        """Writes the end of the stream that came in by the other leg."""
        if not self.lost:
            self.transport.write_eof()

    def forward_with_end(self, data: bytes) -> None:
        """Writes the last bytes and the end of the stream, in one segment."""
        self.cork()
        self.forward(data)
        if not self.ended:  # else `finish` follows, and its close(2) says it
            self.forward_end()

    def cork(self) -> None:
        """What is written from here on waits for the end of the stream."""
        if not (self.lost or self.transport.is_closing()):
            cork(self.fd)

    def forward_last(self) -> None:
        """The same where this leg's own stream has ended too: `finish` follows, and its close(2) says it."""

    def stream_ended(self) -> None:
        """Notes the end of the incoming stream and passes it on."""
        if not self.ended:
            self.ended = True
            if self.other.ended:
                self.other.forward_last()
                self.relay.both_ended()
            else:
                self.other.forward_end()

    def finish(self) -> None:
        """Closes after what is buffered has been written, without a reset."""
        if not (self.lost or self.transport.is_closing()):
            finish_on_close(self.fd)
            self.transport.close()

    def reset(self) -> None:
        """Closes with a reset."""
        if not self.lost:
            self.lost = True
            if self.transport.is_closing():  # `finish` came first, and bytes that wait will not be sent now
                reset_on_close(self.fd)
            self.transport.abort()

    def is_dead(self) -> bool:
        """Whether the kernel has given this connection up while nobody was polling it."""
        if self.lost or self.transport.is_closing() or not (self.ended or self.paused):
            return False  # it is being read or written: the loop hears of it
        return has_died(self.fd)

    def catch_up(self, opening: Opening) -> None:
        """Does what happened to the transport while its connection was set up."""
        held = opening.take()
        if held:
            self.took(held)
        if opening.lost:
            self.connection_lost(opening.error)
        elif opening.eof and self.behind:
            self.end_waits = True
        elif opening.eof:
            self.eof_received()


class TlsLeg(Leg):
    """A leg under TLS: the machine does no I/O, so each call moves its bytes to or from the transport."""

    __slots__ = ()

    machine: TlsMachine

    def eof_received(self) -> bool:
        """TCP's end is the stream's end only after close_notify."""
        if not self.ended:
            self.relay.failed(Outcome.TRUNCATED, "the peer's TLS stream ended without close_notify")
        return True

    def catch_up(self, opening: Opening) -> None:
        """Does what happened during set-up; the peer's close_notify may have come with its handshake."""
        if self.machine.peer_closed:
            self.stream_ended()
        super().catch_up(opening)

    def forward_end(self) -> None:
        """Writes close_notify; what the peer still sends is read on."""
        if self.lost:
            return
        try:
            self.machine.close()
        except TlsFailure as failure:
            self.relay.failed(failure.outcome, failure.detail)
            return
        self.flush()

    def forward_with_end(self, data: bytes) -> None:
        """Writes the last bytes and close_notify, in one segment; with TCP's own end, if that follows."""
        if self.lost:
            return
        if self.ended:
            self.cork()
        try:
            self.machine.send(data)
        except TlsFailure as failure:
            self.relay.failed(failure.outcome, failure.detail)
            return
        self.forward_end()

    def forward_last(self) -> None:
        """Writes close_notify in one segment with TCP's own end."""
        self.cork()
        self.forward_end()

    def flush(self) -> None:
        """Sends what waits in the machine."""
        out = self.machine.outgoing()
        if out and not self.lost:
            self.write(out)

    def refuse(self, failure: TlsFailure) -> None:
        """Sends OpenSSL's alert, so that the peer knows why, and closes: without close_notify no clean end."""
        self.flush()
        self.refused = True
        self.finish()
        asyncio.get_running_loop().call_later(ALERT_SECONDS, self.transport.abort)
        self.relay.failed(failure.outcome, failure.detail)

    def reset(self) -> None:
        """Closes with a reset, unless an alert is on its way."""
        if not self.refused:
            super().reset()


class Relay:
    """Two legs and their common end. `application` is the leg towards the pod's own process.

    There is none that nobody allowed: it takes policy's permit, or the passage of the route.
    """

    __slots__ = ("_finishing", "_over", "_owner", "application", "peer")

    def __init__(
        self,
        owner: Owner,
        allowed_by: Permit | Passage,
        application: Opening,
        peer: Opening,
        machine: TlsMachine | None = None,
        remember: Callable[[TlsMachine], bool] | None = None,
    ) -> None:
        """Makes the legs, that towards the peer under TLS where it has a machine; nothing moves before `start`.

        `remember` is asked after each message of the peer's until it says True. Raises TypeError where `allowed_by` is
        neither: a denial, or nothing at all.
        """
        if not isinstance(allowed_by, (Permit, Passage)):
            raise TypeError(f"a relay needs a Permit or a Passage, and was given {type(allowed_by).__name__}")
        self._owner = owner
        self._finishing = False
        self._over = False
        self.application = Leg(self, application)
        self.peer = Leg(self, peer) if machine is None else TlsLeg(self, peer, machine, remember)
        self.application.facing(self.peer)
        self.peer.facing(self.application)

    def start(self, app_opening: Opening, peer_opening: Opening, first: bytes) -> None:
        """Takes both transports over from their set-up.

        `first` is application data that the peer sent with its handshake, already decrypted.
        """
        application, peer = self.application, self.peer
        application.lost, peer.lost = app_opening.lost, peer_opening.lost
        for leg in (application, peer):
            if not leg.lost:
                leg.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
                leg.transport.set_protocol(leg)
        if first:
            peer.received += len(first)
            application.forward(first)
        peer.catch_up(peer_opening)
        if not self._over:
            application.catch_up(app_opening)
        peer.flush()
        for leg, opening in ((application, app_opening), (peer, peer_opening)):
            if opening.lost:  # its transport will call it no more
                leg.let_go()

    @property
    def over(self) -> bool:
        """The owner has been told."""
        return self._over

    def both_ended(self) -> None:
        """Both streams have ended cleanly: both legs close once their buffers are written."""
        if self._over or self._finishing:
            return
        self._finishing = True
        self.application.finish()
        self.peer.finish()
        self._check_finished()

    def leg_lost(self, leg: Leg, exc: Exception | None) -> None:
        """A transport is gone."""
        if self._finishing and exc is None:
            self._check_finished()
            return
        if isinstance(exc, TimeoutError):
            outcome, detail = Outcome.TIMED_OUT, "the kernel gave up: no answer to keepalives or retransmissions"
        elif exc is not None and not isinstance(exc, OSError):  # a callback of ours raised it; the loop has logged it
            outcome, detail = Outcome.FAILED, OUR_FAULT
        elif leg is self.application:
            outcome, detail = Outcome.RESET_BY_APPLICATION, "the application reset the connection"
        else:
            outcome, detail = Outcome.RESET_BY_PEER, "the peer reset the connection"
        self.failed(outcome, detail)

    def failed(self, outcome: Outcome, detail: str) -> None:
        """Ends both legs with a reset, whatever they still hold."""
        if self._over:
            return
        self._over = True
        self.application.reset()
        self.peer.reset()
        self._owner.relay_ended(outcome, detail)

    def sweep(self) -> None:
        """Finds a leg that was reset while it was not being read (half-closed, or paused)."""
        for leg in (self.application, self.peer):
            if not self._over and leg.is_dead():
                self.leg_lost(leg, ConnectionResetError())

    def _check_finished(self) -> None:
        if self.application.lost and self.peer.lost and not self._over:
            self._over = True
            self._owner.relay_ended(Outcome.COMPLETED, "")
