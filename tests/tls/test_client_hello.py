"""The ClientHello parser against real ClientHellos, every prefix of them, every cutting into records, and chaos."""

import itertools
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tls.client_hello import (
    MAX_CLIENT_HELLO,
    MAX_RECORDS,
    TLS_1_3,
    ClientHello,
    HelloParser,
    Malformed,
    NeedMore,
    NotTls,
    Parsed,
    TooLarge,
    parse,
)

NAME = "web.demo.serviceaccount.identity.example.test"


def heard(*words: str) -> bytes:
    """What a program sends first to a listener on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [word.replace("PORT", str(port)) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            listener.settimeout(20)
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                data = b""
                while isinstance(parse(data), NeedMore):
                    data += sock.recv(65536)
                return data
        finally:
            process.kill()
            process.wait()


@cache
def by_openssl() -> bytes:
    assert shutil.which("openssl")
    return heard("openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", NAME, "-alpn", "quietwire/1,h2")


@cache
def by_curl() -> bytes:
    return heard("curl", "-sk", "--resolve", f"{NAME}:PORT:127.0.0.1", f"https://{NAME}:PORT/")


@cache
def by_python(name: str = NAME, alpn: tuple[str, ...] = ("quietwire/1",), *, old: bool = False) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def seeds() -> list[bytes]:
    return [by_openssl(), by_curl(), by_python()]


def records(message: bytes, cuts: list[int]) -> bytes:
    """A handshake message, cut into records at these places."""
    places = sorted({0, len(message), *(cut for cut in cuts if 0 < cut < len(message))})
    parts = [message[a:b] for a, b in itertools.pairwise(places)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def test_openssls_hello_is_understood() -> None:
    hello = parse(by_openssl())
    assert isinstance(hello, ClientHello)
    assert (hello.server_name, hello.alpn) == (NAME, (b"quietwire/1", b"h2"))
    assert hello.offers_tls13


def test_curls_hello_is_understood() -> None:
    hello = parse(by_curl())
    assert isinstance(hello, ClientHello)
    assert hello.server_name == NAME
    assert b"http/1.1" in hello.alpn
    assert hello.offers_tls13


def test_a_tls_1_2_hello_offers_no_tls_1_3() -> None:
    hello = parse(by_python(old=True))
    assert isinstance(hello, ClientHello)
    assert not hello.offers_tls13


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\.[a-z]{1,10}){1,4}", fullmatch=True))
def test_the_name_is_what_openssls_server_hears(name: str) -> None:
    said: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _object, server_name, _context: said.append(server_name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    data = by_python(name, ())
    incoming.write(data)
    with pytest.raises(ssl.SSLError):  # it has no certificate to go on with
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    hello = parse(data)
    assert isinstance(hello, ClientHello)
    assert [hello.server_name] == said


def test_every_prefix_needs_more() -> None:
    for seed in seeds():
        for size in range(len(seed)):
            assert parse(seed[:size]) == NeedMore(), size


@given(st.sampled_from([0, 1, 2]), st.lists(st.integers(1, 2000), max_size=40))
def test_any_cutting_into_records_is_the_same_hello(which: int, cuts: list[int]) -> None:
    seed = seeds()[which]
    cut = records(seed[5:], cuts)
    assert parse(cut) == parse(seed)
    assert isinstance(parse(cut[:-1]), NeedMore)


class Counted(bytearray):
    """Counts the bytes that somebody looks at."""

    looked_at = 0

    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        self.looked_at += 1 if isinstance(found, int) else len(found)
        return found


def in_pieces(data: bytes, cuts: Iterator[int]) -> tuple[Parsed, int]:
    """What is found in the end, and how many bytes were looked at."""
    parser, arrived, at, found = HelloParser(), Counted(), 0, parse(b"")
    while at < len(data):
        size = next(cuts)
        arrived += data[at : at + size]
        at += size
        found = parser.look(arrived)
        assert found == parse(bytes(arrived)), "at each moment it is what it would be at once"
    return found, arrived.looked_at


@given(
    st.sampled_from([0, 1, 2]),
    st.lists(st.integers(1, 2000), max_size=MAX_RECORDS),
    st.lists(st.integers(1, 600), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), max_size=2),
)
def test_however_it_arrives_the_same_is_found_and_no_byte_is_looked_at_again_and_again(
    which: int, record_cuts: list[int], cuts: list[int], changes: list[tuple[int, int]]
) -> None:
    seed = bytearray(records(seeds()[which][5:], record_cuts))
    for place, value in changes:
        seed[place % len(seed)] = value
    _, looked_at = in_pieces(bytes(seed), itertools.cycle(cuts))
    assert looked_at <= 10 * len(seed)


@pytest.mark.parametrize("cut_up", [1, MAX_RECORDS])
def test_byte_by_byte_a_hello_costs_as_much_as_it_is_long(cut_up: int) -> None:
    costs = []
    for size in (1000, 4000, 16000):
        message = b"\x01" + size.to_bytes(3, "big") + bytes(size)
        stream = records(message, list(range(1, cut_up)))
        parser, arrived = HelloParser(), Counted()
        for byte in stream:
            arrived.append(byte)
            found = parser.look(arrived)
        assert isinstance(found, Malformed), "it has no cipher suites"
        costs.append(arrived.looked_at / len(stream))
    assert max(costs) < 10
    assert costs == sorted(costs, reverse=True), "a longer one costs no more for each byte"


@given(st.binary(max_size=200))
def test_bytes_that_follow_the_hello_do_not_matter(tail: bytes) -> None:
    assert parse(by_python() + tail) == parse(by_python())


@given(st.binary(min_size=1, max_size=300))
def test_arbitrary_bytes_never_raise_and_what_is_no_handshake_is_known_at_once(data: bytes) -> None:
    found = parse(data)
    if data[0] != 22:
        assert isinstance(found, NotTls)
        assert isinstance(parse(data[:1]), NotTls)


@given(st.data())
def test_a_mutated_hello_never_raises(data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(seeds())))
    for _ in range(data.draw(st.integers(1, 8))):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(parse(seed), (ClientHello, NeedMore, NotTls, Malformed, TooLarge))


@given(st.binary(max_size=400))
def test_an_arbitrary_body_of_the_announced_length_never_needs_more(body: bytes) -> None:
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    assert isinstance(parse(records(message, [])), (ClientHello, Malformed))


def test_a_large_hello_is_known_by_its_length_field() -> None:
    announced = b"\x16\x03\x01\x40\x00\x01" + (MAX_CLIENT_HELLO + 1).to_bytes(3, "big")
    assert isinstance(parse(announced), TooLarge)


def test_a_hello_in_tiny_records_is_too_large_as_soon_as_there_are_too_many() -> None:
    message = b"\x01" + (16000).to_bytes(3, "big") + bytes(16000)
    tiny = records(message, list(range(16004)))
    assert isinstance(parse(tiny[: 6 * MAX_RECORDS]), NeedMore)
    found = parse(tiny[: 6 * MAX_RECORDS + 5])
    assert isinstance(found, TooLarge)
    assert str(MAX_RECORDS) in found.reason


def variants() -> Iterator[tuple[str, bytes]]:
    good = by_python()
    yield "another message type", good[:5] + b"\x02" + good[6:]
    yield "an empty record", b"\x16\x03\x01\x00\x00"
    yield "a record of another type in between", records(good[5:], [10])[:15] + b"\x17\x03\x03\x00\x01x"
    yield "a record over 2^14", b"\x16\x03\x01\x40\x01\x01"


def test_what_is_tls_but_no_well_formed_hello_is_malformed() -> None:
    for what, data in variants():
        assert isinstance(parse(data), Malformed), what


def test_versions_are_the_extensions_own() -> None:
    hello = parse(by_python())
    assert isinstance(hello, ClientHello)
    assert TLS_1_3 in hello.supported_versions
