"""Two nodes on one bridge, and somebody there who says that each pod's address is its own: it gets ciphertext.

What it answers itself, changes or cuts off is a reset to the application, and is told with the right reason.
"""

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from agent.capture.address import show
from agent.lab.mesh import Mesh
from agent.lab.stage import Player
from agent.lab.wire import Wire
from tests.netns.policies import VERSIONS, reaches
from tests.netns.world import MARKER, SOON, Echo, World, alive

PORT = 7000
MIDDLE_PORT = 9
"""Where what is led to the one in the middle is accepted."""
LIE_SECONDS = 0.1
SOL_IPV6, SO_ORIGINAL_DST = 41, 80
"""Of both families (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h)."""


class Between(NamedTuple):
    """Client and server, each with an agent of its own, and the one that will be between them."""

    world: World
    client: Player
    server: Player
    middle: Player
    other: Mesh
    """The server's agent."""


@pytest.fixture(scope="module")
def between(make_shared_world: Callable[..., World]) -> Iterator[Between]:
    """Shared: each test ends with both pods knowing again where the other one is."""
    world = make_shared_world(workers=1)
    client, server, middle = world.pod("client"), world.stranger("server"), world.stranger("middle")
    world.declare(server, node="node-b")
    echo = Echo(world, server, PORT, 6)
    world.start()
    other = world.join("node-b")
    world.until(lambda: reaches(world, client, server.ipv4, PORT), "the two nodes know of each other")
    yield Between(world, client, server, middle, other)
    echo.close()


class Link:
    """A raw socket on a namespace's eth0 (packet(7)), which can say whose address is where."""

    def __init__(self, world: World, player: Player) -> None:
        self.player = player
        self._sock: socket.socket = world.inside(player, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self._sock.bind(("eth0", 0))
        self.mac: bytes = self._sock.getsockname()[4]

    def say(self, who: Player, to: "Link") -> None:
        """Tells one that `who` has both its addresses here, unasked.

        By a gratuitous ARP reply, which the kernel believes at once where it would doubt another one for a second, and
        a neighbour advertisement that overrides (RFC 4861, section 4.4).
        """
        here = self.mac + socket.inet_aton(who.ipv4)
        self._sock.send(to.mac + self.mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + here + here)
        target = ipaddress.IPv6Address(who.ipv6).packed
        advertisement = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + target + b"\x02\x01" + self.mac
        ends = target + ipaddress.IPv6Address(to.player.ipv6).packed
        summed = _checksum(ends + struct.pack("!II", len(advertisement), 58) + advertisement)
        advertisement = advertisement[:2] + struct.pack("!H", summed) + advertisement[4:]
        header = struct.pack("!IHBB", 0x60000000, len(advertisement), 58, 255) + ends
        self._sock.send(to.mac + self.mac + b"\x86\xdd" + header + advertisement)

    def close(self) -> None:
        """Ends it."""
        self._sock.close()


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@contextlib.contextmanager
def in_the_middle(between: Between) -> Iterator[None]:
    """Both pods take the middle for the other one, again and again; afterwards they say themselves where they are."""
    world, client, server, middle = between.world, between.client, between.server, between.middle
    with contextlib.ExitStack() as stack:
        at_client, at_server, here = (
            stack.enter_context(contextlib.closing(Link(world, player))) for player in (client, server, middle)
        )
        ended = threading.Event()

        def lie() -> None:
            while not ended.wait(LIE_SECONDS):
                here.say(server, at_client)
                here.say(client, at_server)

        thread = threading.Thread(target=lie, daemon=True)
        thread.start()
        try:
            for who in (client, server):
                world.until(partial(knows, world, who, client if who is server else server, here.mac), "it is believed")
            yield
        finally:
            ended.set()
            thread.join()
            at_client.say(client, at_server)
            at_server.say(server, at_client)
            world.until(partial(knows, world, client, server, at_server.mac), "the client knows better")
            world.until(partial(knows, world, server, client, at_client.mac), "the server knows better")


def knows(world: World, who: Player, other: Player, mac: bytes) -> bool:
    """Whether a pod takes this for the hardware address of both another one's addresses."""
    said = world.run(who, "ip", "neigh", "show", "dev", "eth0").stdout
    known = {line.split()[0]: line for line in said.splitlines()}
    return all(mac.hex(":") in known.get(address, "") for address in (other.ipv4, other.ipv6))


class Middle:
    """Accepts what is led to it, and answers everything itself with what it got, or passes records on to the server."""

    def __init__(self, between: Between, version: int, meddle: Callable[[bytes], bytes | None] | None) -> None:
        self._world, self._player, self._version = between.world, between.middle, version
        self.meddle = meddle
        """What is done to each record on its way to the server; None for nobody's passing anything on. Where it
        returns None, both sides are ended as with a FIN."""
        self._table = "iptables" if version == 4 else "ip6tables"
        self._rule = ("PREROUTING", "-i", "eth0", "-p", "tcp", "-j", "REDIRECT", "--to-ports", str(MIDDLE_PORT))
        self._listener = self._world.listen(self._player, MIDDLE_PORT, version)
        self._listener.settimeout(None)
        self.seen = bytearray()
        """What came from the client."""

    def __enter__(self) -> "Middle":
        done = self._world.run(self._player, self._table, "-t", "nat", "-A", *self._rule)
        assert done.returncode == 0, done.stderr
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._world.run(self._player, self._table, "-t", "nat", "-D", *self._rule)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(SOON)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            if self.meddle is None:
                while data := sock.recv(65536):
                    self.seen += data
                    sock.sendall(data)
                return
            with self._world.connect(self._player, self._meant_for(sock), PORT) as onward:
                threading.Thread(target=_pass_back, args=(onward, sock), daemon=True).start()
                for record in _records(sock, self.seen):
                    passed = self.meddle(record)
                    if passed is None:
                        break
                    onward.sendall(passed)
                for each in (sock, onward):
                    each.shutdown(socket.SHUT_RDWR)

    def _meant_for(self, sock: socket.socket) -> str:
        if self._version == 4:
            return socket.inet_ntoa(sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)[4:8])
        return socket.inet_ntop(socket.AF_INET6, sock.getsockopt(SOL_IPV6, SO_ORIGINAL_DST, 28)[8:24])


