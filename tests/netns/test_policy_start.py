"""No window: what policy forbids never gets through once, whatever starts, dies, or cannot be read."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.policies import (
    DEFAULT_POLICY,
    Attempts,
    account,
    by_mesh,
    mesh_tls,
    policy,
    reaches,
    server,
)
from tests.netns.world import Echo, Manifest, World

PORT = 7000
SUFFIX = "serviceaccount.identity.example.test"


def apply_rules(player: Player) -> None:
    """What the pod's init step does before its application starts."""
    subprocess.run([sys.executable, "-m", "init", "apply", "--netns", player.netns], check=True, timeout=60)


def test_who_is_forbidden_never_gets_through_while_agents_start_and_die(make_world: Callable[..., World]) -> None:
    world = make_world()
    web, cart, stranger, target = world.pod("web"), world.pod("cart"), world.stranger("stranger"), world.pod("server")
    for player in (web, cart, target):
        apply_rules(player)
    world.write(server("strict", PORT), mesh_tls("web", f"web.demo.{SUFFIX}"), policy("web", "strict", by_mesh("web")))
    echo = Echo(world, target, PORT, 6)
    addresses = (target.ipv4, target.ipv6)
    forbidden = [Attempts(world, player, address, PORT) for player in (cart, stranger) for address in addresses]

    def some_more_of_each() -> None:
        made = [each.made for each in forbidden]
        world.until(
            lambda: all(each.made >= before + 10 for each, before in zip(forbidden, made, strict=True)),
            "attempts go on",
        )

    try:
        some_more_of_each()
        world.start()
        for address in addresses:
            assert not reaches(world, cart, address, PORT), "the first connection after `ready`"
            assert reaches(world, web, address, PORT)
        for _ in range(2):
            some_more_of_each()
            world.mesh.kill()
            some_more_of_each()
            world.start()
            assert reaches(world, web, target.ipv4, PORT)
        died = world.kill_worker(0)
        world.until(lambda: world.workers().get(0, died) != died, "the worker is replaced")
        some_more_of_each()
        assert reaches(world, web, target.ipv6, PORT)
    finally:
        for each in forbidden:
            each.stop()
        echo.close()
    assert [each.through for each in forbidden] == [0] * len(forbidden)
    assert all(each.reset and each.other for each in forbidden), "each has tried with an agent and without"
    came = {str(peer[0]).removeprefix("::ffff:") for peer in echo.peers}
    assert came == {web.ipv4, web.ipv6}, "the application has seen nobody else"


LATE = "while-it-ran"
"""What nothing but the late Server says."""


def spoilt() -> list[tuple[int, Manifest, str]]:
    """Ports, what is sound for each, and what stands in its file afterwards."""
    named = policy("by-policy", "by-policy", account("web"))
    return [
        (
            PORT,
            mesh_tls("by-mesh", f"web.demo.{SUFFIX}"),
            json.dumps(mesh_tls("by-mesh") | {"spec": {"identites": []}}),
        ),
        (PORT + 1, policy("by-file", "by-file", account("web")), "kind: [unfinished"),
        (PORT + 2, server("by-server", PORT + 2), json.dumps(server("by-server", PORT + 2, access="everyone"))),
        (PORT + 3, named, json.dumps(policy("by-policy", "by-policy", account("web"), account("cart")))),
        (PORT + 4, server("late", PORT + 4, labels={"came": LATE}), "kind: [unfinished"),
    ]


