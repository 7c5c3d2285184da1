"""Policy that changes while connections live: who is no longer permitted is cut and counted; nobody else notices."""

import resource
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest

from tests.netns.live import PORT, SUFFIX, Place, cut_exactly, shown, started
from tests.netns.policies import (
    DEFAULT_POLICY,
    DENIALS,
    VERSIONS,
    Attempts,
    account,
    by_mesh,
    by_network,
    is_cut,
    mesh_tls,
    network,
    policy,
    server,
    server_authorization,
)
from tests.netns.world import MARKER, Load, Manifest, World, alive

FIRST_PORT = 7100
EGRESS_MODE = "quietwire.io/egress-mode"
MESHED_ONLY = "meshed-only"
EACH = 250
"""Connections of each of two clients under load."""


class Change(NamedTuple):
    """What is there before, what is done, and whom it cuts off; the other clients of `before` stay."""

    name: str
    before: Callable[[str, int], list[Manifest]]
    after: Callable[[str, int], list[Manifest]] = lambda _n, _p: []
    gone: Callable[[str, int], list[Manifest]] = lambda _n, _p: []
    doomed: tuple[str, ...] = ("web",)
    staying: tuple[str, ...] = ("cart",)


def nets(*players: str) -> list[str]:
    """Addresses of the strangers, as networks; their place on the stage is fixed."""
    numbers = {"stranger": 4, "neighbour": 5}
    return [f"{prefix}{numbers[each]}" for each in players for prefix in ("10.77.0.", "fd77::")]


def cart_too(name: str) -> Manifest:
    """A policy that nothing happens to."""
    return policy(f"{name}-cart", name, account("cart"))


