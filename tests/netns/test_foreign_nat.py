"""Rules of a pod's own that translate before ours do: nobody gets past the agent by them, neither way."""

import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.test_capture import WITH_NET_RAW
from tests.netns.test_catalog import asks
from tests.netns.test_init import init, inside
from tests.netns.world import MARKER, SOON, Echo, World

PORT, SKIPPED, BEHIND = 8080, 9000, 8081
FORGED_PORT = 40000
VERSIONS = (4, 6)
SKIPS = {f"config.linkerd.io/skip-{way}bound-ports": str(SKIPPED) for way in ("in", "out")}
SKIP_OPTIONS = ("--skip-inbound-ports", str(SKIPPED), "--skip-outbound-ports", str(SKIPPED))
ELSEWHERE = {4: "198.51.100.7", 6: "2001:db8::7"}

BY_IPTABLES = """
{tool} -t nat -A PREROUTING -i eth0 -p tcp -m multiport --dports {port},{skipped} -j REDIRECT --to-ports {behind}
{tool} -t nat -A OUTPUT -o eth0 -p tcp -m multiport --dports {port},{skipped} -j DNAT --to-destination {outside}
{tool} -t nat -A OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 5353
"""
BY_NFT = """
nft 'table {ip} vpn {{
  chain in {{ type nat hook prerouting priority -199; tcp dport {{ {port}, {skipped} }} redirect to :{behind}; }};
  chain out {{ type nat hook output priority -199; oifname "eth0"\
    tcp dport {{ {port}, {skipped} }} dnat to {outside};
    udp dport 53 redirect to :5353; }};
}}'
"""
DIVERSIONS = {
    ("legacy", "iptables-nft"): BY_IPTABLES,
    ("legacy", "nft"): BY_NFT,
    ("nft", "nft"): BY_NFT,
    ("nft", "iptables-legacy"): BY_IPTABLES,
}
"""By who wrote ours and who theirs, after ours."""


class Place(NamedTuple):
    world: World
    backend: str
    theirs: str
    app: Player
    client: Player
    outside: Player
    echoes: dict[str, Echo]

    def divert(self) -> None:
        """Has the pod's own administrator divert what comes to a port, and what goes to it."""
        for version in VERSIONS:
            host = self.outside.address(version)
            command = DIVERSIONS[self.backend, self.theirs].format(
                tool=f"ip{'6' if version == 6 else ''}tables-{self.theirs.rpartition('-')[2]}",
                ip="ip6" if version == 6 else "ip",
                port=PORT,
                skipped=SKIPPED,
                behind=BEHIND,
                outside=f"[{host}]:{BEHIND}" if version == 6 else f"{host}:{BEHIND}",
            )
            inside(self.app, "sh", "-ec", command)


@pytest.fixture(scope="module", params=sorted(DIVERSIONS), ids="-".join)
def place(request: pytest.FixtureRequest, make_shared_world: Callable[..., World]) -> Place:
    backend, theirs = request.param
    world = make_shared_world("--backend", backend, "--egress-mode", "meshed-only", workers=1)
    app, client, outside = world.pod("app", annotations=SKIPS), world.pod("client"), world.stranger("outside")
    echoes = {
        f"{player.name} {port}": Echo(world, player, port, 6) for player in (app, outside) for port in (PORT, BEHIND)
    }
    world.start()
    place = Place(world, backend, theirs, app, client, outside, echoes)
    place.divert()
    return place


def says(sock: socket.socket, address: str) -> None:
    """Says something to whoever is at the diverted port, and waits for an answer. Raises OSError."""
    sock.connect((address, PORT))
    sock.sendall(MARKER)
    sock.recv(100)


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_comes_in_past_the_agent(place: Place, version: int) -> None:
    world = place.world
    with world.open_socket(place.outside, version) as sock:
        sock.settimeout(1.0)
        with pytest.raises(OSError, match=r"timed out|refused|reset"):
            says(sock, place.app.address(version))
    assert place.echoes[f"app {PORT}"].peers == []
    assert place.echoes[f"app {BEHIND}"].peers == []


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_goes_out_past_the_agent(place: Place, version: int) -> None:
    world = place.world
    with world.wire() as wire, world.open_socket(place.app, version) as sock:
        sock.settimeout(1.0)
        with pytest.raises(OSError, match=r"timed out|refused|reset"):
            says(sock, ELSEWHERE[version])
    assert not wire.contains(MARKER)
    assert place.echoes[f"outside {BEHIND}"].peers == []


@pytest.mark.parametrize("version", VERSIONS)
def test_what_they_do_not_divert_is_served_as_ever(place: Place, version: int) -> None:
    world = place.world
    assert asks(world, place.client, place.app.address(version), BEHIND) == b"hello"
    with world.connect(place.app, place.app.address(version), PORT) as sock:
        sock.sendall(MARKER)
        assert sock.recv(100) == MARKER, "its own calls to itself"
    for echo in place.echoes.values():
        echo.peers.clear()


LATER = {
    "iptables-legacy": "iptables-legacy -t nat -A OUTPUT {match} -j REDIRECT --to-ports {behind}; "
    "ip6tables-legacy -t nat -A OUTPUT {match} -j REDIRECT --to-ports {behind}",
    "nft": "nft 'table inet later {{ chain o {{ type nat hook output priority -50; "
    "tcp dport {port} redirect to :{behind}; }}; }}'",
}