def test_an_agent_that_starts_on_spoilt_manifests_enforces_what_was_last_good(make_world: Callable[..., World]) -> None:
    world = make_world()
    web, cart, stranger, target = world.pod("web"), world.pod("cart"), world.stranger("stranger"), world.pod("server")
    spoils = spoilt()
    late = spoils[-1][1]
    world.write(
        *(server("by-mesh", PORT), policy("by-mesh", "by-mesh", by_mesh("by-mesh"))),
        *(server("by-file", PORT + 1), policy("by-server", "by-server", account("web")), server("by-policy", PORT + 3)),
        policy("late", "late", account("web")),
        *(sound for _, sound, _ in spoils if sound != late),
    )
    echoes = [Echo(world, target, port, 6) for port, _, _ in spoils]

    def holds() -> None:
        for port, sound, _ in spoils:
            for address in (target.ipv4, target.ipv6):
                what = f"{sound['kind']} of port {port}"
                assert reaches(world, web, address, port), what
                assert not reaches(world, cart, address, port), what
                assert not reaches(world, stranger, address, port), what

    world.start()
    world.write(late)
    world.until(lambda: not reaches(world, cart, target.ipv4, PORT + 4), "what came while it ran is in force")
    holds()
    state = world.mesh.directory / "state"
    written = LATE.encode()
    world.until(lambda: any(written in file.read_bytes() for file in state.glob("*.msgpack")), "it is written down")
    world.mesh.kill()
    for _, sound, text in spoils:
        world.file_of(sound).write_text(text)
    world.start()
    holds()
    faults = world.ready()["faults"]
    assert len(faults) == len(spoils) == world.count("quietwire_catalog_faults")
    assert all("its last good version stays in force" in fault for fault in faults), faults
    world.mesh.stop()
    world.start()
    holds()
    world.write(*(sound for _, sound, _ in spoils))
    world.until(lambda: world.ready()["faults"] == [], "everything is mended")
    holds()
    for echo in echoes:
        echo.close()


class Spoilt(NamedTuple):
    world: World
    clients: tuple[Player, ...]
    players: dict[str, Player]

    def reached(self, name: str, port: int = PORT) -> set[str]:
        """The clients that reach a port of a pod, over either family."""
        pod = self.players[name]
        return {
            client.name
            for client in self.clients
            for address in (pod.ipv4, pod.ipv6)
            if reaches(self.world, client, address, port)
        }


@pytest.fixture(scope="module")
def spoilt_from_the_beginning(make_shared_world: Callable[..., World]) -> Iterator[Spoilt]:
    """Nothing is known of what has a fault that was ever good, and the default policy is open."""
    world = make_shared_world("--default-inbound-policy", "all-unauthenticated")
    clients = world.pod("web"), world.stranger("stranger")
    players = {name: world.pod(name) for name in ("server", "fine")}
    players["annotated"] = world.pod("annotated", annotations={DEFAULT_POLICY: "everyone"})
    world.namespace("rooms", {DEFAULT_POLICY: "deny-all"})
    players["roomy"] = world.pod("roomy", namespace="rooms")
    world.write(
        server("by-server", PORT, access="everyone"),
        *(server("by-mesh", PORT + 1), policy("by-mesh", "by-mesh", by_mesh("by-mesh"))),
        mesh_tls("by-mesh") | {"spec": {"identites": ["*"]}},
    )
    listening = [("server", PORT), ("server", PORT + 1), ("annotated", PORT), ("roomy", PORT), ("fine", PORT)]
    echoes = [Echo(world, players[name], port, 6) for name, port in listening]
    world.start()
    yield Spoilt(world, clients, players)
    for echo in echoes:
        echo.close()


def test_every_fault_is_said_and_what_is_sound_is_in_force(spoilt_from_the_beginning: Spoilt) -> None:
    world = spoilt_from_the_beginning.world
    faults = world.ready()["faults"]
    assert len(faults) == 4 == world.count("quietwire_catalog_faults")
    for each in ("Server demo/by-server", "MeshTLSAuthentication demo/by-mesh", "Pod demo/annotated", "Namespace "):
        assert any(each in fault for fault in faults), faults
    assert spoilt_from_the_beginning.reached("fine") == {"web", "stranger"}


def test_a_policy_that_refers_to_a_spoilt_object_lets_nobody_in(spoilt_from_the_beginning: Spoilt) -> None:
    assert spoilt_from_the_beginning.reached("server", PORT + 1) == set()


@pytest.mark.parametrize("name", ["annotated", "roomy"])
def test_an_annotation_that_means_nothing_lets_nobody_in(spoilt_from_the_beginning: Spoilt, name: str) -> None:
    assert spoilt_from_the_beginning.reached(name) == set()


def test_a_port_of_a_spoilt_server_is_not_left_to_an_open_default(spoilt_from_the_beginning: Spoilt) -> None:
    assert spoilt_from_the_beginning.reached("server") == set()