CHANGES = [
    Change(
        "an-authorization-policy-is-deleted",
        lambda n, p: [server(n, p), policy(n, n, account("web")), cart_too(n)],
        gone=lambda n, _: [policy(n, n)],
    ),
    Change(
        "a-reference-changes",
        lambda n, p: [server(n, p), policy(n, n, account("web")), cart_too(n)],
        lambda n, _: [policy(n, n, account("web", "other"))],
    ),
    Change(
        "identities-change",
        lambda n, p: [server(n, p), mesh_tls(n, f"web.demo.{SUFFIX}", f"cart.demo.{SUFFIX}"), policy(n, n, by_mesh(n))],
        lambda n, _: [mesh_tls(n, f"cart.demo.{SUFFIX}")],
    ),
    Change(
        "identity-refs-change",
        lambda n, p: [
            *(server(n, p), mesh_tls(n, refs=[{"kind": "Namespace", "name": "demo"}])),
            policy(n, n, by_mesh(n)),
        ],
        lambda n, _: [mesh_tls(n, refs=[account("cart")])],
    ),
    Change(
        "what-a-policy-refers-to-is-deleted",
        lambda n, p: [server(n, p), mesh_tls(n, "*"), policy(n, n, by_mesh(n)), cart_too(n)],
        gone=lambda n, _: [mesh_tls(n)],
    ),
    Change(
        "networks-change",
        lambda n, p: [server(n, p), network(n, "10.77.0.0/24", "fd77::/64"), policy(n, n, by_network(n)), cart_too(n)],
        lambda n, _: [network(n, *nets("neighbour"))],
        doomed=("stranger", "web"),
        staying=("neighbour", "cart"),
    ),
    Change(
        "an-exception-comes",
        lambda n, p: [server(n, p), network(n, "10.77.0.0/24", "fd77::/64"), policy(n, n, by_network(n))],
        lambda n, _: [
            network(
                n,
                {"cidr": "10.77.0.0/24", "except": nets("stranger")[:1]},
                {"cidr": "fd77::/64", "except": nets("stranger")[1:]},
            )
        ],
        doomed=("stranger",),
        staying=("neighbour", "web", "cart"),
    ),
    Change(
        "networks-are-deleted",
        lambda n, p: [server(n, p), network(n, "10.77.0.0/24", "fd77::/64"), policy(n, n, by_network(n)), cart_too(n)],
        gone=lambda n, _: [network(n)],
        doomed=("stranger", "web"),
    ),
    Change(
        "a-server-authorization-changes",
        lambda n, p: [
            server(n, p),
            server_authorization(n, n, {"meshTLS": {"serviceAccounts": [{"name": "web"}, {"name": "cart"}]}}),
        ],
        lambda n, _: [server_authorization(n, n, {"meshTLS": {"serviceAccounts": [{"name": "cart"}]}})],
    ),
    Change(
        "a-server-authorization-is-deleted",
        lambda n, p: [server(n, p), server_authorization(n, n, {"unauthenticated": True}), cart_too(n)],
        gone=lambda n, _: [server_authorization(n, n, {})],
        doomed=("stranger", "web"),
    ),
    Change(
        "an-access-policy-changes",
        lambda n, p: [server(n, p, access="all-unauthenticated")],
        lambda n, p: [server(n, p, access="all-authenticated")],
        doomed=("stranger",),
        staying=("web", "cart"),
    ),
    Change(
        "audit-ends",
        lambda n, p: [server(n, p, access="audit"), cart_too(n)],
        lambda n, p: [server(n, p, access="deny")],
        doomed=("stranger", "web"),
    ),
    Change(
        "a-server-comes",
        lambda n, _: [cart_too(n)],
        lambda n, p: [server(n, p)],
    ),
    Change(
        "an-older-server-comes",
        lambda n, p: [
            server(n, p, created="2024-01-01T00:00:00Z"),
            *(policy(n, n), policy(f"{n}-old", f"{n}-old", account("cart"))),
        ],
        lambda n, p: [server(f"{n}-old", p, created="2020-01-01T00:00:00Z")],
        doomed=("stranger", "web"),
    ),
    Change(
        "a-server-is-deleted",
        lambda n, p: [server(n, p), policy(n, n)],
        gone=lambda n, p: [server(n, p)],
        doomed=("stranger",),
        staying=("web", "cart"),
    ),
    Change(
        "a-server-selects-no-more",
        lambda n, p: [server(n, p), policy(n, n)],
        lambda n, p: [server(n, p, app="another")],
        doomed=("stranger",),
        staying=("web", "cart"),
    ),
    Change(
        "a-server-changes-its-port",
        lambda n, p: [server(n, p), policy(n, n)],
        lambda n, p: [server(n, p + 1000)],
        doomed=("stranger",),
        staying=("web", "cart"),
    ),
]
PORTS = {change.name: FIRST_PORT + number for number, change in enumerate(CHANGES)}
RESUMED, LOADED, FAULTY, BY_LABEL, WIDER, CHURNED = (FIRST_PORT + 100 + number for number in range(6))
CUTTABLE = {4: 7300, 6: 7301}


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    players = {
        "web": world.pod("web"),
        "cart": world.pod("cart"),
        "stranger": world.stranger("stranger"),
        "neighbour": world.stranger("neighbour"),
        "server": world.pod("server"),
    }
    assert [f"{players[each].ipv4}" for each in ("stranger", "neighbour")] == nets("stranger", "neighbour")[::2]
    for name in ("labelled", "loaded", "heavy", "heavier", "modal", "annotated"):
        players[name] = world.pod(name)
    players["roomy"] = world.pod("roomy", namespace="rooms")
    players["walled"] = world.pod("walled", namespace="walls")
    players["free"] = world.pod("free", namespace="walls", annotations={EGRESS_MODE: "allow"})
    world.declare(players["annotated"], annotations={DEFAULT_POLICY: "all-unauthenticated"})
    world.namespace("rooms", {DEFAULT_POLICY: "all-unauthenticated"})
    world.namespace("walls", {EGRESS_MODE: MESHED_ONLY})
    for change in CHANGES:
        world.write(*change.before(change.name, PORTS[change.name]))
    world.write(
        *(server("resumed", RESUMED), policy("resumed", "resumed", account("web"))),
        *(server("loaded", LOADED, app="loaded"), policy("loaded-1", "loaded", account("heavy"))),
        policy("loaded-2", "loaded", account("heavier")),
        *(server("faulty", FAULTY), mesh_tls("faulty", f"web.demo.{SUFFIX}")),
        policy("faulty", "faulty", by_mesh("faulty")),
        *(server("wider", WIDER), policy("wider", "wider", account("cart"))),
        *(server(f"cuttable-{version}", port) for version, port in CUTTABLE.items()),
        *(policy(f"cuttable-{version}", f"cuttable-{version}", account("web")) for version in CUTTABLE),
        *(server("churned", CHURNED), policy("churned", "churned", account("web"))),
        server("by-label", BY_LABEL, selector={"podSelector": {"matchLabels": {"role": "public"}}}),
        policy("by-label", "by-label"),
        server("by-label-too", BY_LABEL, selector={"podSelector": {"matchLabels": {"role": "inner"}}}),
        policy("by-label-too", "by-label-too", account("cart")),
    )  # fmt: skip
    ports = {
        "server": (*PORTS.values(), RESUMED, FAULTY, WIDER, CHURNED),
        **dict.fromkeys(("labelled", "annotated", "roomy"), (PORT, BY_LABEL)),
        "loaded": (LOADED,),
        "stranger": (PORT,),
    }
    yield from started(world, players, ports)


