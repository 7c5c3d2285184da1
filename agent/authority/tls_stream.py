"""TLS on the authority's connections, by the data path's own machine: what strangers send is bounded here as there.

    transport ── TlsStream ── StreamTransport ── the protocol that speaks HTTP

What a peer shows is bounded in `agent.tls` (key exchange, certificates, messages without data), and here the time that
a handshake and an end may take, and what is read while answers are not taken away.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from agent.tls._openssl import Context
from agent.tls.machine import TlsFailure, TlsMachine

log = logging.getLogger("quietwire.authority")

HANDSHAKE_SECONDS = 10.0
END_SECONDS = 2.0
"""How long a peer's end is waited for after ours. Closing at once would reset what it has not read yet."""
VERIFIED_CHAIN = "verified_chain"
"""Extra info of a StreamTransport: the peer's verified chain, DER, leaf first and anchor last; empty without one."""


class TlsStream(asyncio.Protocol):
    """The server's end. `made` makes the protocol on top after the handshake, `lost` is called at the end.

    `failed` is told why TLS fails, once at most.
    """

    def __init__(
        self,
        context: Context,
        made: Callable[[], asyncio.Protocol],
        lost: Callable[[], object],
        failed: Callable[[TlsFailure], object],
    ) -> None:
        self.machine = TlsMachine.server(context)
        self.context = context
        self.is_ending = False
        self._made, self._lost, self._failed = made, lost, failed
        self._inner: asyncio.Protocol | None = None
        self._rest = b""
        self._is_full = self._is_held = self._turn_is_due = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the handshake's clock."""
        self.wire = cast("asyncio.Transport", transport)  # a socket's has both directions
        self._clock = self._loop.call_later(HANDSHAKE_SECONDS, self.wire.abort)

    def data_received(self, data: bytes) -> None:
        """Opens a bounded part of it; the rest has a turn of its own, and nothing more is read before."""
        if self.is_ending:
            return  # whatever it still says: it is not listened to any more
        self._rest += data
        if not self._turn_is_due:
            self._open()

    def _open(self) -> None:
        self._turn_is_due = False
        if self.is_ending or self._is_held or self._is_full:
            return
        data, self._rest = self._rest, b""
        try:
            plain = self.machine.receive(data)
        except TlsFailure as failure:
            self._failed(failure)
            self._finish()  # an alert says why
            return
        self._say()
        if self.machine.pending:
            self._rest = data[-self.machine.pending :]
        if self._inner is None and self.machine.handshake_complete:
            self._clock.cancel()
            self._inner = self._made()
            self._inner.connection_made(StreamTransport(self))
        if plain and self._inner is not None and not self.is_ending:
            self._inner.data_received(plain)
        if self.machine.peer_closed:
            self.end()
        self._read_on()

    def _read_on(self) -> None:
        """Reads from the wire, or does not: while there is a rest, or the inner protocol or the peer has too much."""
        if self.wire.is_closing():
            return
        if self.is_ending or not (self._rest or self._is_held or self._is_full):
            self.wire.resume_reading()
            return
        self.wire.pause_reading()
        if self._rest and not (self._turn_is_due or self._is_held or self._is_full):
            self._turn_is_due = True
            self._loop.call_soon(self._open)

    def _say(self) -> None:
        if waiting := self.machine.outgoing():
            self.wire.write(waiting)

    def send(self, data: bytes) -> None:
        """Encrypts and sends; nothing after the end."""
        if self.is_ending:
            return
        try:
            self.machine.send(data)
        except TlsFailure as failure:
            log.debug("a connection ends: %s", failure)
            self.wire.abort()
            return
        self._say()

    def hold(self, is_held: bool) -> None:
        """Whether the inner protocol wants to hear no more for now."""
        self._is_held = is_held
        self._read_on()

    def end(self) -> None:
        """Ends our direction in order, once, and gives the peer a moment for its own."""
        if self.is_ending:
            return
        try:
            self.machine.close()
        except TlsFailure as failure:  # in the middle of a handshake there is no order to keep
            log.debug("a connection ends: %s", failure)
            self.wire.abort()
            return
        self._finish()

    def _finish(self) -> None:
        """Nothing comes after what waits, and nothing more is listened to."""
        self.is_ending = True
        self._rest = b""
        self._clock.cancel()
        if self.wire.is_closing():
            return
        self._clock = self._loop.call_later(END_SECONDS, self.wire.abort)
        self._say()
        self.wire.write_eof()
        self._read_on()

    def eof_received(self) -> None:
        """The peer has ended, in order or not: no more is asked, and nobody waits for an answer. The wire closes."""
        self.is_ending = True

    def pause_writing(self) -> None:
        """The peer does not take away what it is sent: it is not read from either, for what it says wants answers."""
        self._is_full = True
        self._read_on()
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._is_full = False
        self._read_on()
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The wire is gone."""
        self.is_ending = True
        self._clock.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)
        self._lost()


class StreamTransport(asyncio.Transport):
    """What the protocol on top of a TlsStream sees as its transport."""

    def __init__(self, stream: TlsStream) -> None:
        super().__init__()
        self._stream = stream

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The peer's chain, `sslcontext` (there is one), and what the wire knows."""
        if name == VERIFIED_CHAIN:
            return self._stream.machine.verified_chain
        if name == "sslcontext":
            return self._stream.context
        return self._stream.wire.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends application data."""
        self._stream.send(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Sends application data, in one piece."""
        self._stream.send(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._stream.is_ending

    def close(self) -> None:
        """Ends in order."""
        self._stream.end()

    def abort(self) -> None:
        """Ends at once."""
        self._stream.wire.abort()

    def pause_reading(self) -> None:
        """Nothing more is to be received for now."""
        self._stream.hold(True)

    def resume_reading(self) -> None:
        """Again."""
        self._stream.hold(False)
