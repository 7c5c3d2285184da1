"""UDP and SCTP beside TCP, on the same port of the same pods: they pass as they are, and go on whatever becomes of TCP.

The kernel has no SCTP of its own everywhere (CONFIG_IP_SCTP), and conntrack follows it all the same: both ends are
spoken here, on raw sockets, as far as one association goes (RFC 9260).
"""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.policies import DEFAULT_POLICY, VERSIONS, reaches
from tests.netns.test_init import init
from tests.netns.world import MARKER, SOON, Echo, World

PORT, CLIENT_PORT = 7000, 41000
SCTP = 132
CLOSED = {DEFAULT_POLICY: "deny", "quietwire.io/egress-mode": "meshed-only"}
"""What neither a stranger nor anything in plaintext gets through, if it is TCP."""

INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, DATA = 1, 2, 10, 11, 0
CLIENTS_TAG, SERVERS_TAG = 0x1111, 0x2222
WITHOUT_ANSWER = struct.pack("!IHHI", 65536, 1, 1, 1)
"""What INIT and INIT ACK say behind the tag: window, streams each way, first number."""


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found >> 1) ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def packet(source: int, destination: int, tag: int, kind: int, value: bytes, flags: int = 0) -> bytes:
    """One chunk, in a packet of its own."""
    chunk = struct.pack("!BBH", kind, flags, 4 + len(value)) + value + bytes(-len(value) % 4)
    ports = struct.pack("!HHI", source, destination, tag)
    return ports + struct.pack("<I", crc32c(ports + bytes(4) + chunk)) + chunk


class End(NamedTuple):
    """A raw socket in a pod, which sees all SCTP that comes there."""

    sock: socket.socket
    player: Player
    version: int

    def sends(self, other: "End", data: bytes) -> None:
        """The other end gets these very bytes, from our own address."""
        self.sock.sendto(data, (other.player.address(self.version), 0))
        while True:
            came, source = other.sock.recvfrom(2000)
            if self.version == 4:
                came = came[(came[0] & 15) * 4 :]
            if source[0] == self.player.address(self.version) and came == data:
                return


class Association(NamedTuple):
    """An SCTP association of two pods."""

    client: End
    server: End

    def begin(self) -> None:
        """The four packets that open it."""
        tags = struct.pack("!I", CLIENTS_TAG), struct.pack("!I", SERVERS_TAG)
        cookie = b"\0\x07\0\x08" + b"cake"
        self.client.sends(self.server, packet(CLIENT_PORT, PORT, 0, INIT, tags[0] + WITHOUT_ANSWER))
        self.server.sends(
            self.client, packet(PORT, CLIENT_PORT, CLIENTS_TAG, INIT_ACK, tags[1] + WITHOUT_ANSWER + cookie)
        )
        self.client.sends(self.server, packet(CLIENT_PORT, PORT, SERVERS_TAG, COOKIE_ECHO, b"cake"))
        self.server.sends(self.client, packet(PORT, CLIENT_PORT, CLIENTS_TAG, COOKIE_ACK, b""))

    def talk(self) -> None:
        """Data, both ways."""
        data = struct.pack("!IHHI", 1, 0, 0, 0) + MARKER
        self.client.sends(self.server, packet(CLIENT_PORT, PORT, SERVERS_TAG, DATA, data, 3))
        self.server.sends(self.client, packet(PORT, CLIENT_PORT, CLIENTS_TAG, DATA, data, 3))


class Datagrams(NamedTuple):
    """Two sockets of UDP."""

    client: socket.socket
    server: socket.socket

    def talk(self) -> None:
        """A question and its answer, each from where it says."""
        self.client.send(MARKER)
        came, source = self.server.recvfrom(100)
        assert (came, source[:2]) == (MARKER, self.client.getsockname()[:2])
        self.server.sendto(MARKER[::-1], source)
        assert self.client.recv(100) == MARKER[::-1]


class Place(NamedTuple):
    world: World
    client: Player
    server: Player
    backend: str


@pytest.fixture(params=["legacy", "nft"])
def place(request: pytest.FixtureRequest, make_world: Callable[..., World]) -> Place:
    world = make_world("--backend", request.param, workers=1)
    pods = world.pod("client", annotations=CLOSED), world.pod("server", annotations=CLOSED)
    return Place(world, *pods, request.param)


@pytest.fixture
def neighbours(place: Place) -> Iterator[list[Association | Datagrams]]:
    """By both families, and not begun yet."""
    world = place.world
    with ExitStack() as stack:

        def raw(player: Player, version: int) -> End:
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            sock: socket.socket = world.inside(player, lambda: socket.socket(family, socket.SOCK_RAW, SCTP))
            sock.settimeout(SOON)
            return End(stack.enter_context(sock), player, version)

        def datagrams(version: int) -> Datagrams:
            client, server = (
                stack.enter_context(world.open_socket(player, version, socket.SOCK_DGRAM))
                for player in (place.client, place.server)
            )
            server.bind((place.server.address(version), PORT))
            client.connect((place.server.address(version), PORT))
            return Datagrams(client, server)

        yield [
            *(Association(raw(place.client, version), raw(place.server, version)) for version in VERSIONS),
            *(datagrams(version) for version in VERSIONS),
        ]


def talk(neighbours: list[Association | Datagrams]) -> None:
    for each in neighbours:
        each.talk()


@pytest.mark.parametrize("earlier", [True, False], ids=["from before", "from then on"])
def test_udp_and_sctp_pass_beside_captured_tcp_whatever_becomes_of_the_agent(
    place: Place, neighbours: list[Association | Datagrams], *, earlier: bool
) -> None:
    """From the same ports to the same ports."""
    world = place.world
    if not earlier:
        world.start()
    for each in neighbours:
        if isinstance(each, Association):
            each.begin()
    talk(neighbours)
    if earlier:
        world.start()
    echo = Echo(world, place.server, PORT, 6)
    with world.wire() as wire:
        talk(neighbours)
        for version in VERSIONS:
            assert not reaches(world, place.client, place.server.address(version), PORT), "policy is about TCP"
    assert wire.contains(MARKER)
    assert wire.client_hellos(), "which was captured"
    assert echo.peers == []
    world.mesh.kill()
    talk(neighbours)
    assert init(place.client, "check", "--backend", place.backend).returncode == 0, "the rules are there"
    world.start()
    talk(neighbours)
    world.declare(place.client, annotations={"linkerd.io/inject": "disabled"})
    world.until(lambda: world.ready()["pods"] == 1, "the client is let go")
    talk(neighbours)
    echo.close()
