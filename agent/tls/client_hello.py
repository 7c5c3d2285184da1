"""The ClientHello, parsed from the first bytes of a connection: RFC 8446, sections 4.1.2 and 5.1.

Pure: bytes in, a value out. Nothing is consumed, so the TLS stack reads the same bytes again.
"""

from collections.abc import Iterator

from msgspec import Struct

MAX_CLIENT_HELLO = 16384
"""Bytes of records that a ClientHello may take here. OpenSSL's and browsers' stay below 2 KiB, post-quantum key
shares included; a longer one is refused as soon as a length field announces it."""

RECORD_HEADER = 5
HANDSHAKE_HEADER = 4
CONTENT_HANDSHAKE = 22
HANDSHAKE_CLIENT_HELLO = 1
MAX_RECORD = 16384
EXTENSION_SERVER_NAME = 0
EXTENSION_ALPN = 16
EXTENSION_SUPPORTED_VERSIONS = 43
TLS_1_3 = 0x0304


class ClientHello(Struct, frozen=True):
    """What a client asks for. `server_name` is as sent; `alpn` and `supported_versions` are in the client's order."""

    server_name: str | None
    alpn: tuple[bytes, ...]
    supported_versions: tuple[int, ...]

    @property
    def offers_tls13(self) -> bool:
        """Whether supported_versions (RFC 8446, section 4.2.1) has TLS 1.3."""
        return TLS_1_3 in self.supported_versions


class NeedMore(Struct, frozen=True):
    """So far it may be the beginning of a ClientHello."""


class NotTls(Struct, frozen=True):
    """The first bytes are no TLS handshake record."""

    reason: str


class Malformed(Struct, frozen=True):
    """TLS, but no well-formed ClientHello."""

    reason: str


class TooLarge(Struct, frozen=True):
    """A ClientHello that announces more than MAX_CLIENT_HELLO."""

    size: int


Parsed = ClientHello | NeedMore | NotTls | Malformed | TooLarge

_NEED_MORE = NeedMore()


class _BadError(Exception):
    """A length or a value that cannot be."""


class _Cursor:
    """Reads vectors (RFC 8446, section 3.4) off a buffer; raises _BadError where a length does not fit."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = start
        self._end = len(data) if end is None else end

    def __bool__(self) -> bool:
        return self._position < self._end

    def take(self, count: int) -> bytes:
        start, end = self._position, self._position + count
        if end > self._end:
            raise _BadError("a length field points beyond the end")
        self._position = end
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> "_Cursor":
        count = self.number(size)
        start = self._position
        self.take(count)
        return _Cursor(self._data, start, start + count)

    def extensions(self) -> Iterator[tuple[int, int, int]]:
        """Type, start and end of each extension that is left; no cursor for each saves 4 µs a hello."""
        data, at, end = self._data, self._position, self._end
        while at < end:
            start = at + 4
            if start > end:
                raise _BadError("a length field points beyond the end")
            at = start + (data[start - 2] << 8 | data[start - 1])
            if at > end:
                raise _BadError("a length field points beyond the end")
            yield data[start - 4] << 8 | data[start - 3], start, at

    def part(self, start: int, end: int) -> "_Cursor":
        """What lies there, whatever this cursor has read."""
        return _Cursor(self._data, start, end)

    def rest(self) -> bytes:
        return self.take(self._end - self._position)


def parse(data: bytes | bytearray | memoryview) -> Parsed:
    """Parses the beginning of a connection. Never raises; the answer for a prefix of a ClientHello is NeedMore."""
    message = bytearray()
    position, size = 0, len(data)
    wanted = HANDSHAKE_HEADER
    while len(message) < wanted:
        # Each byte that is there is judged, so that what is no TLS is known at its first byte.
        if position >= size:
            return _NEED_MORE
        if data[position] != CONTENT_HANDSHAKE:
            return (
                NotTls(f"the first byte is 0x{data[0]:02x}, not a handshake record's")
                if position == 0
                else Malformed("the ClientHello is interrupted by a record of another type")
            )
        if position + 1 < size and data[position + 1] != 3:
            return NotTls("the record's version is not TLS") if position == 0 else Malformed("a record is not TLS")
        if position + RECORD_HEADER > size:
            return _NEED_MORE
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if length == 0:
            return Malformed("a handshake record is empty (RFC 8446, section 5.1)")
        if length > MAX_RECORD:
            return Malformed(f"a record of {length} bytes is over the limit of 2^14 (RFC 8446, section 5.1)")
        message += data[position + RECORD_HEADER : position + RECORD_HEADER + length]
        position += RECORD_HEADER + length
        if message and message[0] != HANDSHAKE_CLIENT_HELLO:
            return Malformed(f"the handshake begins with message type {message[0]}, not a ClientHello")
        if len(message) >= HANDSHAKE_HEADER:
            wanted = HANDSHAKE_HEADER + int.from_bytes(message[1:4], "big")
            if wanted > MAX_CLIENT_HELLO:
                return TooLarge(wanted)
        if position > size:
            return _NEED_MORE
        if position > 2 * MAX_CLIENT_HELLO:
            return TooLarge(position)  # cut into tiny records
    try:
        return _body(_Cursor(bytes(message), HANDSHAKE_HEADER, wanted))
    except _BadError as error:
        return Malformed(str(error))


def _body(hello: _Cursor) -> ClientHello:
    hello.take(2)  # legacy_version
    hello.take(32)  # random
    hello.vector(1)  # legacy_session_id
    suites = hello.vector(2).rest()
    if not suites or len(suites) % 2:
        raise _BadError("the list of cipher suites is empty or odd")
    if not hello.vector(1):
        raise _BadError("the list of compression methods is empty")
    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    seen: set[int] = set()
    extensions = hello.vector(2) if hello else hello
    for kind, start, end in extensions.extensions():
        if kind in seen:
            raise _BadError(f"extension {kind} comes twice (RFC 8446, section 4.2)")
        seen.add(kind)
        if kind == EXTENSION_SERVER_NAME:
            server_name = _server_name(hello.part(start, end))
        elif kind == EXTENSION_ALPN:
            alpn = _alpn(hello.part(start, end))
        elif kind == EXTENSION_SUPPORTED_VERSIONS:
            packed = hello.part(start, end).vector(1).rest()
            if len(packed) % 2:
                raise _BadError("the list of supported versions is odd")
            versions = tuple(int.from_bytes(packed[i : i + 2], "big") for i in range(0, len(packed), 2))
    if hello:
        raise _BadError("bytes follow the extensions")
    return ClientHello(server_name, alpn, versions)


def _server_name(body: _Cursor) -> str | None:
    """RFC 6066, section 3: one name of type host_name; others are unknown."""
    names = body.vector(2)
    found: str | None = None
    while names:
        kind = names.number(1)
        name = names.vector(2).rest()
        if kind == 0:
            if found is not None:
                raise _BadError("two host names (RFC 6066, section 3)")
            if not name or not name.isascii():
                raise _BadError("the host name is empty or not ASCII (RFC 6066, section 3)")
            found = name.decode("ascii")
    return found


def _alpn(body: _Cursor) -> tuple[bytes, ...]:
    """RFC 7301, section 3.1."""
    protocols = body.vector(2)
    found = []
    while protocols:
        name = protocols.vector(1).rest()
        if not name:
            raise _BadError("an empty protocol name (RFC 7301, section 3.1)")
        found.append(name)
    return tuple(found)
