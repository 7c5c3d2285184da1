"""Clients that send garbage, half of something, too much, or almost nothing: bounded, refused, others unaffected."""

import contextlib
import os
import random
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.test_streams import memory
from tests.netns.world import SOON, Echo, World
from tests.tls.records import Peer, Writer

PORT = 7000
SNI = "server.demo.serviceaccount.identity.example.test"
IPV6_FREEBIND = 78
"""linux/in6.h: an address that is a route's and no interface's may be bound."""
GROWTH_LIMIT = 24 << 20
"""Bytes that the workers may grow by under several hundred hostile connections."""


class Place(NamedTuple):
    world: World
    client: Player
    server: Player
    stranger: Player
    public: Player
    """A pod that lets in whoever comes."""


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    client, server, stranger = world.pod("client"), world.pod("server"), world.stranger("stranger")
    public = world.pod("public", annotations={"config.linkerd.io/default-inbound-policy": "all-unauthenticated"})
    echoes = [Echo(world, pod, PORT) for pod in (server, public)]
    world.start()
    yield Place(world, client, server, stranger, public)
    for echo in echoes:
        echo.close()


def client_hello(name: str = SNI) -> bytes:
    """A real ClientHello, by OpenSSL."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def send(place: Place, data: bytes, *, end: bool = False) -> bytes:
    """Sends bytes as a stranger; what came back before the reset or the end."""
    got = b""
    with place.world.connect(place.stranger, place.server.ipv4, PORT) as sock:
        sock.settimeout(30)
        try:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(100):
                got += chunk
        except ConnectionError:
            return got
    return got


def others_are_unaffected(place: Place) -> None:
    with place.world.connect(place.client, place.server.ipv4, PORT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"


def denials(place: Place, reason: str) -> float:
    return place.world.count("quietwire_denials_total", reason=reason)


def test_garbage_is_refused_at_once(place: Place) -> None:
    before = denials(place, "unauthenticated")
    chaos = random.Random(7)  # noqa: S311 - the same garbage each time
    for size in (1, 5, 100, 5000, 100000):
        garbage = bytes([chaos.choice([0, 1, 21, 23, 71, 255])]) + chaos.randbytes(size)
        assert send(place, garbage) == b""
    assert denials(place, "unauthenticated") == before + 5
    others_are_unaffected(place)


def test_half_a_client_hello_and_then_the_end_is_refused(place: Place) -> None:
    before = denials(place, "unauthenticated")
    hello = client_hello()
    for size in (1, 4, 5, 6, 9, 50, len(hello) - 1):
        assert send(place, hello[:size], end=True) == b""
    assert denials(place, "unauthenticated") == before + 7


def test_a_client_hello_of_64_kib_is_refused_as_soon_as_it_says_so(place: Place) -> None:
    before = denials(place, "client_hello_too_large")
    hello = client_hello()
    large = bytes([1]) + (65536).to_bytes(3, "big") + hello[9:] + bytes(65536)
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (large[at : at + 16384] for at in range(0, len(large), 16384))
    )
    assert send(place, records) == b""
    assert send(place, records[:20]) == b"", "its length field is enough"
    assert denials(place, "client_hello_too_large") == before + 2
    others_are_unaffected(place)


def test_a_client_hello_in_tiny_records_is_refused_before_it_is_all_there(place: Place) -> None:
    before = denials(place, "client_hello_too_large")
    message = bytes([1]) + (16000).to_bytes(3, "big") + bytes(100)
    assert send(place, b"".join(b"\x16\x03\x01\x00\x01" + bytes([octet]) for octet in message)) == b""
    assert denials(place, "client_hello_too_large") == before + 1
    others_are_unaffected(place)


def test_a_malformed_client_hello_is_refused(place: Place) -> None:
    before = denials(place, "client_hello_malformed")
    hello = bytearray(client_hello())
    hello[43] = 255  # the session id reaches beyond the end
    assert send(place, bytes(hello)) == b""
    assert denials(place, "client_hello_malformed") == before + 1


@pytest.mark.parametrize("address", ["::ffff:0:a00:1", "::ffff:1:2:3", "::fffe:a00:1"])
def test_an_address_that_only_looks_as_if_it_were_a_mapped_one_is_a_strangers_as_any_other(
    place: Place, address: str
) -> None:
    """::ffff:0:a00:1 is no IPv4-mapped address (RFC 4291, section 2.5.5.2); ::ffff:a00:1 is."""
    world = place.world
    for words in (
        ("ip", "-n", place.stranger.netns, "addr", "add", f"{address}/128", "dev", "eth0", "nodad"),
        ("ip", "-n", place.server.netns, "route", "add", f"{address}/128", "via", place.stranger.ipv6),
    ):
        done = world.run(world.node, *words)
        assert done.returncode == 0, done.stderr
    since = world.said()
    with world.open_socket(place.stranger, 6) as sock:
        sock.bind((address, 0))
        sock.connect((place.server.ipv6, PORT))
        sock.sendall(b"hello")
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""
        client = f"[{address}]:{sock.getsockname()[1]}"
    assert world.denial(since, client=client)["outcome"] == "unauthenticated"


def test_garbage_after_a_proper_client_hello_ends_the_handshake(place: Place) -> None:
    before = denials(place, "handshake_failed")
    assert send(place, client_hello() + os.urandom(500))[:1] in {b"\x16", b"\x15"}, "a ServerHello or an alert"
    assert denials(place, "handshake_failed") == before + 1
    others_are_unaffected(place)


def test_a_client_that_sends_one_byte_a_second_is_ended_in_time_and_costs_nobody_else_anything(place: Place) -> None:
    before = denials(place, "handshake_timeout")
    hello = client_hello()
    ended = threading.Event()

    def trickle() -> None:
        with place.world.connect(place.stranger, place.server.ipv4, PORT) as sock:
            sock.settimeout(1.0)
            for byte in hello:
                try:
                    sock.sendall(bytes([byte]))
                    if not sock.recv(1):
                        break
                except TimeoutError:
                    continue  # a second has passed: the next byte
                except ConnectionError:
                    break
            else:
                return
        ended.set()

    threads = [threading.Thread(target=trickle) for _ in range(5)]
    for thread in threads:
        thread.start()
    others_are_unaffected(place)
    for thread in threads:
        thread.join(60)
    assert ended.is_set()
    assert denials(place, "handshake_timeout") == before + 5


def test_many_hostile_connections_leave_no_growth_behind(place: Place) -> None:
    others_are_unaffected(place)
    hello = client_hello()
    before = memory(place.world)
    for _ in range(3):
        crowd = [place.world.connect(place.stranger, place.server.ipv4, PORT) for _ in range(150)]
        for number, sock in enumerate(crowd):
            try:
                sock.sendall((hello[: 1 + number], os.urandom(64), hello + bytes(20000))[number % 3])
            except ConnectionError:
                continue
        others_are_unaffected(place)
        for sock in crowd:
            sock.close()
    place.world.until(lambda: place.world.count("quietwire_connections_live") == 0, "nothing is left")
    assert memory(place.world) - before < GROWTH_LIMIT
    for pid in place.world.workers().values():
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 200, "no descriptor is left behind"


@pytest.mark.parametrize("version", [4, 6])
def test_one_source_cannot_fill_the_set_up_of_a_pod(place: Place, version: int) -> None:
    """Over IPv6 it comes from another address of its /64 each time."""
    world, network = place.world, "2001:db8:77:1"
    before = denials(place, "too_many_opening")
    if version == 6:
        for words in (
            ("ip", "-n", place.stranger.netns, "route", "add", "local", f"{network}::/64", "dev", "lo"),
            ("ip", "-n", place.server.netns, "route", "add", f"{network}::/64", "via", place.stranger.ipv6),
        ):
            done = world.run(world.node, *words)
            assert done.returncode == 0, done.stderr
    crowd = []
    for number in range(1300):  # two workers hold 512 each
        sock = world.open_socket(place.stranger, version)
        sock.setblocking(False)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            sock.bind((f"{network}::{number:x}:1", 0))
        sock.connect_ex((place.server.address(version), PORT))
        crowd.append(sock)
    world.until(lambda: denials(place, "too_many_opening") > before, "the bound is met")
    others_are_unaffected(place)
    for sock in crowd:
        sock.close()


def shake_hands(place: Place, directory: Path) -> tuple[socket.socket, Writer]:
    """A TLS connection without a certificate to a pod that admits those, after one exchange; and who speaks on it."""
    sock = place.world.connect(place.stranger, place.public.ipv4, PORT)
    peer = Peer(directory, name=SNI.replace("server", "public", 1))

    def exchange(said: bytes) -> bytes:
        if said:
            sock.sendall(said)
        return sock.recv(65536)

    peer.shake_hands(exchange)
    writer = peer.writer()
    sock.sendall(peer.last_flight() + writer.record(b"hello"))
    assert sock.recv(65536), "the ticket and the echo"
    return sock, writer


def test_clients_that_flood_new_keys_are_ended_and_others_are_served_meanwhile(place: Place, tmp_path: Path) -> None:
    before = denials(place, "tls_flood")
    crowd = [shake_hands(place, tmp_path) for _ in range(4)]
    floods = [b"".join(writer.key_update() for _ in range(10_000)) for _, writer in crowd]

    def pour(sock: socket.socket, flood: bytes) -> None:
        with contextlib.suppress(OSError):  # it is ended in the midst of it
            sock.sendall(flood)

    threads = [
        threading.Thread(target=pour, args=(sock, flood)) for (sock, _), flood in zip(crowd, floods, strict=True)
    ]
    for thread in threads:
        thread.start()
    others_are_unaffected(place)
    for thread in threads:
        thread.join(SOON)
    for sock, _ in crowd:
        with contextlib.suppress(ConnectionError):
            while sock.recv(65536):
                pass
        sock.close()
    place.world.until(lambda: denials(place, "tls_flood") == before + 4, "each of them is counted")
    said = place.world.denial(outcome="tls_flood", pod="demo/public")
    assert "KeyUpdate" in said["reason"]


def test_a_client_that_takes_new_keys_for_each_thing_that_it_says_is_served(place: Place) -> None:
    """OpenSSL's own client: K is a KeyUpdate that asks for the other direction's too."""
    client = place.world.spawn(
        place.stranger,
        *("openssl", "s_client", "-connect", f"{place.public.ipv4}:{PORT}", "-servername"),
        SNI.replace("server", "public", 1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    commands, output = client.stdin, client.stdout

    def said(words: bytes, answer: bytes) -> bool:
        commands.write(words + b"\n")
        commands.flush()
        return any(answer in line for line in output)

    assert said(b"hello", b"hello")
    for number in range(20):
        assert said(b"K", b"KEYUPDATE")
        assert said(b"word %d" % number, b"word %d" % number)
    commands.close()
    assert client.wait(SOON) == 0
