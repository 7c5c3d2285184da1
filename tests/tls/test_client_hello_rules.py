"""Each rule of a ClientHello by itself, with hellos made byte by byte: RFC 8446, sections 4.1.2, 4.2 and 5.1."""

import struct

import pytest

from agent.tls.client_hello import MAX_CLIENT_HELLO, ClientHello, Malformed, NeedMore, NotTls, TooLarge, parse

SERVER_NAME, ALPN, VERSIONS, PADDING = 0, 16, 43, 21


def u8(body: bytes) -> bytes:
    return bytes([len(body)]) + body


def u16(body: bytes) -> bytes:
    return struct.pack("!H", len(body)) + body


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!H", kind) + u16(body)


def host(name: bytes) -> bytes:
    return b"\0" + u16(name)


SNI = extension(SERVER_NAME, u16(host(b"web.demo")))
H2 = extension(ALPN, u16(u8(b"h2")))
TLS_1_3_AND_2 = extension(VERSIONS, u8(b"\3\4\3\3"))


def hello(
    extensions: bytes | None = SNI + H2 + TLS_1_3_AND_2,
    *,
    suites: bytes = b"\x13\1\x13\2",
    compression: bytes = b"\0",
    kind: int = 1,
    behind: bytes = b"",
    announced: int | None = None,
) -> bytes:
    """A handshake message."""
    body = b"\3\3" + bytes(32) + u8(bytes(32)) + u16(suites) + u8(compression)
    body += b"" if extensions is None else u16(extensions)
    body += behind
    return bytes([kind]) + (len(body) if announced is None else announced).to_bytes(3, "big") + body


def record(message: bytes, *, kind: int = 22, version: bytes = b"\3\1") -> bytes:
    return bytes([kind]) + version + u16(message)


def test_what_a_hello_says_is_read_whole() -> None:
    found = parse(record(hello()))
    assert isinstance(found, ClientHello)
    assert (found.server_name, found.alpn, found.supported_versions) == ("web.demo", (b"h2",), (0x0304, 0x0303))


@pytest.mark.parametrize("extensions", [None, b"", extension(PADDING, b""), extension(0xFF01, b"\0")])
def test_what_it_does_not_say_is_none(extensions: bytes | None) -> None:
    found = parse(record(hello(extensions)))
    assert isinstance(found, ClientHello)
    assert (found.server_name, found.alpn) == (None, ())


def test_the_kind_of_an_extension_has_two_bytes_and_its_length_too() -> None:
    """One whose low byte is that of another is not that one; a long one before others moves them."""
    other = extension(0x0100 | ALPN, u16(u8(b"no"))) + extension(0x0200, bytes(300))
    found = parse(record(hello(other + SNI + H2)))
    assert isinstance(found, ClientHello)
    assert (found.server_name, found.alpn) == ("web.demo", (b"h2",))


MALFORMED = {
    "the list of cipher suites is empty or odd": [hello(suites=b""), hello(suites=b"\x13\1\x13")],
    "the list of compression methods is empty": [hello(compression=b"")],
    "bytes follow the extensions": [hello(behind=b"\0")],
    "a length field points beyond the end": [
        hello(b"\0\0"),
        hello(struct.pack("!HH", PADDING, 1)),
        hello(extension(VERSIONS, b"\3\3\4")),
        hello(extension(SERVER_NAME, u16(b"\0\0\5web"))),
        hello(extension(ALPN, u16(b"\3h2"))),
    ],
    "extension 21 comes twice (RFC 8446, section 4.2)": [hello(extension(PADDING, b"") * 2)],
    "the list of supported versions is odd": [hello(extension(VERSIONS, u8(b"\3\4\3")))],
    "an empty protocol name (RFC 7301, section 3.1)": [hello(extension(ALPN, u16(u8(b""))))],
    "two host names (RFC 6066, section 3)": [hello(extension(SERVER_NAME, u16(host(b"a") + host(b"b"))))],
    "the host name is empty or not ASCII (RFC 6066, section 3)": [
        hello(extension(SERVER_NAME, u16(host(b"")))),
        hello(extension(SERVER_NAME, u16(host(b"\xff")))),
    ],
    "the handshake begins with message type 2, not a ClientHello": [hello(kind=2)],
}


@pytest.mark.parametrize(
    ("reason", "message"), [(reason, message) for reason, messages in MALFORMED.items() for message in messages]
)
def test_each_rule_is_told_by_its_words(reason: str, message: bytes) -> None:
    assert parse(record(message)) == Malformed(reason)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x17", NotTls("the first byte is 0x17, not a handshake record's")),
        (b"\x16\2", NotTls("the record's version is not TLS")),
        (record(hello()[:9]) + b"\x17", Malformed("the ClientHello is interrupted by a record of another type")),
        (record(hello()[:9]) + b"\x16\2", Malformed("a record is not TLS")),
        (record(b""), Malformed("a handshake record is empty (RFC 8446, section 5.1)")),
        (
            b"\x16\3\1" + struct.pack("!H", 16385),
            Malformed("a record of 16385 bytes is over the limit of 2^14 (RFC 8446, section 5.1)"),
        ),
    ],
)
def test_records_that_are_none_are_told_by_their_first_wrong_byte(data: bytes, expected: object) -> None:
    assert parse(data) == expected


def test_a_hello_of_the_largest_size_is_taken_and_one_byte_more_is_not() -> None:
    header = 4
    room = MAX_CLIENT_HELLO - header - len(hello(b"")) + header
    largest = hello(extension(PADDING, bytes(room - 4)))
    assert len(largest) == MAX_CLIENT_HELLO
    cut = [largest[at : at + 16384] for at in range(0, len(largest), 16384)]
    assert isinstance(parse(b"".join(record(part) for part in cut)), ClientHello)
    larger = hello(announced=MAX_CLIENT_HELLO - header + 1)
    assert parse(record(larger[:4])) == TooLarge(f"the ClientHello announces {MAX_CLIENT_HELLO + 1} bytes")
    assert isinstance(parse(record(hello(announced=MAX_CLIENT_HELLO - header)[:4])), NeedMore)
    assert isinstance(parse(record(hello(announced=1 << 16)[:4])), TooLarge), "the length has three bytes"
