"""What is captured goes to the agent's ports: whoever else listens there gets nothing of it, whenever it came."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from agent.lab.stage import Player
from init.constants import INBOUND_PORT, OUTBOUND_PORT
from tests.netns.test_catalog import PORT, asks
from tests.netns.test_init import init
from tests.netns.world import Echo, World, alive

BACKENDS = pytest.mark.parametrize("backend", ["legacy", "nft"])


@contextmanager
def squatter(
    world: World, player: Player, port: int, version: int, *, shares: bool = False, everywhere: bool = True
) -> Iterator[socket.socket]:
    """An application that listens on a port of the agent's."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    sock: socket.socket = world.inside(player, lambda: socket.socket(family, socket.SOCK_STREAM))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address = {(6, True): "::", (6, False): "::1", (4, True): "0.0.0.0", (4, False): "127.0.0.1"}[
            version, everywhere
        ]
        sock.bind((address, port))
        sock.listen(64)
        sock.setblocking(False)
        yield sock


def got_nothing(sock: socket.socket) -> bool:
    """Whether nobody was let through to it."""
    with pytest.raises(BlockingIOError):
        sock.accept()
    return True


def call(world: World, client: Player, address: str, seconds: float) -> None:
    """Says something to a server, and waits for an answer. Raises OSError where there is none."""
    with world.open_socket(client, 6 if ":" in address else 4) as sock:
        sock.settimeout(seconds)
        sock.connect((address, PORT))
        sock.sendall(b"a stranger's plaintext")
        sock.recv(100)


def tries(world: World, client: Player, address: str, seconds: float = 1.0) -> None:
    """A call that must not come about."""
    with pytest.raises(OSError, match=r"timed out|refused|reset"):
        call(world, client, address, seconds)


@BACKENDS
@pytest.mark.parametrize("version", [4, 6])
def test_rules_alone_lead_nobody_to_an_application_that_listens_where_the_agent_would(
    make_world: Callable[..., World], backend: str, version: int
) -> None:
    """A pod's init step has written them, and there is no agent: before it came, or after it died."""
    world = make_world()
    pod, outside = world.stranger("pod"), world.stranger("outside")
    addresses = {4: (pod.ipv4, outside.ipv4), 6: (pod.ipv6, outside.ipv6)}
    theirs, others = addresses[version]
    with (
        squatter(world, pod, INBOUND_PORT, version) as inbound,
        squatter(world, pod, OUTBOUND_PORT, version, everywhere=False) as outbound,
        squatter(world, outside, PORT, version) as target,
    ):
        with world.connect(outside, theirs, INBOUND_PORT):
            inbound.accept()[0].close()  # it can be reached, without rules
        assert init(pod, "apply", "--backend", backend).returncode == 0
        tries(world, outside, theirs)
        tries(world, pod, others)
        for sock in (inbound, outbound, target):
            assert got_nothing(sock)


def has(words: str, line: dict[str, Any]) -> bool:
    return words in str(line.get("msg"))


@BACKENDS
def test_an_application_that_was_there_first_keeps_its_port_and_gets_nothing_captured(
    make_world: Callable[..., World], backend: str
) -> None:
    """The agent takes other ports, and says so."""
    world = make_world("--backend", backend)
    client, server, outside = world.pod("client"), world.pod("server"), world.stranger("outside")
    echo = Echo(world, server, PORT, 6)
    with squatter(world, server, INBOUND_PORT, 4) as first, squatter(world, client, OUTBOUND_PORT, 6) as second:
        world.start()
        for words in ("demo/server: something else listens on 0.0.0.0:4143", "demo/client: something else listens on"):
            assert world.mesh.wait_for_log(partial(has, words)), words
        assert world.count("quietwire_agent_port_taken", pod="demo/server", address="0.0.0.0:4143") == 1
        assert world.count("quietwire_agent_port_taken", pod="demo/client", address="[::]:4140") == 1
        for address in (server.ipv4, server.ipv6):
            assert asks(world, client, address) == b"hello"
            with pytest.raises(ConnectionResetError):
                asks(world, outside, address)
        assert got_nothing(first)
        assert got_nothing(second)
        with world.connect(server, "127.0.0.1", INBOUND_PORT):
            first.accept()[0].close()  # its own clients on loopback reach it
    echo.close()


