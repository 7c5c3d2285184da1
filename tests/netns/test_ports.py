"""Whatever ports a connection has, whoever had them before: it is captured, it works, and it crosses no wire bare."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.world import MARKER, RESET_ON_CLOSE, SOON, Echo, World, alive

PORT = 7000


class Place(NamedTuple):
    world: World
    client: Player
    server: Player


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Place:
    world = make_shared_world(workers=2)
    client, server = world.pod("client"), world.pod("server")
    world.start()
    return Place(world, client, server)


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def dial(place: Place, version: int, source_port: int, port: int = PORT) -> socket.socket:
    """The client's connection to the server from a port that it chose."""
    sock = place.world.open_socket(place.client, version)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", source_port))
    sock.connect((place.server.address(version), port))
    return sock


def test_the_application_sees_the_port_that_is_on_the_wire(place: Place, version: int) -> None:
    address = place.server.address(version)
    with (
        place.world.wire() as wire,
        place.world.listen(place.server, PORT, version) as listener,
        place.world.connect(place.client, address, PORT) as sock,
    ):
        served, seen = listener.accept()
        with served:
            served.settimeout(SOON)
            sock.sendall(MARKER)
            assert served.recv(100) == MARKER
    crossed = {seen.flow.source_port for seen in wire.client_hellos() if seen.flow.destination == address}
    assert seen[:2] == (place.client.address(version), *crossed)


def test_the_port_of_a_connection_that_the_application_reset_is_captured_again(place: Place, version: int) -> None:
    """The reset frees the port of the agent's own leg at once; conntrack knows its four numbers ten seconds more."""
    ports = []
    with place.world.listen(place.server, PORT, version) as listener:
        for _ in range(10):
            with place.world.connect(place.client, place.server.address(version), PORT) as sock:
                served, seen = listener.accept()
                ports.append(seen[1])
                served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                served.close()
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
    echo = Echo(place.world, place.server, PORT, version)
    with place.world.wire() as wire:
        for port in ports:
            with dial(place, version, port) as sock:
                assert alive(sock), place.world.mesh.last_words()
    echo.close()
    assert wire.client_hellos()
    assert not wire.contains(MARKER)


def test_a_client_may_have_any_range_of_ephemeral_ports(make_world: Callable[..., World], version: int) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    assert world.run(client, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 1223").returncode == 0
    echo = Echo(world, server, PORT, version)
    world.start()
    # 200 ports, of which the application takes one and the agent one each time: all come by again and again.
    for _ in range(300):
        with world.connect(client, server.address(version), PORT) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            assert alive(sock), world.mesh.last_words()
    echo.close()


def test_the_clients_port_may_be_one_that_the_servers_pod_listens_on(
    make_world: Callable[..., World], version: int
) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    assert world.run(client, "sysctl", "-qw", "net.ipv4.ip_local_port_range=7000 7003").returncode == 0
    world.start()
    echoes = [Echo(world, server, port, version) for port in (7000, 7001, 7002, 7003)]
    with world.connect(client, server.address(version), PORT) as sock:
        assert alive(sock), world.mesh.last_words()
    for echo in echoes:
        echo.close()


def test_one_port_of_a_client_may_have_connections_to_two_ports_of_a_pod(place: Place, version: int) -> None:
    echoes = [Echo(place.world, place.server, port, version) for port in (7000, 7001)]
    with dial(place, version, 40000, 7000) as one, dial(place, version, 40000, 7001) as two:
        assert alive(one), place.world.mesh.last_words()
        assert alive(two), place.world.mesh.last_words()
    for echo in echoes:
        echo.close()


def test_a_syn_that_crosses_a_leg_that_nobody_answers_reaches_no_application(
    make_world: Callable[..., World], version: int
) -> None:
    """Conntrack takes it for the leg's simultaneous open and translates nothing; its answer is invalid, and dropped."""
    world = make_world(workers=1)
    client, silent = world.pod("client"), world.stranger("silent")
    iptables = "iptables" if version == 4 else "ip6tables"
    assert world.run(silent, iptables, "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP").returncode == 0
    world.start()
    with world.connect(client, silent.address(version), PORT):
        port = world.until(lambda: dialling_from(world, client, version), "the agent dials")
        world.kill_worker(0)  # so that its leg is gone at once, and its port free
        world.until(lambda: dialling_from(world, client, version) is None, "the kernel has taken the leg away")
    assert world.run(silent, iptables, "-F").returncode == 0
    with world.listen(client, port, version) as listener, world.open_socket(silent, version) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", PORT))
        sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            sock.connect((client.address(version), port))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def dialling_from(world: World, player: Player, version: int) -> int | None:
    """The port of a socket in SYN_SENT in the player's namespace."""
    table = Path("/proc/thread-self/net", "tcp" if version == 4 else "tcp6")
    rows = [line.split() for line in world.inside(player, table.read_text).splitlines()[1:]]
    return next((int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "02"), None)
