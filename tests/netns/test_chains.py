"""Chains that RFC 5280 forbids, or that are too much to look at, shown to the live data path by clients and servers.

The authority has an issuer that was given to it, under a root that limits nothing: so what is refused here is refused
for what it is, and not for what our own root allows.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.test_certificates import Impostor, Place, connect_and_tell, context, refused, talk
from tests.netns.world import Echo, World, alive
from tests.tls.paths import ALLOWED, FORBIDDEN, boundless
from tests.tls.pki import Pki

PORT = 7000
SECRET = b"a secret for the victim"


class Hostile(NamedTuple):
    """A pod with a stranger's TLS client before it, and another one with a stranger's TLS server in its place."""

    place: Place
    client: Player
    victim: Player
    impostor: Impostor

    @property
    def pki(self) -> Pki:
        """What signs everything here."""
        return self.place.pki


@pytest.fixture(scope="module")
def hostile(make_shared_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    pki, given = boundless(), Path(tmp_path_factory.mktemp("issuer"))
    pki.write_issuer(given)
    files = zip(("--issuer-cert", "--issuer-key", "--roots"), ("tls.crt", "tls.key", "ca.crt"), strict=True)
    world = make_shared_world(*(word for flag, name in files for word in (flag, str(given / name))))
    server, client = world.pod("server"), world.pod("client")
    outside, victim = world.stranger("outside"), world.stranger("victim")
    world.declare(victim, node="node-b")
    echo = Echo(world, server, PORT)
    world.start()
    impostor = Impostor(world, victim, PORT, pki.svid("victim"))
    yield Hostile(Place(world, server, outside, pki, echo), client, victim, impostor)
    impostor.close()
    echo.close()


def others_are_served(hostile: Hostile) -> None:
    with hostile.place.world.connect(hostile.client, hostile.place.server.ipv4, PORT) as sock:
        assert alive(sock), hostile.place.world.mesh.last_words()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_client_with_such_a_chain_is_refused(hostile: Hostile, name: str) -> None:
    refused(hostile.place, context(FORBIDDEN[name].make(hostile.pki)), FORBIDDEN[name].outcome)
    others_are_served(hostile)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_client_with_a_chain_that_is_allowed_is_served(hostile: Hostile, name: str) -> None:
    assert talk(hostile.place, context(ALLOWED[name](hostile.pki)))[0] == b"hello"


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_server_with_such_a_chain_hears_nothing(hostile: Hostile, name: str) -> None:
    world, outcome = hostile.place.world, str(FORBIDDEN[name].outcome)
    before = world.count("quietwire_denials_total", reason=outcome)
    hostile.impostor.show(FORBIDDEN[name].make(hostile.pki))
    with world.wire() as wire, pytest.raises(ConnectionResetError):
        connect_and_tell(world, hostile.client, hostile.victim.ipv4)
    assert world.count("quietwire_denials_total", reason=outcome) == before + 1
    assert hostile.impostor.heard == b""
    assert not wire.contains(SECRET)
    others_are_served(hostile)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_server_with_a_chain_that_is_allowed_is_spoken_to(hostile: Hostile, name: str) -> None:
    hostile.impostor.show(ALLOWED[name](hostile.pki))
    with contextlib.suppress(ConnectionResetError):  # it hears, and ends without close_notify
        connect_and_tell(hostile.place.world, hostile.client, hostile.victim.ipv4)
    hostile.place.world.until(lambda: hostile.impostor.heard == SECRET, "it has heard")
    hostile.impostor.heard = b""
