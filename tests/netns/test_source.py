"""What an application chooses to dial from is what others see, and the agent takes no port from it."""

import contextlib
import dataclasses
import errno
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from agent.capture.sources import IP_LOCAL_PORT_RANGE
from agent.lab.stage import Player
from tests.netns.world import RESET_ON_CLOSE, Echo, World, alive

PORT = 7000
OTHER_PORT = 7001
ANYBODY = {"config.linkerd.io/default-inbound-policy": "all-unauthenticated"}
FIRST, LAST = 20000, 20039
FEW = LAST + 1 - FIRST
SERVICE = {4: "10.96.0.10", 6: "fd96::10"}
SECOND = {4: "10.77.0.200", 6: "fd77::200"}
"""Another address of the client's."""


class Place(NamedTuple):
    world: World
    client: Player
    players: dict[str, Player]
    echoes: dict[str, Echo]

    def target(self, name: str, version: int) -> str:
        """The address of who is meant."""
        return SERVICE[version] if name == "service" else self.players[name].address(version)

    def seen(self, name: str) -> tuple[str, int]:
        """Whom the application saw that was dialled last."""
        address, port = self.echoes[name].peers[-1][:2]
        return str(address).removeprefix("::ffff:"), int(port)


@pytest.fixture(scope="module", params=["legacy", "nft"])
def place(request: pytest.FixtureRequest, make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world("--backend", request.param, workers=2)
    client = world.pod("client")
    players = {name: world.pod(name, annotations=ANYBODY) for name in ("server", "other", "service")} | {
        "outside": world.stranger("outside")
    }
    for pod in (client, players["server"]):
        assert world.run(pod, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={FIRST} {LAST}").returncode == 0
    for address in (f"{SECOND[4]}/24", f"{SECOND[6]}/64"):
        assert world.run(client, "ip", "addr", "add", address, "dev", "eth0", "nodad").returncode == 0
    world.service("service", list(SERVICE.values()), PORT, selector={"app": "service"})
    echoes = {name: Echo(world, player, PORT, 6) for name, player in players.items()}
    echoes["server's other"] = Echo(world, players["server"], OTHER_PORT, 6)
    world.start()
    yield Place(world, client, players, echoes)
    for echo in echoes.values():
        echo.close()


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def as_many_as_there_are(place: Place, player: Player, name: str, version: int) -> list[socket.socket]:
    """Connections to one place, until the kernel says that there is no port left; all of them work, and keep theirs."""
    found: list[socket.socket] = []

    def one_more() -> None:
        found.append(place.world.connect(player, place.target(name, version), PORT))

    while len(found) < FEW:
        one_more()
        assert alive(found[-1]), place.world.mesh.last_words()
        assert place.seen(name) == found[-1].getsockname()[:2]
    with pytest.raises(OSError, match=f"Errno {errno.EADDRNOTAVAIL}"):
        one_more()
    return found


@contextlib.contextmanager
def closed(socks: list[socket.socket]) -> Iterator[None]:
    """Closes them in the end by a reset, which leaves no port in TIME_WAIT."""
    try:
        yield
    finally:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()


def test_an_application_has_each_of_its_ports_towards_one_place_and_each_other(place: Place, version: int) -> None:
    with ExitStack() as stack:
        for name in ("server", "other", "outside", "service"):
            socks = as_many_as_there_are(place, place.client, name, version)
            stack.enter_context(closed(socks))
            assert sorted(sock.getsockname()[1] for sock in socks) == list(range(FIRST, LAST + 1)), name


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("caller", ["client", "outside"])
def test_a_port_may_have_a_connection_to_each_port_of_one_pod(
    place: Place, caller: str, version: int, *, bound: bool
) -> None:
    """That pod's rules lead both to one port of the agent's."""
    player = place.client if caller == "client" else place.players[caller]
    with ExitStack() as stack:
        port = 0
        for number, name in ((PORT, "server"), (OTHER_PORT, "server's other")):
            sock = stack.enter_context(place.world.open_socket(player, version))
            stack.enter_context(closed([sock]))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if bound:
                sock.bind(("", port))
            elif port:
                sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port << 16 | port))
            sock.connect((place.target("server", version), number))
            assert alive(sock), place.world.mesh.last_words()
            port = sock.getsockname()[1]
            assert place.seen(name) == sock.getsockname()[:2]


def test_whoever_calls_a_pod_takes_no_port_from_it(place: Place, version: int) -> None:
    """All of the ports are those of clients too, and of the agent's legs to the application here."""
    socks = as_many_as_there_are(place, place.client, "server", version)
    with closed(socks):
        out = as_many_as_there_are(place, place.players["server"], "other", version)
        with closed(out):
            assert len(out) == FEW


