"""Pods whose network takes less than an Ethernet's packet, as an overlay's does: what is large comes whole."""

import hashlib
import subprocess
import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.live import PORT
from tests.netns.world import Echo, World

SIZE = 4 << 20


class Place(NamedTuple):
    """The world of this module."""

    world: World
    players: dict[str, Player]


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Place:
    world = make_shared_world()
    players = {name: world.pod(name) for name in ("client", "server")}
    subprocess.run(players["server"].command("ip", "link", "set", "dev", "eth0", "mtu", "1280"), check=True)
    world.start()
    return Place(world, players)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("who", "to"), [("client", "server"), ("server", "client")])
def test_four_mebibytes_go_and_come_back_the_same(place: Place, who: str, to: str, version: int) -> None:
    world, players = place
    echo = Echo(world, players[to], PORT, version)
    sent = hashlib.shake_128(b"some").digest(SIZE)
    with world.connect(players[who], players[to].address(version), PORT) as sock:

        def say() -> None:
            sock.sendall(sent)
            sock.shutdown(1)

        threading.Thread(target=say, daemon=True).start()
        back = bytearray()
        while chunk := sock.recv(1 << 16):
            back += chunk
    echo.close()
    assert hashlib.sha256(back).digest() == hashlib.sha256(sent).digest()
