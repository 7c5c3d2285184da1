"""A pod goes, its namespace with it, and another pod gets its addresses: that one is who it is from the first packet.

tests/netns/test_identity_live.py has what becomes of connections that are open meanwhile.
"""

import dataclasses
import itertools
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.live import shown
from tests.netns.policies import DEFAULT_POLICY, VERSIONS, account, explain, policy, reaches, server
from tests.netns.test_identity_live import known
from tests.netns.test_init import inside
from tests.netns.world import MARKER, Echo, World

PORT, FORMERS, HEIRS = 7000, 7001, 7002
FIRST, SECOND = "first", "second"
"""Service accounts: of who has the addresses first, and of who has them then."""

_numbers = itertools.count(1)


class Place(NamedTuple):
    world: World
    client: Player
    server: Player
    outside: Player

    def declare(self, player: Player, service_account: str, *, meshed: bool, default: str) -> None:
        """Its manifest, which waits for the address as long as another pod has it."""
        annotations = {DEFAULT_POLICY: default} | ({} if meshed else {"linkerd.io/inject": "disabled"})
        self.world.declare(player, service_account=service_account, annotations=annotations)

    def is_there(self, player: Player) -> None:
        """Returns when it is in force, and captured if it is meshed."""
        self.world.until(lambda: known(self.world, player.name) and self.world.ready()["ready"], "it is known")

    def withdraw(self, player: Player) -> None:
        """Its manifest goes."""
        self.world.withdraw(player)
        self.world.until(lambda: not known(self.world, player.name), "it is known no more")

    def bury(self, player: Player) -> None:
        """Ends its namespace. It is gone, and its cable with it, only when nobody holds it, the agent neither."""
        subprocess.run(["ip", "netns", "del", player.netns], check=True)
        cable = ["ip", "-n", self.world.stage.hub, "link", "show", player.port]
        gone = "the agent holds nothing of it any more"
        self.world.until(lambda: subprocess.run(cable, capture_output=True, check=False).returncode != 0, gone)

    def heir(self, former: Player) -> Player:
        """A new namespace with the addresses of one that is gone; neighbours forget where those were."""
        made = self.world.stage.add(f"heir{next(_numbers)}")
        for address in (made.ipv4, made.ipv6):
            inside(made, "ip", "addr", "flush", "to", address, "dev", "eth0")
        inside(made, "ip", "addr", "add", f"{former.ipv4}/24", "dev", "eth0")
        inside(made, "ip", "addr", "add", f"{former.ipv6}/64", "dev", "eth0", "nodad")
        for neighbour in (self.client, self.server, self.outside, self.world.node):
            inside(neighbour, "ip", "neigh", "flush", "all")
        return dataclasses.replace(made, ipv4=former.ipv4, ipv6=former.ipv6)

    def reached(self, who: Player, version: int) -> set[int]:
        """The ports of the server that somebody is let into."""
        address = self.server.address(version)
        return {port for port in (FORMERS, HEIRS) if reaches(self.world, who, address, port)}


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    place = Place(world, world.pod("client"), world.pod("server"), world.stranger("outside"))
    for port, name in ((FORMERS, FIRST), (HEIRS, SECOND)):
        world.write(server(name, port), policy(name, name, account(name)))
    echoes = [Echo(world, place.server, port, 6) for port in (FORMERS, HEIRS)]
    world.start()
    yield place
    for echo in echoes:
        echo.close()


def calls(place: Place, player: Player, service_account: str, *, meshed: bool) -> None:
    """Who it is as a client: it is let in where its own account is, and its plaintext nowhere."""
    own = {FIRST: FORMERS, SECOND: HEIRS}[service_account]
    for version in VERSIONS:
        assert place.reached(player, version) == ({own} if meshed else set())
        said = explain(place.world, from_=f"demo/{player.name}", to="demo/server", port=own)
        assert said["verdict"] == ("allow" if meshed else "deny")


def is_called(place: Place, player: Player, service_account: str, *, meshed: bool) -> None:
    """Who it is as a server: by mTLS under its own identity, and otherwise in plaintext."""
    world = place.world
    for version in VERSIONS:
        since = world.said()
        with world.wire() as wire, world.connect(place.client, player.address(version), PORT) as sock:
            sock.sendall(MARKER)
            assert sock.recv(100) == MARKER, world.mesh.last_words()
            source = shown(place.client.address(version), sock.getsockname()[1])
        assert wire.contains(MARKER) is not meshed
        ended = world.closed(since, pod="demo/client", direction="outbound", client=source)
        assert ended["security"] == ("mtls" if meshed else "plain")
        if meshed:
            assert ended["server_id"] == f"spiffe://example.test/ns/demo/sa/{service_account}"


def lets_in(place: Place, player: Player) -> set[bool]:
    """Whether plaintext from outside comes to the application, by either family."""
    return {reaches(place.world, place.outside, player.address(version), PORT) for version in VERSIONS}


@pytest.mark.parametrize("early", [False, True], ids=["after it", "before it"])
@pytest.mark.parametrize(("formers", "heirs"), [(True, True), (True, False), (False, True), (False, False)])
def test_who_gets_an_address_is_nobody_but_himself(place: Place, *, formers: bool, heirs: bool, early: bool) -> None:
    """`formers` and `heirs`: whether they are meshed. Early: the heir is in the catalog before the former has left."""
    world = place.world
    former = world.stranger(f"former{next(_numbers)}")
    place.declare(former, FIRST, meshed=formers, default="all-unauthenticated")
    place.is_there(former)
    echo = Echo(world, former, PORT, 6)
    calls(place, former, FIRST, meshed=formers)
    is_called(place, former, FIRST, meshed=formers)
    assert lets_in(place, former) == {True}
    echo.close()
    if not early:
        place.withdraw(former)
        place.bury(former)
    heir = place.heir(former)
    place.declare(heir, SECOND, meshed=heirs, default="all-authenticated")
    if early:
        place.withdraw(former)
        place.bury(former)
    place.is_there(heir)
    echo = Echo(world, heir, PORT, 6)
    calls(place, heir, SECOND, meshed=heirs)
    is_called(place, heir, SECOND, meshed=heirs)
    assert lets_in(place, heir) == {not heirs}
    echo.close()
    place.withdraw(heir)
    place.bury(heir)
