"""Somebody sends from the node's own addresses: what answers probes hears it if it gets the answers, and nothing else.

Capture leaves probes' ports alone for the node's addresses, and an address is only what a packet says. A neighbour on
the pod's bridge can have the answers as well, by ARP, and then it is as the node. Behind a router, on another node,
nobody can: what the pod answers ends at its own node.
"""

import contextlib
import errno
import ipaddress
import json
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from agent.capture.address import show
from agent.lab.stage import Player
from agent.lab.wire import Wire
from tests.netns.policies import DEFAULT_POLICY, VERSIONS, reaches
from tests.netns.test_spoofed_arp import LIE_SECONDS, Link
from tests.netns.world import Echo, World, alive

PROBED, DEAD, OTHER, UNDECLARED = 8080, 8081, 9000, 9001
"""A probe's port, another where nobody listens, and two that are none."""
SPEC: dict[str, Any] = {
    "containers": [
        {
            "name": "main",
            "ports": [{"containerPort": OTHER}],
            "livenessProbe": {"httpGet": {"port": PROBED}},
            "readinessProbe": {"tcpSocket": {"port": DEAD}},
        }
    ]
}
ALL = (PROBED, DEAD, OTHER, UNDECLARED)
UPLINK = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8:51::1", "2001:db8:51::2")}
"""Between the pod's node and another one."""
SILENCE_SECONDS = 1.5
"""In which a SYN is sent twice."""
SYN, SYN_AND_ACK = 0x02, 0x12


class Place(NamedTuple):
    world: World
    pod: Player
    neighbour: Player
    """A stranger on the pod's bridge."""
    far: Player
    """Another node, behind the pod's own one."""
    echoes: dict[int, Echo]

    def accepted(self) -> int:
        """How many connections the pod's applications ever had."""
        return sum(len(echo.peers) for echo in self.echoes.values())