@pytest.mark.parametrize("reuse", [0, 1])
@pytest.mark.parametrize("name", ["server", "service", "outside"])
def test_an_application_can_listen_on_each_port_that_is_not_its_own_connections(
    place: Place, name: str, version: int, reuse: int
) -> None:
    socks = [place.world.connect(place.client, place.target(name, version), PORT) for _ in range(10)]
    with closed(socks):
        assert all(alive(sock) for sock in socks)
        free = []
        for port in range(FIRST, LAST + 1):
            with place.world.open_socket(place.client, version) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                with contextlib.suppress(OSError):
                    listener.bind(("", port))
                    listener.listen()
                    free.append(port)
        assert set(free) == set(range(FIRST, LAST + 1)) - {sock.getsockname()[1] for sock in socks}


@pytest.mark.parametrize("port", [0, 700, FIRST, 30000])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("name", ["server", "service", "outside"])
def test_the_address_and_the_port_that_an_application_chose_are_what_the_other_side_sees(
    place: Place, name: str, version: int, port: int, *, second: bool
) -> None:
    """Without SO_REUSEADDR: the application shares its port with nobody."""
    chosen = SECOND[version] if second else place.client.address(version)
    if port:
        port += ("server", "service", "outside").index(name)  # so that no test meets what another one leaves
    with place.world.open_socket(place.client, version) as sock:
        sock.bind((chosen, port))
        with closed([sock]):
            sock.connect((place.target(name, version), PORT))
            assert alive(sock), place.world.mesh.last_words()
            assert place.seen(name) == (chosen, port or sock.getsockname()[1])


WITHOUT = """
import json, os, sys, time
from dataclasses import asdict
from init import engine
from init.model import Options
engine.stand_ins_work = lambda backend: False
fd = os.open(sys.argv[1], os.O_RDONLY)
for options in (Options(mark=0x12345678), Options(mark=0x12345678, stand_ins=False)):
    for op in (engine.APPLY, engine.CHECK):
        (result,) = engine.run([engine.Request(op, fd, options, sys.argv[2])], time.clock_gettime(time.CLOCK_BOOTTIME))
        print(json.dumps(asdict(result)))
"""


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_kernel_that_cannot_put_an_address_back_is_asked_for_nothing_of_the_kind(
    make_world: Callable[..., World], backend: str
) -> None:
    """The pod is captured all the same, by the rules of one that was asked to do without; whoever asked is told."""
    pod = make_world().stranger("pod")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, f"/run/netns/{pod.netns}", backend], capture_output=True, text=True, check=True
    )
    applied, checked, again, last = map(json.loads, done.stdout.splitlines())
    assert [result["stand_ins"] for result in (applied, checked, again, last)] == [False] * 4
    assert all(result["ok"] for result in (applied, checked, again, last))
    assert "NETMAP" in str(applied["notes"])
    assert applied["changed"]
    assert not again["changed"]


def test_where_routes_depend_on_the_source_a_leg_is_at_the_applications_own_address(
    make_world: Callable[..., World],
) -> None:
    """As a second network's plug-in sets them up. From a stand-in's address it would go the way of all others."""
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    for words in (
        f"addr add {SECOND[4]}/24 dev eth0",
        f"rule add from {SECOND[4]} lookup 200",
        f"route add {server.ipv4} dev eth0 table 200",
        f"route add unreachable {server.ipv4}",
    ):
        assert world.run(client, "ip", *words.split()).returncode == 0
    world.start()
    with world.open_socket(client) as sock:
        sock.bind((SECOND[4], 0))
        sock.connect((server.ipv4, PORT))
        assert alive(sock), world.mesh.last_words()
        assert echo.peers[-1][0] == SECOND[4]
    echo.close()


PUBLIC = "203.0.113.2"


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_pod_keeps_its_ports_whatever_its_address_is_as_long_as_it_has_one(
    make_world: Callable[..., World], backend: str
) -> None:
    """A public one: nothing in the rules stands for it, but for the only one that there is."""
    world = make_world("--backend", backend, workers=1)
    given, server = world.stranger("client"), world.pod("server", annotations=ANYBODY)
    client = dataclasses.replace(given, ipv4=PUBLIC)
    world.declare(client)
    for player, words in (
        (client, f"addr del {given.ipv4}/24 dev eth0"),
        (client, f"addr add {PUBLIC}/24 dev eth0"),
        (client, f"route add {server.ipv4} dev eth0"),
        (server, f"route add {PUBLIC} dev eth0"),
    ):
        assert world.run(player, "ip", *words.split()).returncode == 0
    assert world.run(client, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={FIRST} {LAST}").returncode == 0
    echoes = {"server": Echo(world, server, PORT)}
    world.start()
    place = Place(world, client, {"server": server}, echoes)
    with closed(as_many_as_there_are(place, client, "server", 4)):
        pass
    assert world.run(client, "ip", "addr", "add", f"{SECOND[4]}/24", "dev", "eth0").returncode == 0
    # The rules cannot tell of which of two a stand-in is: what is seen is right all the same, once it was looked.
    world.until(lambda: _sees(place, PUBLIC) and _sees(place, SECOND[4]), "both addresses are what the server sees", 30)
    echoes["server"].close()


def _sees(place: Place, address: str) -> bool:
    with place.world.open_socket(place.client) as sock:
        sock.bind((address, 0))
        with closed([sock]):
            sock.connect((place.target("server", 4), PORT))
            return alive(sock) and place.seen("server")[0] == address
