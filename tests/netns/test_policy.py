"""Who may talk to whom: the six defaults, live changes, and what annotations keep out of the mesh."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.world import SOON, Echo, World
from tests.policy.world import manifest, text_of

PORT = 7000
DEFAULT_POLICY = "config.linkerd.io/default-inbound-policy"
POLICIES = [
    # policy, meshed client, stranger; the pods' addresses are inside the cluster networks
    ("all-unauthenticated", True, True),
    ("all-authenticated", True, False),
    ("cluster-authenticated", True, False),
    ("cluster-unauthenticated", True, True),
    ("deny", False, False),
    ("audit", True, True),
]
MARKER = b"a-marker-that-nobody-else-writes"


class Place(NamedTuple):
    world: World
    client: Player
    stranger: Player


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    client, stranger = world.pod("client"), world.stranger("stranger")
    echoes = []
    for policy, _, _ in POLICIES:
        echoes.append(Echo(world, world.pod(policy, annotations={DEFAULT_POLICY: policy}), PORT))
    world.namespace("strict", {DEFAULT_POLICY: "deny"})
    echoes.append(Echo(world, world.pod("inherits", namespace="strict"), PORT))
    echoes.append(
        Echo(
            world, world.pod("overrides", namespace="strict", annotations={DEFAULT_POLICY: "all-unauthenticated"}), PORT
        )
    )
    world.start()
    yield Place(world, client, stranger)
    for echo in echoes:
        echo.close()


def reaches(place: Place, who: Player, server: str) -> bool:
    try:
        with place.world.connect(who, place.world.stage.players[server].ipv4, PORT) as sock:
            sock.sendall(b"hello")
            return sock.recv(100) == b"hello"
    except ConnectionResetError:
        return False


@pytest.mark.parametrize(("policy", "meshed", "stranger"), POLICIES)
def test_each_default_policy_lets_in_whom_it_names(place: Place, policy: str, meshed: bool, stranger: bool) -> None:
    assert reaches(place, place.client, policy) is meshed
    assert reaches(place, place.stranger, policy) is stranger


def test_a_pod_inherits_its_namespaces_policy_and_may_override_it(place: Place) -> None:
    assert not reaches(place, place.client, "inherits")
    assert reaches(place, place.stranger, "overrides")


def test_a_stranger_without_certificate_is_refused_counted_and_logged(place: Place) -> None:
    world, server = place.world, place.world.stage.players["all-authenticated"]
    before = world.count("quietwire_denials_total", direction="inbound", reason="unauthenticated")
    assert not reaches(place, place.stranger, "all-authenticated")
    assert world.count("quietwire_denials_total", direction="inbound", reason="unauthenticated") == before + 1
    where = f"{server.ipv4}:{PORT}"
    line = world.denial(outcome="unauthenticated", pod="demo/all-authenticated", destination=where)
    assert line["client"].startswith(place.stranger.ipv4)
    assert "not meshed" in line["reason"]


def test_deny_is_counted_as_such(place: Place) -> None:
    assert not reaches(place, place.client, "deny")
    place.world.denial(outcome="denied_by_default", pod="demo/deny")


def test_what_audit_lets_through_is_logged_as_audit(place: Place) -> None:
    assert reaches(place, place.stranger, "audit")
    assert place.world.closed(pod="demo/audit", direction="inbound")["audit"] is True


def test_cluster_policies_hold_outside_clients_off(make_world: Callable[..., World]) -> None:
    world = make_world("--cluster-networks", "192.0.2.0/24")
    client, stranger = world.pod("client"), world.stranger("stranger")
    for policy in ("cluster-authenticated", "cluster-unauthenticated"):
        world.pod(policy, annotations={DEFAULT_POLICY: policy})
    world.start()
    place = Place(world, client, stranger)
    for policy in ("cluster-authenticated", "cluster-unauthenticated"):
        assert not reaches(place, client, policy)
        assert not reaches(place, stranger, policy)
    world.denial(outcome="network_not_permitted", pod="demo/cluster-authenticated")


@pytest.mark.parametrize("speaks", [True, False])
def test_a_changed_annotation_closes_a_strangers_open_connection_and_no_other(
    make_world: Callable[..., World], speaks: bool
) -> None:
    world = make_world()
    client, stranger = world.pod("client"), world.stranger("stranger")
    server = world.pod("server", annotations={DEFAULT_POLICY: "all-unauthenticated"})
    echo = Echo(world, server, PORT)
    world.start()
    with world.connect(stranger, server.ipv4, PORT) as foreign, world.connect(client, server.ipv4, PORT) as meshed:
        meshed.sendall(b"hello")
        assert meshed.recv(100) == b"hello"
        if speaks:
            foreign.sendall(b"hello")
            assert foreign.recv(100) == b"hello"
        else:
            world.until(lambda: len(echo.peers) == 2, "the silent connection has reached the application")
        world.declare(server)
        with pytest.raises(ConnectionResetError):
            foreign.recv(100)
        meshed.sendall(b"still here")
        assert meshed.recv(100) == b"still here"
    echo.close()
    world.denial(outcome="terminated" if speaks else "unauthenticated", pod="demo/server")


REQUIRE_IDENTITY = "config.linkerd.io/proxy-require-identity-inbound-ports"


def test_a_port_that_demands_an_identity_is_closed_to_plaintext_and_the_others_are_not(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--default-inbound-policy", "all-unauthenticated")
    client, stranger = world.pod("client"), world.stranger("stranger")
    server = world.pod("server", annotations={REQUIRE_IDENTITY: f"9,{PORT}-{PORT + 1}"})
    watched = world.pod("watched", annotations={REQUIRE_IDENTITY: str(PORT), DEFAULT_POLICY: "audit"})
    world.namespace("strict", {REQUIRE_IDENTITY: str(PORT)})
    inherits = world.pod("inherits", namespace="strict")
    echoes = [Echo(world, player, PORT) for player in (server, watched, inherits)]
    echoes += [Echo(world, player, PORT + 2) for player in (server, watched)]
    world.start()
    place = Place(world, client, stranger)
    for name in ("server", "watched", "inherits"):
        assert reaches(place, client, name)
        assert not reaches(place, stranger, name), name
    for name in ("server", "watched"):
        assert plain_exchange(world, stranger, world.stage.players[name].ipv4, PORT + 2)
    line = world.denial(outcome="unauthenticated", pod="demo/server")
    assert REQUIRE_IDENTITY in line["reason"]
    tightened = "default:all-unauthenticated+require-identity"
    counted = {"server": tightened, "reason": "unauthenticated", "verdict": "deny", "authorization": ""}
    assert world.count("quietwire_authorizations_total", **counted) == 2
    where = f"{watched.ipv4}:{PORT}"
    assert world.closed(event="closed", pod="demo/watched", direction="inbound", destination=where)["audit"] is True
    for echo in echoes:
        echo.close()


def test_a_demand_for_identity_that_comes_closes_a_strangers_open_connection_and_no_other(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--default-inbound-policy", "all-unauthenticated")
    client, stranger, server = world.pod("client"), world.stranger("stranger"), world.pod("server")
    echoes = [Echo(world, server, port) for port in (PORT, PORT + 1)]
    world.start()
    with (
        world.connect(stranger, server.ipv4, PORT) as foreign,
        world.connect(stranger, server.ipv4, PORT + 1) as elsewhere,
        world.connect(client, server.ipv4, PORT) as meshed,
    ):
        for sock in (foreign, elsewhere, meshed):
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
        world.declare(server, annotations={REQUIRE_IDENTITY: str(PORT)})
        with pytest.raises(ConnectionResetError):
            foreign.recv(100)
        for sock in (elsewhere, meshed):
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
    for echo in echoes:
        echo.close()
    world.denial(outcome="terminated", pod="demo/server")


def test_a_policy_behind_a_link_out_of_the_directory_is_tightened_and_holds_at_once(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world("--default-inbound-policy", "all-unauthenticated")
    stranger, server = world.stranger("stranger"), world.pod("server")
    echo = Echo(world, server, PORT)
    away = tmp_path / "git" / "policies"
    away.mkdir(parents=True)
    selecting = {"podSelector": {"matchLabels": {"app": "server"}}, "port": PORT}

    def say(access: str) -> None:
        (away / "server.yaml").write_text(
            text_of([manifest("Server demo/server", {**selecting, "accessPolicy": access})]), encoding="utf-8"
        )

    say("all-unauthenticated")
    (world.mesh.manifests / "server.yaml").symlink_to(away / "server.yaml")
    world.start()
    with world.connect(stranger, server.ipv4, PORT) as foreign:
        foreign.sendall(b"hello")
        assert foreign.recv(100) == b"hello"
        say("all-authenticated")
        with pytest.raises(ConnectionResetError):
            foreign.recv(100)
        say("all-unauthenticated")
        place = Place(world, stranger, stranger)
        world.until(lambda: reaches(place, stranger, "server"), "it is open again")
        away.rename(away.with_name("elsewhere"))
        assert world.mesh.wait_for_log(lambda line: "server.yaml:0: is a link to nothing" in line["msg"], SOON)
        assert reaches(place, stranger, "server"), "what it said last stays in force"
    echo.close()


def test_a_destination_that_becomes_meshed_ends_plaintext_connections_to_it(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, other = world.pod("client"), world.stranger("other")
    echo = Echo(world, other, PORT)
    world.start()
    with world.connect(client, other.ipv4, PORT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        world.declare(other)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    echo.close()
    world.denial(outcome="terminated", direction="outbound")


def plain_exchange(world: World, client: Player, address: str, port: int = PORT) -> bool:
    """Whether an exchange works, and crosses the bridge as it is."""
    with world.wire() as wire, world.connect(client, address, port) as sock:
        sock.sendall(MARKER)
        worked = sock.recv(100) == MARKER
    return worked and wire.contains(MARKER)


def test_ports_and_subnets_that_annotations_skip_are_left_alone(make_world: Callable[..., World]) -> None:
    world = make_world()
    inbound = world.pod("inbound", annotations={"config.linkerd.io/skip-inbound-ports": f"9,{PORT}-{PORT + 5}"})
    outbound = world.pod("outbound", annotations={"config.linkerd.io/skip-outbound-ports": str(PORT)})
    subnet = world.pod("subnet", annotations={"config.linkerd.io/skip-subnets": "10.77.0.0/24"})
    client, stranger = world.pod("client"), world.stranger("stranger")
    echoes = [Echo(world, player, PORT) for player in (inbound, stranger, subnet)]
    echoes.append(Echo(world, inbound, 7100))
    world.start()
    assert plain_exchange(world, stranger, inbound.ipv4)
    assert plain_exchange(world, client, inbound.ipv4), "a meshed client goes in plaintext to a port that is skipped"
    with world.wire() as wire, world.connect(client, inbound.ipv4, 7100) as sock:
        sock.sendall(MARKER)
        assert sock.recv(100) == MARKER
    assert not wire.contains(MARKER), "other ports of the same pod are meshed"
    assert plain_exchange(world, outbound, stranger.ipv4)
    assert plain_exchange(world, stranger, subnet.ipv4)
    assert plain_exchange(world, client, subnet.ipv4)
    for echo in echoes:
        echo.close()


def test_a_pod_with_injection_disabled_is_plain_in_both_directions(make_world: Callable[..., World]) -> None:
    world = make_world()
    plain = world.pod("plain", annotations={"linkerd.io/inject": "disabled"})
    client, stranger = world.pod("client"), world.stranger("stranger")
    echoes = [Echo(world, player, PORT) for player in (plain, stranger)]
    world.start()
    assert plain_exchange(world, client, plain.ipv4)
    assert plain_exchange(world, plain, stranger.ipv4)
    for echo in echoes:
        echo.close()


def test_meshed_only_egress_refuses_a_destination_outside_the_mesh(make_world: Callable[..., World]) -> None:
    world = make_world("--egress-mode", "meshed-only")
    client, server, stranger = world.pod("client"), world.pod("server"), world.stranger("stranger")
    free = world.pod("free", annotations={"quietwire.io/egress-mode": "allow"})
    echoes = [Echo(world, player, PORT) for player in (server, stranger)]
    world.start()
    place = Place(world, client, stranger)
    with world.wire() as wire:
        assert not reaches(place, client, "stranger")
    assert not wire.segments()
    world.denial(outcome="egress_not_meshed", direction="outbound", pod="demo/client")
    assert world.count("quietwire_denials_total", direction="outbound", reason="egress_not_meshed") == 1
    assert reaches(place, client, "server")
    assert reaches(place, free, "stranger")
    for echo in echoes:
        echo.close()


def test_a_direct_connection_to_the_agents_own_port_is_refused(place: Place) -> None:
    server = place.world.stage.players["all-unauthenticated"]
    with pytest.raises(ConnectionResetError), place.world.connect(place.stranger, server.ipv4, 4143) as sock:
        sock.recv(100)
    place.world.denial(outcome="direct_to_listener", pod="demo/all-unauthenticated")
    with pytest.raises(ConnectionResetError), place.world.connect(server, "127.0.0.1", 4140) as sock:
        sock.recv(100)


def test_a_silent_stranger_is_not_kept_for_ever(place: Place) -> None:
    server = place.world.stage.players["all-authenticated"]
    with place.world.connect(place.stranger, server.ipv4, PORT) as sock:
        sock.settimeout(30)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    place.world.denial(outcome="handshake_timeout", pod="demo/all-authenticated")


def test_the_address_family_does_not_matter_to_policy(place: Place) -> None:
    server = place.world.stage.players["all-authenticated"]
    echo = Echo(place.world, server, 7600, 6)
    with place.world.connect(place.client, server.ipv6, 7600) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    with place.world.connect(place.stranger, server.ipv6, 7600) as sock:
        sock.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    echo.close()