@pytest.fixture(scope="module", params=["legacy", "nft"])
def place(request: pytest.FixtureRequest, make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world("--backend", request.param)
    pod, neighbour, far = (world.stranger(name) for name in ("pod", "neighbour", "far"))
    node = world.node
    addresses = [at(node, version) for version in VERSIONS for at in (Player.address, _uplink)]
    world.declare(pod, annotations={DEFAULT_POLICY: "deny"}, spec=SPEC, host_ips=tuple(addresses))
    echoes = {port: Echo(world, pod, port, 6) for port in (PROBED, OTHER, UNDECLARED)}
    _move_away(world, far)
    world.start()
    yield Place(world, pod, neighbour, far, echoes)
    for echo in echoes.values():
        echo.close()


def _uplink(_: Player, version: int) -> str:
    return UPLINK[version][0]


def _move_away(world: World, far: Player) -> None:
    """Makes a namespace of the bridge another node, which the hub is a router to."""
    hub = world.stage.hub
    for netns, commands in (
        (far.netns, ("link del eth0", f"link add up0 type veth peer name up0 netns {hub}", "link set up0 up")),
        (hub, ("link set up0 up",)),
    ):
        for words in commands:
            _ip(world, netns, words)
    for version, (near, there) in UPLINK.items():
        length = 24 if version == 4 else 64
        _ip(world, hub, f"addr add {near}/{length} dev up0 nodad")
        _ip(world, far.netns, f"addr add {there}/{length} dev up0 nodad")
        _ip(world, far.netns, f"-{version} route add default via {near}")
    for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        assert world.run(world.node, "sysctl", "-qw", f"net.{name}=1").returncode == 0


def _ip(world: World, netns: str, words: str) -> None:
    done = world.run(world.node, "ip", "-n", netns, *words.split())
    assert done.returncode == 0, f"ip -n {netns} {words}: {done.stderr}"


@contextlib.contextmanager
def address_taken(world: World, who: Player, address: str) -> Iterator[None]:
    """Somebody has an address as well, to send from."""
    length = 128 if ":" in address else 32
    at_once = " nodad" if ":" in address else ""
    _ip(world, who.netns, f"addr add {address}/{length} dev lo{at_once}")
    try:
        yield
    finally:
        _ip(world, who.netns, f"addr del {address}/{length} dev lo")


@contextlib.contextmanager
def node_known_for_good(place: Place) -> Iterator[None]:
    """The pod's node has written down where it is, as some network plug-ins do: no ARP changes that."""
    world, pod, node = place.world, place.pod, place.world.node
    (link,) = json.loads(world.run(node, "ip", "-j", "link", "show", "br0").stdout)
    for version in VERSIONS:
        _ip(world, pod.netns, f"neigh replace {node.address(version)} lladdr {link['address']} dev eth0 nud permanent")
    try:
        yield
    finally:
        for version in VERSIONS:
            _ip(world, pod.netns, f"neigh del {node.address(version)} dev eth0")


@contextlib.contextmanager
def answers_taken(place: Place) -> Iterator[None]:
    """The pod takes the neighbour for its node, and then knows better again."""
    world, pod, node = place.world, place.pod, place.world.node
    with contextlib.ExitStack() as stack:
        here, there = (
            stack.enter_context(contextlib.closing(Link(world, player))) for player in (place.neighbour, pod)
        )
        ended = threading.Event()

        def lie() -> None:
            while not ended.wait(LIE_SECONDS):
                here.say(node, there)

        thread = threading.Thread(target=lie, daemon=True)
        thread.start()
        try:
            for version in VERSIONS:  # asked for, so that there is something to change
                with world.open_socket(pod, version, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"", (node.address(version), DEAD))
            world.until(partial(knows, world, pod, node, here.mac), "the pod believes it")
            yield
        finally:
            ended.set()
            thread.join()
            world.run(pod, "ip", "neigh", "flush", "dev", "eth0")


def knows(world: World, who: Player, other: Player, mac: bytes) -> bool:
    """Whether a pod takes this for the hardware address of both another one's addresses."""
    said = world.run(who, "ip", "neigh", "show", "dev", "eth0").stdout
    known = {line.split()[0]: line for line in said.splitlines()}
    return all(mac.hex(":") in known.get(other.address(version), "") for version in VERSIONS)


def dial(place: Place, who: Player, source: str, version: int, port: int) -> socket.socket:
    """A connection from an address to the pod. Raises OSError."""
    sock = place.world.open_socket(who, version)
    try:
        sock.bind((source, 0))
        sock.connect((place.pod.address(version), port))
    except OSError:
        sock.close()
        raise
    return sock


def answered(place: Place, who: Player, source: str, version: int) -> set[int]:
    """The ports of the pod that answer whoever sends from an address, one way or the other; all are dialled."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for port in ALL:
            sock = stack.enter_context(place.world.open_socket(who, version))
            sock.setblocking(False)
            sock.bind((source, 0))
            assert sock.connect_ex((place.pod.address(version), port)) == errno.EINPROGRESS
            waiting.register(sock, selectors.EVENT_WRITE, port)
        return {key.data for key, _ in waiting.select(SILENCE_SECONDS)}


def dialled(wire: Wire, source: str) -> set[int]:
    """The ports that somebody sent a SYN to from an address, as recorded."""
    kind, at, start = (0x86DD, 22, 54) if ":" in source else (0x0800, 26, 34)
    packed = ipaddress.ip_address(source).packed
    return {
        int.from_bytes(frame[start + 2 : start + 4], "big")
        for frame in wire.frames
        if int.from_bytes(frame[12:14], "big") == kind
        and frame[at : at + len(packed)] == packed
        and frame[start + 13] & SYN_AND_ACK == SYN
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_a_neighbour_that_sends_from_the_nodes_address_and_gets_no_answers_is_not_heard(
    place: Place, version: int
) -> None:
    before, source = place.accepted(), place.world.node.address(version)
    with (
        node_known_for_good(place),
        address_taken(place.world, place.neighbour, source),
        Wire(place.pod.netns) as wire,
    ):
        assert answered(place, place.neighbour, source, version) == set()
    assert dialled(wire, source) == set(ALL), "all of it had come to the pod"
    assert place.accepted() == before
    assert reaches(place.world, place.world.node, place.pod.address(version), PROBED), "and the node probes as ever"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_neighbour_that_gets_the_nodes_answers_too_reaches_what_is_probed_and_no_more(
    place: Place, version: int
) -> None:
    world, source = place.world, place.world.node.address(version)
    before = {port: len(place.echoes[port].peers) for port in place.echoes}
    with answers_taken(place), address_taken(world, place.neighbour, source):
        with dial(place, place.neighbour, source, version, PROBED) as sock:
            assert alive(sock), "as the threat model says"
        with pytest.raises(ConnectionRefusedError):
            dial(place, place.neighbour, source, version, DEAD)
        for port in (OTHER, UNDECLARED):
            since = world.said()
            with dial(place, place.neighbour, source, version, port) as sock:
                client = show(*sock.getsockname()[:2])
                assert not alive(sock)
            assert world.denial(since, client=client, pod="demo/pod")["outcome"] == "denied_by_default"
    after = {port: len(place.echoes[port].peers) for port in place.echoes}
    assert after == before | {PROBED: before[PROBED] + 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_another_node_is_as_anybody_and_the_nodes_addresses_are_no_use_to_it(place: Place, version: int) -> None:
    world, before = place.world, place.accepted()
    own, nodes = UPLINK[version][1], (world.node.address(version), UPLINK[version][0])
    for port in ALL:
        with dial(place, place.far, own, version, port) as sock:
            assert not alive(sock), "from its own address it is a stranger"
    for source in nodes:
        with address_taken(world, place.far, source), Wire(place.far.netns) as wire:
            assert answered(place, place.far, source, version) == set()
        assert dialled(wire, source) == set(ALL), "all of it was sent"
    assert place.accepted() == before
