"""Identities and addresses that change hands while connections live: whoever is given them inherits nothing."""

import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest

from agent.lab.stage import Player
from tests.netns.live import PORT, SUFFIX, Place, cut_exactly, shown, started
from tests.netns.policies import (
    DENIALS,
    RESET_SECONDS,
    VERSIONS,
    account,
    by_network,
    is_cut,
    network,
    policy,
    reaches,
    server,
)
from tests.netns.test_catalog import init_check
from tests.netns.test_certificates import context
from tests.netns.world import World, alive
from tests.tls.pki import Pki

BY_ACCOUNT = 7100

RESET = (ConnectionResetError, ssl.SSLEOFError)
"""How Python tells of a reset under TLS: 3.13's way, and 3.11's."""


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    players = {name: world.pod(name) for name in ("web", "server", "renamed", "mover", "leaver")}
    for name in ("remote", "plain-remote"):  # in the catalog they are of another node, which has no agent
        players[name] = world.stranger(name)
    world.declare(players["remote"], node="node-b")
    world.declare(players["plain-remote"], node="node-b", annotations={"linkerd.io/inject": "disabled"})
    world.write(
        server("by-account", BY_ACCOUNT),
        *(policy(f"by-account-{name}", "by-account", account(name)) for name in ("mover", "leaver", "remote", "web")),
        policy("by-network", "by-account", by_network("plain-remote")),
        network("plain-remote", players["plain-remote"].ipv4, players["plain-remote"].ipv6),
    )
    yield from started(world, players, {"server": (BY_ACCOUNT,), "renamed": (PORT,)})


def cut_by_account(place: Place, held: list[socket.socket], pod: str, becomes: str) -> None:
    """Another service account for a pod cuts these, its connections, and nobody else's."""
    with place.hold("web", "server", BY_ACCOUNT) as staying:
        before = place.terminated()
        place.world.declare(place.players[pod], service_account=becomes)
        for sock in held:
            is_cut(sock)
            sock.close()
        assert alive(staying)
        # Both sides judge, and the first of them takes the other along.
        assert len(held) <= place.terminated() - before <= 2 * len(held)


def test_a_clients_service_account_changes(place: Place) -> None:
    world = place.world
    held = [place.hold("mover", "server", BY_ACCOUNT, version) for version in VERSIONS]
    cut_by_account(place, held, "mover", "moved")
    assert world.mesh.wait_for_log(
        lambda line: line.get("outcome") == "terminated" and "sa/moved now" in str(line.get("reason"))
    )
    world.until(lambda: not world.ready()["waiting"], "it has its new SVID")

    def told() -> bool:
        """The rate of lines is bounded, and others are refused in the same second: it is tried until it is told."""
        assert not place.reaches("mover", "server", BY_ACCOUNT)
        wanted = ("identity_not_permitted", "spiffe://example.test/ns/demo/sa/moved")
        return any((line.get("outcome"), line.get("client_id")) == wanted for line in world.mesh.lines())

    world.until(told, "it is refused under its new name")


def test_a_servers_service_account_changes(place: Place) -> None:
    world = place.world
    held = [place.hold("web", "renamed", version=version) for version in VERSIONS]
    cut_by_account(place, held, "renamed", "renamed-2")
    world.until(lambda: place.reaches("web", "renamed"), "it is served under its new name")
    assert world.closed(server_id="spiffe://example.test/ns/demo/sa/renamed-2", direction="inbound")


def heir(player: Player, name: str) -> Player:
    """Another pod that is given the addresses, and here the namespace too, of one that is gone."""
    return dataclasses.replace(player, name=name)


def known(world: World, pod: str) -> bool:
    """Whether the catalog in force has a pod."""
    return world.mesh.ask(f"/authz?from=demo/{pod}&to=demo/server&port=1").startswith("{")


@contextlib.contextmanager
def as_remote(place: Place, version: int) -> Iterator[ssl.SSLSocket]:
    """An open connection of the pod on another node, whose agent is played by a TLS client with its SVID."""
    world, target = place.world, place.players["server"].address(version)
    tls = context(Pki.from_state(world.mesh.directory / "state" / "authority").svid("remote"))
    with (
        world.connect(place.players["remote"], target, BY_ACCOUNT) as raw,
        tls.wrap_socket(raw, server_hostname=f"server.demo.{SUFFIX}", suppress_ragged_eofs=False) as sock,
    ):
        assert alive(sock)
        sock.settimeout(RESET_SECONDS)
        yield sock


def hand_over(place: Place, successor: Player, *, early: bool = False) -> None:
    """The address of `remote` becomes another pod's; early: that one is in the catalog before the first has left."""
    if early:
        place.world.declare(successor, node="node-b")
    place.world.withdraw(place.players["remote"])
    place.world.declare(successor, node="node-b")