def _pass_back(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def _records(sock: socket.socket, seen: bytearray) -> Iterator[bytes]:
    """TLS records as they come (RFC 8446, section 5.1)."""
    held = bytearray()
    while data := sock.recv(65536):
        seen += data
        held += data
        while len(held) >= 5 and len(held) >= (size := 5 + int.from_bytes(held[3:5], "big")):
            yield bytes(held[:size])
            del held[:size]


def told(mesh: Mesh, since: int = 0, **fields: str) -> dict[str, Any]:
    """An agent's record of a connection that ended like this; fails where none comes."""
    found = mesh.wait_for_log(
        lambda line: line.get("event") in {"closed", "denied"} and fields.items() <= line.items(), SOON, since
    )
    assert found is not None, f"no end with {fields}\n{mesh.last_words()}"
    return found


def answered(sock: socket.socket, address: str) -> bytes:
    """What comes back to a marker."""
    sock.connect((address, PORT))
    sock.sendall(MARKER)
    return sock.recv(100)


def is_reset(sock: socket.socket, between: Between) -> dict[str, Any]:
    """What the client's agent says of a connection that is reset when its application next sends something."""
    since = between.world.said()
    sock.sendall(MARKER)
    with pytest.raises(ConnectionResetError):
        sock.recv(100)
    return told(between.world.mesh, since, client=show(*sock.getsockname()[:2]))


def test_whoever_forwards_what_it_drew_upon_itself_sees_ciphertext(between: Between) -> None:
    world, client, server, middle, _ = between
    for name in ("ipv4.ip_forward=1", "ipv4.conf.all.send_redirects=0", "ipv6.conf.all.forwarding=1"):
        assert world.run(middle, "sysctl", "-qw", f"net.{name}").returncode == 0
    held = [world.connect(client, server.address(version), PORT) for version in VERSIONS]
    with in_the_middle(between), Wire(middle.netns) as wire:
        assert all(alive(sock) for sock in held), "what is open goes on, through it"
        for version in VERSIONS:
            assert reaches(world, client, server.address(version), PORT), "and what is new"
    assert all(alive(sock) for sock in held), "and past it again"
    for sock in held:
        sock.close()
    assert {seen.flow.destination for seen in wire.client_hellos()} == {server.ipv4, server.ipv6}
    assert not wire.contains(MARKER)


@pytest.mark.parametrize("version", VERSIONS)
def test_whoever_answers_in_the_servers_place_gets_no_plaintext_and_the_application_a_reset(
    between: Between, version: int
) -> None:
    world, client, server, _, _ = between
    address, since = server.address(version), world.said()
    with Middle(between, version, None) as middle, in_the_middle(between), world.open_socket(client, version) as sock:
        sock.bind((client.address(version), 0))  # a port that it keeps, whatever comes
        own = show(*sock.getsockname()[:2])
        with pytest.raises(ConnectionResetError):  # within connect(2) perhaps: what comes back is no handshake at all
            answered(sock, address)
        said = told(world.mesh, since, client=own)
    assert (said["event"], said["outcome"]) == ("denied", "handshake_failed")
    assert middle.seen
    assert MARKER not in middle.seen
    assert reaches(world, client, address, PORT), "as before, once the truth is heard"


def test_what_is_changed_or_cut_off_on_its_way_is_a_reset_on_both_sides(between: Between) -> None:
    world, client, server, _, other = between
    with Middle(between, 4, bytes) as middle, in_the_middle(between):
        with world.connect(client, server.ipv4, PORT) as sock:
            assert alive(sock), "it is let through"
            middle.meddle = one_bit_changed
            assert is_reset(sock, between)["outcome"] == "refused_by_peer"
        assert "bad record mac" in told(other, direction="inbound", outcome="handshake_failed")["reason"]
        middle.meddle = bytes
        with world.connect(client, server.ipv4, PORT) as sock:
            assert alive(sock)
            middle.meddle = nothing
            assert is_reset(sock, between)["outcome"] == "truncated"
        told(other, direction="inbound", outcome="truncated")
    assert MARKER not in middle.seen


def one_bit_changed(record: bytes) -> bytes:
    """Of what a record carries."""
    return record[:-1] + bytes([record[-1] ^ 1])


def nothing(_: bytes) -> None:
    """A connection that ends here."""


def test_plaintext_from_the_clients_own_address_is_refused(between: Between) -> None:
    world, client, server, middle, other = between
    with in_the_middle(between):
        assert world.run(middle, "ip", "addr", "add", f"{client.ipv4}/32", "dev", "lo").returncode == 0
        with world.open_socket(middle) as sock:
            sock.bind((client.ipv4, 0))
            sock.connect((server.ipv4, PORT))
            sock.sendall(MARKER)
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
            told(other, event="denied", outcome="unauthenticated", client=show(*sock.getsockname()))
        assert world.run(middle, "ip", "addr", "del", f"{client.ipv4}/32", "dev", "lo").returncode == 0
