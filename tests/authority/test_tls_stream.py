"""TLS under the authority's API: bytes in any cutting, bounded work, and an end in order."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from agent.authority import tls_stream
from agent.authority.tls_stream import VERIFIED_CHAIN, TlsStream
from agent.outcome import Outcome
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsFailure
from tests.tls.pki import Pki
from tests.tls.records import Peer, Writer

PKI = Pki()
OURS = Contexts(PKI.svid("authority"), PKI.bundle())
LARGE = 8 * 1024 * 1024
"""More than both sockets' buffers hold."""


class Upper(asyncio.Protocol):
    """What a TlsStream carries: remembers what it heard, and can wait for it."""

    def __init__(self) -> None:
        self.heard = b""
        self.largest = 0
        self.transport: asyncio.Transport
        self.is_lost = asyncio.Event()
        self.is_here = asyncio.Event()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.is_here.set()

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.largest = max(self.largest, len(data))
        self._news.set()

    async def until(self, size: int) -> bytes:
        while len(self.heard) < size:
            self._news.clear()
            await self._news.wait()
        return self.heard

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()


class Joint:
    """A TlsStream on one end of a pair of sockets, and whoever is tested with on the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.upper = Upper()
        self.is_lost = asyncio.Event()
        self.failures: list[TlsFailure] = []
        self.here, self.peer = socket.socketpair()
        self.here.setblocking(False)
        self.peer.setblocking(False)

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        made = partial(TlsStream, OURS.server, lambda: self.upper, self.is_lost.set, self.failures.append)
        self.wire, self.stream = await loop.connect_accepted_socket(made, self.here)

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, data)

    async def hear(self) -> bytes:
        """Some bytes; none where the other end has ended."""
        return await asyncio.get_running_loop().sock_recv(self.peer, 65536)

    async def ended(self) -> None:
        """The stream sends nothing more: it has ended, in order or not."""
        try:
            while await self.hear():
                pass
        except ConnectionError:
            return

    async def shake_hands(self, peer: Peer, *, in_pieces_of: int = 1 << 20) -> None:
        """A whole handshake of the standard library's client."""
        while True:
            try:
                peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush(peer, in_pieces_of)
                peer._in.write(await self.hear())
                continue
            break
        await self._flush(peer, in_pieces_of)
        await self.upper.is_here.wait()

    async def _flush(self, peer: Peer, size: int) -> None:
        said = peer.last_flight()
        for start in range(0, len(said), size):
            await self.say(said[start : start + size])

    async def writer(self) -> Writer:
        """A client after its handshake, that keeps to the letter only."""
        peer = Peer(self.directory)
        await self.shake_hands(peer)
        return peer.writer()


@pytest.fixture
async def joint(tmp_path: Path) -> AsyncIterator[Joint]:
    """One whose handshake has not begun."""
    made = Joint(tmp_path)
    await made.begin()
    yield made
    made.peer.close()
    made.wire.abort()
    async with asyncio.timeout(10):
        await made.is_lost.wait()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_in_whatever_pieces_it_comes_the_same_is_heard(joint: Joint, size: int) -> None:
    peer = Peer(joint.directory)
    await joint.shake_hands(peer, in_pieces_of=size)
    writer = peer.writer()
    stream = b"".join(writer.record(b"%05d" % number) for number in range(100))
    for start in range(0, len(stream), size):
        await joint.say(stream[start : start + size])
    assert await joint.upper.until(500) == b"".join(b"%05d" % number for number in range(100))


async def test_many_records_at_once_are_opened_in_turns(joint: Joint) -> None:
    """One turn opens 512; what is left is not lost, and comes in order."""
    writer = await joint.writer()
    words = [b"%08d" % number for number in range(3000)]
    await joint.say(b"".join(map(writer.record, words)))
    assert await joint.upper.until(8 * len(words)) == b"".join(words)
    assert joint.upper.largest <= 512 * 8


async def test_the_protocol_above_knows_who_it_speaks_with(joint: Joint) -> None:
    svid = PKI.svid("caller")
    await joint.shake_hands(Peer(joint.directory, svid=svid))
    chain = joint.upper.transport.get_extra_info(VERIFIED_CHAIN)
    assert chain[0] == ssl.PEM_cert_to_DER_cert(svid.chain_pem.decode().partition("-----END CERTIFICATE-----")[0] + END)
    assert len(chain) == 3, "leaf, issuer, root"


END = "-----END CERTIFICATE-----\n"


async def test_whoever_shows_no_certificate_has_no_chain(joint: Joint) -> None:
    await joint.shake_hands(Peer(joint.directory))
    assert joint.upper.transport.get_extra_info(VERIFIED_CHAIN) == []
    assert joint.upper.transport.get_extra_info("sslcontext") is not None, "it is https"


async def flood_of_keys(joint: Joint) -> None:
    writer = await joint.writer()
    await joint.say(b"".join(writer.key_update() for _ in range(200)))


async def heap_of_certificates(joint: Joint) -> None:
    """A hundred kilobytes of them would take the machine a tenth of a second to look at."""
    svid = PKI.svid("heap")
    heap = msgspec.structs.replace(svid, chain_pem=svid.chain_pem + 40 * svid.chain_pem)
    await only_shown(joint, Peer(joint.directory, svid=heap))


async def certificate_of_another_mesh(joint: Joint) -> None:
    await only_shown(joint, Peer(joint.directory, svid=Pki().svid("foreign")))


