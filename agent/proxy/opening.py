"""A leg while its connection is being set up: what arrives is kept, within a bound, and can be awaited."""

import asyncio
import socket
from functools import partial
from typing import cast

from agent.capture.sockets import finish_on_close

ALERT_SECONDS = 5.0
"""How long a peer that is refused may take to read the alert."""

TICK_SECONDS = 0.25
"""How late a wait may find its deadline over."""

MAX_HELD = 65536
"""Bytes kept before the connection is decided. Reading pauses there; TCP then slows the sender."""

READ_SIZE = 16384
"""Bytes that one read may bring beyond MAX_HELD."""

_read_buffer = memoryview(bytearray(READ_SIZE))


class Deadlines:
    """The deadlines of many waits, looked at together: almost none is ever met, and a timer for each costs 4 µs."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[bool], float] = {}
        self._ticking = False

    def add(self, waiter: asyncio.Future[bool], deadline: float) -> None:
        """Gives the waiter False within TICK_SECONDS of the deadline (loop's clock), unless it is dropped before."""
        self._waiters[waiter] = deadline
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def drop(self, waiter: asyncio.Future[bool]) -> None:
        """The wait is over."""
        del self._waiters[waiter]

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for waiter, deadline in self._waiters.items():
            if deadline <= now:
                _expire(waiter)
        self._ticking = bool(self._waiters)
        if self._ticking:
            loop.call_later(TICK_SECONDS, self._tick)


class Bell:
    """What a set-up waits on: rung by each leg of the connection. One waiter at a time."""

    __slots__ = ("_deadlines", "_waiter")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._waiter: asyncio.Future[bool] | None = None

    def ring(self) -> None:
        """Wakes the waiter, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    async def wait(self, deadline: float) -> bool:
        """Waits for the next ring; False soon after `deadline` (seconds of the loop's clock)."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self._deadlines.add(waiter, deadline)
        try:
            return await waiter
        finally:
            self._deadlines.drop(waiter)
            self._waiter = None

    async def wait_precisely(self, deadline: float) -> bool:
        """The same, on time: for waits that an application feels."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        timer = loop.call_at(deadline, _expire, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class Opening(asyncio.BufferedProtocol):
    """The protocol of a transport until a relay takes it over with `set_protocol`.

    A buffered one as a leg is: uvloop's transport keeps the methods of the former protocol that the new one has not,
    and with them the opening, for as long as the connection lives.
    """

    __slots__ = ("_paused", "bell", "eof", "error", "fd", "held", "lost", "transport")

    transport: asyncio.Transport
    """There before anybody is given the opening: see `of_accepted` and `of_dialled`."""

    def __init__(self, bell: Bell, fd: int) -> None:
        self.bell = bell
        self.fd = fd
        """The transport's descriptor, for as long as that is not closing."""
        self.held = bytearray()
        self.eof = False
        self.lost = False
        self.error: Exception | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = cast("asyncio.Transport", transport)

    @staticmethod  # a bound method would be kept for each transport
    def get_buffer(sizehint: int) -> memoryview:
        """Where the loop reads to."""
        del sizehint
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """The loop has read."""
        self.keep(_read_buffer[:nbytes])

    def keep(self, data: memoryview | bytes) -> None:
        """Keeps the bytes, and pauses reading at MAX_HELD."""
        self.held += data
        self._hold_back()
        self.bell.ring()

    def _hold_back(self) -> None:
        if len(self.held) >= MAX_HELD and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Remembers the end of the stream; the other direction stays open."""
        self.eof = True
        self.bell.ring()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Remembers that the transport is gone, and why."""
        self.lost = True
        self.error = exc
        self.bell.ring()

    @property
    def silent(self) -> bool:
        """Nothing has arrived, and the stream goes on."""
        return not (self.held or self.eof or self.lost)

    def take(self) -> bytes:
        """Takes what is held, and reads on if reading had paused."""
        data = bytes(self.held)
        self.held.clear()
        if self._paused and not self.lost:
            self._paused = False
            self.transport.resume_reading()
        return data

    def give_back(self, data: bytes) -> None:
        """Holds again what was taken and could not be looked at yet, before what has come since."""
        self.held[:0] = data
        self._hold_back()

    def refuse(self, alert: bytes) -> None:
        """Writes a last word, an alert, and closes without a reset, so that the peer can read it."""
        if self.lost:
            return
        if not alert:
            self.reset()
            return
        self.transport.write(alert)
        if not self.transport.is_closing():
            finish_on_close(self.fd)
            self.transport.close()
        asyncio.get_running_loop().call_later(ALERT_SECONDS, self.transport.abort)

    def reset(self) -> None:
        """Ends the leg with a reset (its socket has SO_LINGER on and zero)."""
        if not self.lost:
            self.transport.abort()


async def of_accepted(sock: socket.socket, bell: Bell) -> Opening:
    """The leg of an accepted socket. Raises OSError, or is cancelled, with the socket closed: a reset."""
    opening = Opening(bell, sock.fileno())
    try:
        await asyncio.get_running_loop().connect_accepted_socket(partial(_same, opening), sock)
    except BaseException:
        sock.close()
        raise
    return opening


async def of_dialled(sock: socket.socket, bell: Bell) -> Opening:
    """The leg of a socket that is connected. Raises OSError, or is cancelled, with the socket closed: a reset."""
    opening = Opening(bell, sock.fileno())
    try:
        await asyncio.get_running_loop().create_connection(partial(_same, opening), sock=sock)
    except BaseException:
        sock.close()
        raise
    return opening


def _same(opening: Opening) -> Opening:
    return opening