@pytest.mark.parametrize("change", CHANGES, ids=[change.name for change in CHANGES])
def test_each_change_cuts_exactly_those_who_are_no_longer_permitted(place: Place, change: Change) -> None:
    name, port, world = change.name, PORTS[change.name], place.world
    doomed = [place.hold(who, "server", port, version) for who in change.doomed for version in VERSIONS]
    staying = [place.hold(who, "server", port, version) for who in change.staying for version in VERSIONS]
    with cut_exactly(place, doomed, staying):
        world.write(*change.after(name, port))
        world.remove(*change.gone(name, port))
    for version in VERSIONS:
        for who in change.doomed:
            assert not place.reaches(who, "server", port, version)
        for who in change.staying:
            assert place.reaches(who, "server", port, version)


def test_what_permits_more_cuts_nobody(place: Place) -> None:
    with place.hold("cart", "server", WIDER) as held, place.hold("cart", "server", WIDER, 6) as other:
        before = place.terminated()
        assert not place.reaches("stranger", "server", WIDER)
        place.world.write(policy("wider-still", "wider"))
        place.world.until(lambda: place.reaches("stranger", "server", WIDER), "the stranger is let in")
        assert alive(held)
        assert alive(other)
        assert place.terminated() == before


@pytest.mark.parametrize("version", VERSIONS)
def test_half_closed_and_stuck_connections_are_cut_too(place: Place, version: int) -> None:
    """One has sent all that it will; the application of the other does not read, and everything between is full."""
    world, address, port = place.world, place.players["server"].address(version), CUTTABLE[version]
    with (
        world.listen(place.players["server"], port, version) as listener,
        world.connect(place.players["web"], address, port) as half,
        listener.accept()[0] as half_server,
        world.connect(place.players["web"], address, port) as stuck,
        listener.accept()[0] as stuck_server,
    ):
        half.shutdown(socket.SHUT_WR)
        assert half_server.recv(100) == b""
        half_server.sendall(MARKER)
        assert half.recv(100) == MARKER
        stuck.setblocking(False)
        world.until(lambda: full(stuck), "nothing more goes in")
        before = place.terminated()
        world.remove(policy(f"cuttable-{version}", ""))
        is_cut(half)
        is_cut(stuck)
        world.until(lambda: not sends(half_server), "the server's end of the half-closed one is gone")
        with pytest.raises(ConnectionResetError):
            read_all(stuck_server)
        assert place.terminated() == before + 2


def sends(sock: socket.socket) -> bool:
    """Whether anything can be sent. After the peer's own end a reset is seen by writing only."""
    try:
        return bool(sock.send(b"x"))
    except OSError:
        return False


def read_all(sock: socket.socket) -> None:
    """Reads to the end, which a reset is not."""
    while sock.recv(1 << 20):
        pass


def full(sock: socket.socket) -> bool:
    """Fills a socket; whether nothing went in at all this time."""
    try:
        return not sock.send(b"x" * (1 << 20))
    except BlockingIOError:
        return True


def has_moved_on(world: World, version: float) -> bool:
    """Whether a later catalog is in force."""
    return world.count("quietwire_catalog_version") > version