@pytest.mark.parametrize("theirs", sorted(LATER))
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_they_do_with_the_pods_own_connections_is_not_done_to_its_clients(
    make_world: Callable[..., World], backend: str, theirs: str
) -> None:
    """The agent dials the application from inside the pod: rules about what the pod dials would match that, too."""
    world = make_world("--backend", backend, workers=1)
    app, client = world.pod("app"), world.pod("client")
    echoes = {port: Echo(world, app, port, 6) for port in (PORT, BEHIND)}
    world.start()
    command = LATER[theirs].format(match=f"-p tcp --dport {PORT}", port=PORT, behind=BEHIND)
    inside(app, "sh", "-ec", command)
    for version in VERSIONS:
        with world.connect(client, app.address(version), PORT) as sock:
            sock.sendall(MARKER)
            assert sock.recv(100) == MARKER, world.mesh.last_words()
    assert len(echoes[PORT].peers) == len(VERSIONS)
    for echo in echoes.values():
        echo.close()


FORGE = """
import socket, struct, sys
source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in source else socket.AF_INET
addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
syn = struct.pack("!HHIIBBHHH", int(sys.argv[4]), port, 1, 0, 5 << 4, 2, 65535, 0, 0)
pseudo = addresses + (struct.pack("!I3xB", 20, 6) if family == socket.AF_INET6 else struct.pack("!xBH", 6, 20))
total = sum(struct.unpack(f"!{len(pseudo + syn) // 2}H", pseudo + syn))
total = (total & 0xFFFF) + (total >> 16)
syn = syn[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + syn[18:]
if family == socket.AF_INET6:
    header = struct.pack("!IHBB", 6 << 28, 20, 6, 64) + addresses
else:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + addresses
with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, 36, 1)
    sock.sendto(header + syn, (destination, 0))
"""


def hears(sock: socket.socket, ports: bytes) -> None:
    """Returns once a segment with these ports has come."""
    while ports not in sock.recv(200):
        continue


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_left_alone_is_theirs_to_divert(place: Place, version: int) -> None:
    """By what was dialled it is told, not by where it is led."""
    world = place.world
    for client, address in ((place.outside, place.app.address(version)), (place.app, ELSEWHERE[version])):
        with world.connect(client, address, SKIPPED) as sock:
            sock.sendall(MARKER)
            assert sock.recv(100) == MARKER
    for echo in place.echoes.values():
        echo.peers.clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_is_let_in_by_a_connection_that_is_forged_over_loopback(place: Place, version: int) -> None:
    """The kernel would answer it outside, untranslated: whoever waits there would talk to the application."""
    world, outside = place.world, place.outside
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    waiting: socket.socket = world.inside(outside, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP))
    with waiting:
        words = (outside.address(version), place.app.address(version), str(BEHIND), str(FORGED_PORT))
        done = world.run(place.app, *WITH_NET_RAW, sys.executable, "-c", FORGE, *words)
        assert done.returncode == 0, done.stderr
        waiting.settimeout(1.0)
        with pytest.raises(TimeoutError):
            hears(waiting, struct.pack("!HH", BEHIND, FORGED_PORT))


def test_what_comes_before_ours_is_named_by_check_and_by_the_agent(place: Place) -> None:
    """The rules are in force all the while. Our nft chains come before all of iptables' own."""
    found = init(place.app, "check", "--backend", place.backend, *SKIP_OPTIONS)
    assert found.returncode == 0
    named = [line for line in found.stderr.splitlines() if "a nat rule that comes before capture: " in line]
    if (place.backend, place.theirs) == ("nft", "iptables-legacy"):
        assert named == []
        return
    chains = ("in", "out") if place.theirs == "nft" else ("PREROUTING", "OUTPUT")
    table = "vpn" if place.theirs == "nft" else "nat"
    for family in ("ip", "ip6"):
        for chain, words in zip(chains, (f"redirect to :{BEHIND}", "dnat to "), strict=True):
            (line,) = (line for line in named if f": {family} {table} {chain}: " in line)
            assert words in line
    assert len(named) == 4, "UDP is no business of ours"
    assert "what they divert is refused" in found.stderr
    said = place.world.mesh.wait_for_log(lambda line: "nat rules in demo/app come before" in str(line.get("msg")), SOON)
    assert said is not None, "it was heard of"
    assert said["level"] == "warning"
    assert place.world.count("quietwire_pods_with_foreign_nat") == 1


def test_it_is_said_once_and_again_when_it_is_gone(place: Place) -> None:
    world = place.world
    if (place.backend, place.theirs) == ("nft", "iptables-legacy"):
        assert not [line for line in world.mesh.lines() if "come before capture" in str(line.get("msg"))]
        return
    table = "vpn" if place.theirs == "nft" else "nat"
    inside(place.app, "sh", "-ec", f"nft delete table ip {table}; nft delete table ip6 {table}")
    gone = world.mesh.wait_for_log(lambda line: "no nat rule in demo/app comes before" in str(line.get("msg")), SOON)
    assert gone is not None
    assert world.count("quietwire_pods_with_foreign_nat") == 0
    with world.connect(place.client, place.app.ipv4, PORT) as sock:
        sock.sendall(MARKER)
        assert sock.recv(100) == MARKER, "and the port is served again"
