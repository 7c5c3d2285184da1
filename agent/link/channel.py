"""The channel between the supervisor and one worker: framed messages, and descriptors, over one socketpair.

A frame is a header (length of the body, number of descriptors) and a msgpack body. Descriptors travel by
SCM_RIGHTS (unix(7)) with the frame's first byte, so they are there when the frame is.
"""

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

M = TypeVar("M")

MAX_FRAME = 256 * 1024 * 1024
"""Bytes of one message: a catalog of 100,000 pods stays far below."""
MAX_PENDING = 512 * 1024 * 1024
"""Bytes that may wait for a process that does not read; then it is taken for hung."""
MAX_FDS = 16
"""Descriptors of one frame."""
MAX_UNREAD = 1024
"""Messages that wait to be received; then nothing more is read, and the other end's wait grows instead."""

_HEADER = struct.Struct("!IB")
_READ = 262144


class ChannelClosed(Exception):
    """The other process is gone, or broke the framing. `str` says which."""


class Channel(Generic[M]):
    """One end. `send` never blocks; `receive` awaits. `kind` is the union of messages that arrive."""

    def __init__(self, sock: socket.socket, kind: Any) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._encoder = msgspec.msgpack.Encoder()
        self._outgoing: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._pending = 0
        self._writing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._incoming = bytearray()
        self._fds: deque[int] = deque()
        self._closed: str | None = None
        self._messages: asyncio.Queue[tuple[M, list[int]] | None] = asyncio.Queue()
        self._reading = True
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def send(self, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
        """Sends a message. The descriptors are duplicated now, so the caller keeps, or closes, its own.

        Raises OSError where they cannot be: nothing is sent then.
        """
        self.send_encoded(self._encoder.encode(message), fds)

    def send_encoded(self, body: bytes, fds: tuple[int, ...] = ()) -> None:
        """Sends a message that was encoded before, for one that goes to several workers."""
        if self._closed is not None:
            return
        if len(body) > MAX_FRAME or len(fds) > MAX_FDS:
            self.close(f"a message of {len(body)} bytes with {len(fds)} descriptors is too large to be sent")
            return
        self._queue(memoryview(_HEADER.pack(len(body), len(fds)) + body), _duplicates(fds))

    def _queue(self, frame: memoryview, fds: tuple[int, ...]) -> None:
        self._outgoing.append((frame, fds))
        self._pending += len(frame)
        if self._pending > MAX_PENDING:
            self.close(f"{self._pending} bytes wait for a process that does not read")
            return
        self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            frame, fds = self._outgoing[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self._sock.sendmsg([frame], rights)
            except BlockingIOError:
                break
            except OSError as error:
                self.close(f"the channel broke: {error.strerror}")
                return
            for fd in fds:
                os.close(fd)
            self._pending -= sent
            if sent == len(frame):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (frame[sent:], ())
        if self._outgoing and not self._writing:
            self._writing = True
            self._idle.clear()
            self._loop.add_writer(self._sock.fileno(), self._flush)
        elif not self._outgoing and self._writing:
            self._writing = False
            self._idle.set()
            self._loop.remove_writer(self._sock.fileno())

    def _on_readable(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._sock, _READ, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"the channel broke: {error.strerror}")
            return
        self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            self.close("descriptors were cut off: is RLIMIT_NOFILE reached?")
        elif not data:
            self.close("the other process ended")
        else:
            self._incoming += data
            self._decode()

    def _decode(self) -> None:
        start = 0
        while len(self._incoming) - start >= _HEADER.size and self._closed is None:
            length, count = _HEADER.unpack_from(self._incoming, start)
            if length > MAX_FRAME or count > MAX_FDS:
                self.close(f"a frame of {length} bytes with {count} descriptors is no frame of ours")
                return
            end = start + _HEADER.size + length
            if len(self._incoming) < end:
                break
            if len(self._fds) < count:
                self.close(f"a frame came with {len(self._fds)} descriptors, and said {count}")
                return
            try:
                with memoryview(self._incoming) as view:
                    message = self._decoder.decode(view[start + _HEADER.size : end])
            except msgspec.MsgspecError as error:
                # Whoever went on would not know what it was told: of a policy that is tighter now, say.
                self.close(f"a message cannot be decoded: {error}")
                return
            self._messages.put_nowait((message, [self._fds.popleft() for _ in range(count)]))
            start = end
        del self._incoming[:start]
        if self._reading and self._closed is None and self._messages.qsize() > MAX_UNREAD:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    async def receive(self) -> tuple[M, list[int]]:
        """The next message with its descriptors, which are the caller's to close. Raises ChannelClosed."""
        item = await self._messages.get()
        if item is None:
            self._messages.put_nowait(None)
            raise ChannelClosed(self._closed)
        if not self._reading and self._closed is None and self._messages.qsize() <= MAX_UNREAD // 2:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._on_readable)
        return item

    async def flushed(self) -> None:
        """Returns when everything has been handed to the kernel, or the channel is closed."""
        await self._idle.wait()

    def close(self, why: str = "closed") -> None:
        """Closes this end; `receive` gives what had arrived, then raises."""
        if self._closed is not None:
            return
        self._closed = why
        if self._reading:
            self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._outgoing:
            for fd in fds:
                os.close(fd)
        self._outgoing.clear()
        self._idle.set()
        while self._fds:
            os.close(self._fds.popleft())
        self._messages.put_nowait(None)


def _duplicates(fds: tuple[int, ...]) -> tuple[int, ...]:
    """All of them, or OSError and none."""
    made: list[int] = []
    with contextlib.ExitStack() as unless_all:
        for fd in fds:
            made.append(os.dup(fd))
            unless_all.callback(os.close, made[-1])
        unless_all.pop_all()
    return tuple(made)