def test_policy_that_is_rewritten_again_and_again_opens_nothing_and_cuts_nobody(place: Place) -> None:
    world, address = place.world, place.players["server"].ipv4
    load = Load(world, place.players["web"], address, CHURNED)
    forbidden = [Attempts(world, place.players[who], address, CHURNED) for who in ("cart", "stranger")]
    try:
        with place.hold("web", "server", CHURNED) as held:
            for number in range(30):
                version = world.count("quietwire_catalog_version")
                written = {"round": str(number)}
                world.write(
                    server("churned", CHURNED, labels=written, created=f"2020-01-{number + 1:02}T00:00:00Z"),
                    mesh_tls("churned", f"web.demo.{SUFFIX}", f"web-{number}.demo.{SUFFIX}"),
                    policy("churned", "churned", by_mesh("churned")),
                )
                world.declare(place.players["server"], labels=written)
                world.until(partial(has_moved_on, world, version), "it is in force")
            assert alive(held)
    finally:
        load.stop()
        for each in forbidden:
            each.stop()
    assert load.bad == [], load.report()
    assert load.good
    assert [each.through for each in forbidden] == [0, 0]
    assert all(each.reset for each in forbidden)


def test_labels_that_leave_a_server_and_come_to_another(place: Place) -> None:
    world, labelled = place.world, place.players["labelled"]
    world.declare(labelled, labels={"role": "public"})
    world.until(lambda: place.reaches("stranger", "labelled", BY_LABEL), "the label is in force")
    doomed = [place.hold("stranger", "labelled", BY_LABEL, version) for version in VERSIONS]
    meshed = [place.hold(who, "labelled", BY_LABEL, version) for who in ("web", "cart") for version in VERSIONS]
    with cut_exactly(place, doomed, []):
        world.declare(labelled)  # no Server selects it: the default holds
    assert all(alive(sock) for sock in meshed)
    with cut_exactly(place, meshed[:2], meshed[2:]):
        world.declare(labelled, labels={"role": "inner"})
    assert place.reaches("cart", "labelled", BY_LABEL)
    assert not place.reaches("web", "labelled", BY_LABEL)


def test_an_annotation_of_a_pod(place: Place) -> None:
    doomed = [place.hold("stranger", "annotated", version=version) for version in VERSIONS]
    staying = [place.hold("web", "annotated", version=version) for version in VERSIONS]
    with cut_exactly(place, doomed, staying):
        place.world.declare(place.players["annotated"], annotations={DEFAULT_POLICY: "cluster-authenticated"})
    assert not place.reaches("stranger", "annotated")


def test_an_annotation_of_a_namespace(place: Place) -> None:
    doomed = [place.hold("stranger", "roomy", version=version) for version in VERSIONS]
    staying = [place.hold("web", "roomy", version=version) for version in VERSIONS]
    with cut_exactly(place, doomed, staying):
        place.world.namespace("rooms", {DEFAULT_POLICY: "all-authenticated"})
    assert not place.reaches("stranger", "roomy")


def test_a_resumed_session_is_judged_as_a_full_handshake_is(place: Place) -> None:
    world = place.world
    web = "spiffe://example.test/ns/demo/sa/web"
    where = shown(place.players["server"].ipv4, RESUMED)

    def seen(*, allowed: bool, after: int) -> Callable[[], bool]:
        """One more attempt; whether one that was resumed has been said since."""

        def tried() -> bool:
            assert place.reaches("web", "server", RESUMED) is allowed
            return any(
                line.get("event") == ("closed" if allowed else "denied")
                and line.get("direction") == "inbound"
                and line.get("destination") == where
                and line.get("client_id") == web
                and line.get("tls_resumed")
                for line in world.mesh.lines()[after:]
            )

        return tried

    world.until(seen(allowed=True, after=0), "a resumed session is let in")
    with place.hold("web", "server", RESUMED) as held:
        world.write(policy("resumed", "resumed", account("cart")))
        is_cut(held)
    world.until(seen(allowed=False, after=len(world.mesh.lines())), "a resumed session is denied")
    world.denial(outcome="identity_not_permitted", destination=where, server="Server demo/resumed")
    world.write(policy("resumed", "resumed", account("web")))
    world.until(lambda: place.reaches("web", "server", RESUMED), "it is let in again")
    world.until(seen(allowed=True, after=len(world.mesh.lines())), "a resumed session is let in again")


