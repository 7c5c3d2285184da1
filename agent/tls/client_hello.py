"""The ClientHello, parsed from the first bytes of a connection: RFC 8446, sections 4.1.2 and 5.1.

Pure: bytes in, a value out. Nothing is consumed, so the TLS stack reads the same bytes again.
"""

from msgspec import Struct

MAX_CLIENT_HELLO = 16384
"""Bytes of records that a ClientHello may take here. OpenSSL's and browsers' stay below 2 KiB, post-quantum key
shares included; a longer one is refused as soon as a length field announces it."""

MAX_RECORDS = 64
"""Records that a ClientHello may come in. Nobody cuts one into more than a few: RFC 8449 has no record smaller than 64
bytes, and a hello comes before anything like that is agreed on."""

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
    """A ClientHello that announces more than MAX_CLIENT_HELLO, or comes in more than MAX_RECORDS."""

    reason: str


Parsed = ClientHello | NeedMore | NotTls | Malformed | TooLarge

_NEED_MORE = NeedMore()


_BEYOND = "a length field points beyond the end"


class _BadError(Exception):
    """A length or a value that cannot be."""


def parse(data: bytes | bytearray | memoryview) -> Parsed:
    """Parses the beginning of a connection. Never raises; the answer for a prefix of a ClientHello is NeedMore."""
    return HelloParser().look(data)


class HelloParser:
    """The same for a beginning that grows: each byte is looked at once, however it arrives.

    What is no TLS is known at its first byte, and what is no ClientHello by the first that says so.
    """

    __slots__ = ("_at", "_found", "_message", "_record_end", "_records")

    def __init__(self) -> None:
        self._found: Parsed = _NEED_MORE
        self._message = bytearray()
        """Of the handshake message, what its records have brought."""
        self._at = 0
        """Bytes that were looked at, but for a record's header that is not all there."""
        self._record_end = 0
        self._records = 0

    def look(self, data: bytes | bytearray | memoryview) -> Parsed:
        """Looks at the beginning of a connection, which may have grown since. What was found once stays."""
        size = len(data)
        while self._found is _NEED_MORE and self._at < size:
            if self._at == self._record_end:
                found = self._header(data)
                if found is None:
                    return _NEED_MORE
                self._found = found
            else:
                end = self._record_end if self._record_end < size else size  # noqa: FURB136 - a call costs more
                self._message += data[self._at : end]
                self._at = end
                self._found = self._judge()
        return self._found

    def _header(self, data: bytes | bytearray | memoryview) -> Parsed | None:
        """Reads a record's header; None where it is not all there, and the next look is from its beginning again."""
        at, first = self._at, self._records == 0
        if data[at] != CONTENT_HANDSHAKE:
            return (
                NotTls(f"the first byte is 0x{data[at]:02x}, not a handshake record's")
                if first
                else Malformed("the ClientHello is interrupted by a record of another type")
            )
        if at + 1 < len(data) and data[at + 1] != 3:
            return NotTls("the record's version is not TLS") if first else Malformed("a record is not TLS")
        if at + RECORD_HEADER > len(data):
            return None
        length = data[at + 3] << 8 | data[at + 4]
        if length == 0:
            return Malformed("a handshake record is empty (RFC 8446, section 5.1)")
        if length > MAX_RECORD:
            return Malformed(f"a record of {length} bytes is over the limit of 2^14 (RFC 8446, section 5.1)")
        self._records += 1
        if self._records > MAX_RECORDS:
            return TooLarge(f"the ClientHello is cut into more than {MAX_RECORDS} records")
        self._at = at + RECORD_HEADER
        self._record_end = self._at + length
        return _NEED_MORE

    def _judge(self) -> Parsed:
        """What the message is, as far as it is there."""
        message = self._message
        if message[0] != HANDSHAKE_CLIENT_HELLO:
            return Malformed(f"the handshake begins with message type {message[0]}, not a ClientHello")
        if len(message) < HANDSHAKE_HEADER:
            return _NEED_MORE
        wanted = HANDSHAKE_HEADER + (message[1] << 16 | message[2] << 8 | message[3])
        if wanted > MAX_CLIENT_HELLO:
            return TooLarge(f"the ClientHello announces {wanted} bytes")
        if self._at < self._record_end or len(message) < wanted:
            return _NEED_MORE
        try:
            return _body(bytes(message), HANDSHAKE_HEADER, wanted)
        except _BadError as error:
            return Malformed(str(error))


def _vector(data: bytes, at: int, end: int, size: int) -> tuple[int, int]:
    """Where the content of a vector (RFC 8446, section 3.4) whose length takes `size` bytes begins and ends."""
    start = at + size
    if start > end:
        raise _BadError(_BEYOND)
    stop = start + (data[at] if size == 1 else data[at] << 8 | data[at + 1])
    if stop > end:
        raise _BadError(_BEYOND)
    return start, stop


def _body(data: bytes, at: int, end: int) -> ClientHello:
    """Every connection comes by here, and pays: so no object for each part."""
    _, at = _vector(data, at + 2 + 32, end, 1)  # after legacy_version and random: legacy_session_id
    start, at = _vector(data, at, end, 2)
    if start == at or (at - start) % 2:
        raise _BadError("the list of cipher suites is empty or odd")
    start, at = _vector(data, at, end, 1)
    if start == at:
        raise _BadError("the list of compression methods is empty")
    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    seen: set[int] = set()
    if at < end:
        at, stop = _vector(data, at, end, 2)
        if stop < end:
            raise _BadError("bytes follow the extensions")
    while at < end:
        start = at + 4
        if start > end:
            raise _BadError(_BEYOND)
        kind = data[at] << 8 | data[at + 1]
        at = start + (data[at + 2] << 8 | data[at + 3])
        if at > end:
            raise _BadError(_BEYOND)
        if kind in seen:
            raise _BadError(f"extension {kind} comes twice (RFC 8446, section 4.2)")
        seen.add(kind)
        if kind == EXTENSION_SERVER_NAME:
            server_name = _server_name(data, start, at)
        elif kind == EXTENSION_ALPN:
            alpn = _alpn(data, start, at)
        elif kind == EXTENSION_SUPPORTED_VERSIONS:
            start, stop = _vector(data, start, at, 1)
            if (stop - start) % 2:
                raise _BadError("the list of supported versions is odd")
            versions = tuple(data[i] << 8 | data[i + 1] for i in range(start, stop, 2))
    return ClientHello(server_name, alpn, versions)


def _server_name(data: bytes, at: int, end: int) -> str | None:
    """RFC 6066, section 3: one name of type host_name; others are unknown."""
    at, end = _vector(data, at, end, 2)
    found: str | None = None
    while at < end:
        kind = data[at]
        start, at = _vector(data, at + 1, end, 2)
        if kind == 0:
            if found is not None:
                raise _BadError("two host names (RFC 6066, section 3)")
            name = data[start:at]
            if not name or not name.isascii():
                raise _BadError("the host name is empty or not ASCII (RFC 6066, section 3)")
            found = name.decode("ascii")
    return found


def _alpn(data: bytes, at: int, end: int) -> tuple[bytes, ...]:
    """RFC 7301, section 3.1."""
    at, end = _vector(data, at, end, 2)
    found = []
    while at < end:
        start, at = _vector(data, at, end, 1)
        if start == at:
            raise _BadError("an empty protocol name (RFC 7301, section 3.1)")
        found.append(data[start:at])
    return tuple(found)