def give_back(place: Place, successor: Player) -> None:
    """The address is `remote`'s again, and that is in force."""
    place.world.withdraw(successor)
    place.world.declare(place.players["remote"], node="node-b")
    place.world.until(
        lambda: known(place.world, "remote") and not known(place.world, successor.name), "the first pod is back"
    )


@pytest.mark.parametrize(("version", "early"), [(4, False), (6, False), (4, True)])
def test_a_live_connection_ends_when_its_address_becomes_another_pods(place: Place, version: int, early: bool) -> None:
    """The client is of another node: only its address and its certificate are known here."""
    world, remote = place.world, place.players["remote"]
    successor = heir(remote, f"{'early' if early else 'late'}-heir-{version}")
    before = place.terminated()
    with as_remote(place, version) as sock, place.hold("web", "server", BY_ACCOUNT, version) as staying:
        hand_over(place, successor, early=early)
        with pytest.raises(RESET):
            sock.recv(100)
        assert alive(staying)
    assert place.terminated() == before + 1
    remotes_id = "spiffe://example.test/ns/demo/sa/remote"
    assert world.mesh.wait_for_log(
        lambda line: (
            (line.get("outcome"), line.get("client_id")) == ("terminated", remotes_id)
            and f"{successor.name}'s now" in line["reason"]
        )
    )
    give_back(place, successor)


def test_a_connection_that_came_before_its_pod_was_known_ends_too_when_the_address_is_given_away(
    place: Place,
) -> None:
    """Catalogs are followed, and not in step: a pod of another node may call before this node has heard of it."""
    world, remote = place.world, place.players["remote"]
    successor = heir(remote, "heir-of-unknown")
    world.withdraw(remote)
    world.until(lambda: not known(world, "remote"), "the address is nobody's")
    try:
        with as_remote(place, 4) as sock:
            world.declare(remote, node="node-b")
            world.until(lambda: known(world, "remote"), "the pod is known")
            assert alive(sock)
            hand_over(place, successor)
            with pytest.raises(RESET):
                sock.recv(100)
    finally:
        give_back(place, successor)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_live_plaintext_connection_ends_when_its_address_becomes_another_pods(place: Place, version: int) -> None:
    world, player = place.world, place.players["plain-remote"]
    disabled = {"linkerd.io/inject": "disabled"}
    successor = heir(player, f"heir-of-plain-{version}")
    since, held = world.said(), place.hold("plain-remote", "server", BY_ACCOUNT, version)
    client = shown(player.address(version), held.getsockname()[1])
    with cut_exactly(place, [held], [place.hold("web", "server", BY_ACCOUNT, version)]):
        world.withdraw(player)
        world.declare(successor, node="node-b", annotations=disabled)
    assert f"{successor.name}'s now" in world.denial(since, outcome="terminated", client=client)["reason"]
    world.withdraw(successor)
    world.declare(player, node="node-b", annotations=disabled)
    world.until(lambda: known(world, "plain-remote") and not known(world, successor.name), "the first pod is back")


def test_a_pod_that_is_given_an_address_inherits_no_permission_of_its_former_holder(place: Place) -> None:
    """New connections, from the very namespace and addresses: by the heir's own identity, and then without any."""
    world, leaver, target = place.world, place.players["leaver"], place.players["server"]
    successor = heir(leaver, "heir-of-leaver")
    pods = world.ready()["pods"]
    for version in (*VERSIONS,) * 8:  # every worker has sessions, which the heir must not resume
        assert place.reaches("leaver", "server", BY_ACCOUNT, version)
    world.withdraw(leaver)
    world.until(lambda: world.ready()["pods"] == pods - 1, "the pod is let go")
    world.declare(successor)
    world.until(lambda: world.ready()["pods"] == pods and world.ready()["ready"], "its heir is captured")
    for version in (*VERSIONS,) * 8:
        assert not reaches(world, successor, target.address(version), BY_ACCOUNT)
    heirs_id = "spiffe://example.test/ns/demo/sa/heir-of-leaver"
    record = world.denial(outcome="identity_not_permitted", client_id=heirs_id, direction="inbound")
    assert record["server"] == "Server demo/by-account"
    world.withdraw(successor)
    world.until(lambda: world.ready()["pods"] == pods - 1, "it is let go")
    # A check visits the namespace, in which nobody may be seen to live.
    world.until(lambda: not world.count("quietwire_pods", state="left") and init_check(leaver) == 1, "its rules", 60.0)
    before = world.count(DENIALS, direction="inbound", reason="unauthenticated")
    for version in VERSIONS:
        assert not reaches(world, leaver, target.address(version), BY_ACCOUNT)
    assert world.count(DENIALS, direction="inbound", reason="unauthenticated") == before + len(VERSIONS)