def test_under_load_exactly_the_forbidden_clients_connections_are_cut(place: Place) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # both ends of every connection are in this process
    try:
        heavy, heavier = ([place.hold(who, "loaded", LOADED) for _ in range(EACH)] for who in ("heavy", "heavier"))
        live = place.world.count("quietwire_connections_live", direction="inbound")
        closed, outbound = place.terminated(direction="inbound"), place.terminated(direction="outbound")
        with cut_exactly(place, heavy, heavier):
            place.world.remove(policy("loaded-1", "loaded"))
        assert live >= 2 * EACH
        assert place.terminated(direction="inbound") == closed + EACH
        assert place.terminated(direction="outbound") == outbound, "the server's side decides, and counts"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("version", VERSIONS)
def test_egress_by_annotation_of_namespace_and_pod_is_refused_logged_and_counted(place: Place, version: int) -> None:
    world = place.world
    before = world.count(DENIALS, direction="outbound", reason="egress_not_meshed")
    with world.wire() as wire:
        assert not place.reaches("walled", "stranger", PORT, version)
    # Of this pod alone: connections of another scenario may still be saying goodbye.
    assert not wire.segments_of(place.players["walled"].address(version))
    assert world.count(DENIALS, direction="outbound", reason="egress_not_meshed") == before + 1
    outside = shown(place.players["stranger"].address(version), PORT)
    record = world.denial(outcome="egress_not_meshed", direction="outbound", pod="walls/walled", destination=outside)
    assert "meshed-only" in record["reason"]
    assert place.reaches("free", "stranger", PORT, version), "the pod's own annotation comes first"
    with world.wire() as wire:
        assert place.reaches("walled", "annotated", PORT, version), "what is meshed is not meant"
    assert wire.segments_of(place.players["walled"].address(version))


def test_an_egress_mode_that_comes_cuts_open_plain_connections_and_no_meshed_one(place: Place) -> None:
    world = place.world
    doomed = [place.hold("modal", "stranger", version=version) for version in VERSIONS]
    staying = [place.hold("modal", "annotated", version=version) for version in VERSIONS]
    with cut_exactly(place, doomed, staying):
        world.declare(place.players["modal"], annotations={EGRESS_MODE: MESHED_ONLY})
    record = world.denial(outcome="terminated", direction="outbound", pod="demo/modal")
    assert "meshed-only" in record["reason"]
    world.declare(place.players["modal"])
    world.until(lambda: place.reaches("modal", "stranger"), "it is allowed again")
    with place.hold("modal", "stranger") as held, place.hold("free", "stranger") as free:
        world.namespace("demo", {EGRESS_MODE: MESHED_ONLY})
        is_cut(held)
        assert alive(free)
    world.namespace("demo", {})
    world.until(lambda: place.reaches("modal", "stranger"), "it is allowed again")


def test_a_policy_object_with_a_fault_is_shown_and_its_last_good_version_stays_in_force(place: Place) -> None:
    world = place.world
    good = mesh_tls("faulty", f"web.demo.{SUFFIX}")
    path = world.file_of(good)
    with place.hold("web", "server", FAULTY) as held:
        for reason, text in {
            "unknown field 'identites'": good | {"spec": {"identites": ["*"]}},
            "one of identities and identityRefs": good | {"spec": {}},
            "identity 'web*' is none": good | {"spec": {"identities": ["web*"]}},
        }.items():
            world.write(text)
            faults = world.until(partial(holding, world, reason), f"/ready says {reason}")
            assert faults[0].startswith(f"{path.name}:")
            assert "MeshTLSAuthentication demo/faulty" in faults[0]
            assert "its last good version stays in force" in faults[0]
            assert world.ready()["ready"]
            assert world.count("quietwire_catalog_faults") == 1
            for version in VERSIONS:
                assert place.reaches("web", "server", FAULTY, version)
                assert not place.reaches("cart", "server", FAULTY, version)
                assert not place.reaches("stranger", "server", FAULTY, version)
        path.write_text("kind: [unfinished")
        world.until(lambda: holding(world, "no valid YAML"), "/ready says what is wrong with the file")
        assert place.reaches("web", "server", FAULTY)
        assert not place.reaches("cart", "server", FAULTY)
        world.write(good)
        world.until(lambda: world.count("quietwire_catalog_faults") == 0, "the fault is mended")
        assert world.ready()["faults"] == []
        assert alive(held)


def holding(world: World, reason: str) -> list[str]:
    """The faults that /ready shows, where there is one with this reason."""
    faults: list[str] = world.ready()["faults"]
    return faults if any(reason in each for each in faults) else []