@BACKENDS
def test_an_application_that_takes_the_port_while_there_is_no_agent_gets_nothing_either(
    make_world: Callable[..., World], backend: str
) -> None:
    world = make_world("--backend", backend)
    client, server, outside = world.pod("client"), world.pod("server"), world.stranger("outside")
    echo = Echo(world, server, PORT)
    world.start()
    assert asks(world, client, server.ipv4) == b"hello"
    world.mesh.kill()
    with squatter(world, server, INBOUND_PORT, 4) as thief:
        tries(world, outside, server.ipv4)
        assert got_nothing(thief)
        world.start()
        assert asks(world, client, server.ipv4) == b"hello"
        with pytest.raises(ConnectionResetError):
            asks(world, outside, server.ipv4)
        assert got_nothing(thief)
    echo.close()


@BACKENDS
def test_an_application_that_shares_the_agents_port_gets_nothing(
    make_world: Callable[..., World], backend: str
) -> None:
    """SO_REUSEPORT is for all sockets of one user, and root in the pod is the agent's."""
    world = make_world("--backend", backend, workers=1)
    server, outside = world.pod("server"), world.stranger("outside")
    world.start()
    with squatter(world, server, INBOUND_PORT, 4, shares=True) as sharer:
        for _ in range(16):  # each would go to it as often as not
            tries(world, outside, server.ipv4, seconds=0.2)
        assert got_nothing(sharer)


def test_where_every_port_is_taken_the_pod_is_refused_and_says_so(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server, outside = world.pod("client"), world.stranger("server"), world.stranger("outside")
    echo = Echo(world, server, PORT)
    world.start()
    with ExitStack() as all_of_them:
        ports = range(OUTBOUND_PORT, OUTBOUND_PORT + 100, 10)
        taken = [all_of_them.enter_context(squatter(world, server, port, 4)) for port in ports]
        world.declare(server)
        words = "something else in demo/server listens on 0.0.0.0:4140"
        world.until(
            lambda: words in str(world.ready()["waiting"]) and "0.0.0.0:4230" in str(world.ready()),
            "it says so, of every port that it tried",
        )
        for who in (outside, client):
            tries(world, who, server.ipv4)
        for each in taken:
            assert got_nothing(each)
    world.until(lambda: world.ready()["ready"], "it is captured once a port is free")
    assert asks(world, client, server.ipv4) == b"hello"
    echo.close()


@BACKENDS
def test_the_agents_ports_can_be_moved_and_the_others_are_the_pods_own(
    make_world: Callable[..., World], backend: str
) -> None:
    """A pod that declares one of those that they are moved to is named."""
    world = make_world("--backend", backend, "--outbound-port=5140", "--inbound-port=5143")
    ports = [{"containerPort": INBOUND_PORT}, {"containerPort": 5143}]
    client = world.pod("client")
    server = world.pod("server", spec={"containers": [{"name": "c", "image": "i", "ports": ports}]})
    echoes = [Echo(world, server, port) for port in (OUTBOUND_PORT, INBOUND_PORT)]
    world.start()
    for port in (OUTBOUND_PORT, INBOUND_PORT):
        with world.connect(client, server.ipv4, port) as sock:
            assert alive(sock), world.mesh.last_words()
    listening = world.run(client, "ss", "-Htln4").stdout
    assert ":5140 " in listening
    assert ":5143 " in listening
    assert world.count("quietwire_agent_port_taken") == 0
    assert world.mesh.wait_for_log(partial(has, "Pod demo/server: it declares port 5143, where the agent listens"))
    assert not any(has("declares port 4143", line) for line in world.mesh.lines())
    for echo in echoes:
        echo.close()