async def nonsense(joint: Joint) -> None:
    await joint.say(b"GET / HTTP/1.1\r\n\r\n")


async def only_shown(joint: Joint, peer: Peer) -> None:
    """A client's side of the handshake, which it believes to be complete before its certificate is looked at."""
    while True:
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            await joint.say(peer.last_flight())
            peer._in.write(await joint.hear())
            continue
        break
    await joint.say(peer.last_flight())


@pytest.mark.parametrize(
    ("attack", "is_above", "outcome"),
    [
        (flood_of_keys, True, Outcome.TLS_FLOOD),
        (heap_of_certificates, False, Outcome.HANDSHAKE_FAILED),
        (certificate_of_another_mesh, False, Outcome.CERTIFICATE_UNTRUSTED),
        (nonsense, False, Outcome.HANDSHAKE_FAILED),
    ],
)
async def test_what_the_data_path_refuses_is_refused_here(
    joint: Joint, attack: Callable[[Joint], Awaitable[None]], is_above: bool, outcome: Outcome
) -> None:
    """And it is told by an alert before the end; the protocol above hears of nobody that is not let in."""
    await attack(joint)
    async with asyncio.timeout(10):
        await joint.ended()
    assert joint.upper.is_here.is_set() is is_above
    assert [failure.outcome for failure in joint.failures] == [outcome]
    joint.peer.close()
    async with asyncio.timeout(10):
        await joint.is_lost.wait()


async def test_a_refused_peer_hears_why(joint: Joint) -> None:
    peer = Peer(joint.directory, svid=Pki().svid("foreign"))
    await only_shown(joint, peer)
    peer._in.write(await joint.hear())
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        peer.tls.read()


async def test_a_handshake_that_does_not_go_on_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_stream, "HANDSHAKE_SECONDS", 0.01)
    joint = Joint(tmp_path)
    await joint.begin()
    await joint.say(b"\x16\x03")
    async with asyncio.timeout(10):
        await joint.is_lost.wait()
    assert not joint.upper.is_here.is_set()
    joint.peer.close()


async def test_a_connection_outlives_its_handshakes_clock(joint: Joint) -> None:
    await joint.shake_hands(Peer(joint.directory))
    assert joint.stream._clock.cancelled()


async def test_an_answer_comes_whole_however_slowly_it_is_taken(joint: Joint) -> None:
    """And while it is not taken, the peer is not read from: what it says could want answers too."""
    peer = Peer(joint.directory)
    await joint.shake_hands(peer)
    writer = peer.writer()
    joint.upper.transport.write(b"x" * LARGE)
    assert not joint.upper.may_write.is_set()
    await joint.say(writer.record(b"heard later"))
    joint.upper.transport.close()
    taken = 0
    while chunk := await joint.hear():
        peer._in.write(chunk)
        try:
            while got := peer.tls.read(65536):
                taken += len(got)
        except ssl.SSLWantReadError:
            continue
    assert taken == LARGE
    assert joint.upper.heard == b""


async def test_who_takes_nothing_is_not_read_from_until_it_does(joint: Joint) -> None:
    peer = Peer(joint.directory)
    await joint.shake_hands(peer)
    writer = peer.writer()
    joint.upper.transport.write(b"x" * LARGE)
    await joint.say(writer.record(b"heard later"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert joint.upper.heard == b""
    while not joint.upper.may_write.is_set():
        await joint.hear()
    assert await joint.upper.until(11) == b"heard later"


async def test_what_is_held_back_comes_when_it_is_wanted(joint: Joint) -> None:
    writer = await joint.writer()
    joint.upper.transport.pause_reading()
    await joint.say(writer.record(b"word"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert joint.upper.heard == b""
    joint.upper.transport.resume_reading()
    assert await joint.upper.until(4) == b"word"


async def test_an_end_in_order_says_so_and_waits_for_the_peers(joint: Joint) -> None:
    peer = Peer(joint.directory)
    await joint.shake_hands(peer)
    joint.upper.transport.write(b"last words")
    joint.upper.transport.close()
    assert joint.upper.transport.is_closing()
    joint.upper.transport.write(b"too late")
    while chunk := await joint.hear():
        peer._in.write(chunk)
    assert peer.tls.read() == b"last words"
    assert peer.tls.read() == b"", "close_notify came: without one this would want more"
    assert not joint.is_lost.is_set(), "what the peer has not read would be reset"
    await joint.say(peer.writer().record(b"nobody listens"))
    joint.peer.close()
    async with asyncio.timeout(10):
        await joint.upper.is_lost.wait()
    assert joint.upper.heard == b""


async def test_a_peer_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_stream, "END_SECONDS", 0.01)
    joint = Joint(tmp_path)
    await joint.begin()
    await joint.shake_hands(Peer(joint.directory))
    joint.upper.transport.close()
    async with asyncio.timeout(10):
        await joint.is_lost.wait()
    joint.peer.close()


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_peers_end_is_the_end(joint: Joint, orderly: bool) -> None:
    """Nobody waits for an answer any more."""
    peer = Peer(joint.directory)
    await joint.shake_hands(peer)
    if orderly:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await joint.say(peer.last_flight())
        await joint.ended()
    joint.peer.close()
    async with asyncio.timeout(10):
        await joint.upper.is_lost.wait()
