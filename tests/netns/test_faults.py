"""Manifests with faults, and manifests that mean harm: who is enrolled stays enrolled, and who is forbidden outside."""

import json
from collections.abc import Callable

import pytest

from agent.lab.stage import Player
from tests.netns.policies import DEFAULT_POLICY, reaches
from tests.netns.world import Echo, World

PORT = 7000


def thief_of(victim: Player, name: str = "thief") -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "demo"},
            "status": {"podIPs": [{"ip": victim.ipv4}, {"ip": victim.ipv6}]},
        }
    )


def test_a_manifest_that_claims_a_pods_address_or_name_takes_nothing_from_it_over_restarts_either(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    client, server, stranger = world.pod("client"), world.pod("server"), world.stranger("stranger")
    echo = Echo(world, server, PORT, 6)
    world.start()
    held = world.connect(client, server.ipv4, PORT)
    held.sendall(b"hello")
    assert held.recv(100) == b"hello"
    manifests = world.mesh.manifests
    (manifests / "000-thief.yaml").write_text(thief_of(server))
    (manifests / "001-twin.yaml").write_text(thief_of(server, "server"))
    world.until(lambda: len(world.ready()["faults"]) == 2, "both are faults")

    def holds() -> None:
        assert reaches(world, client, server.ipv4, PORT)
        for address in (server.ipv4, server.ipv6):
            assert not reaches(world, stranger, address, PORT)

    holds()
    held.sendall(b"again")
    assert held.recv(100) == b"again", "its connections do not notice"
    held.close()
    state = world.mesh.directory / "state"
    world.until(lambda: list(state.glob("*.msgpack")), "what is in force is written down")
    world.mesh.kill()
    world.start()
    holds()
    assert len(world.ready()["faults"]) == 2
    echo.close()


def test_a_pod_whose_manifest_breaks_beyond_recognition_stays_enrolled(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server, stranger = world.pod("client"), world.pod("server"), world.stranger("stranger")
    echo = Echo(world, server, PORT)
    world.start()
    path = world.mesh.manifests / "pod-server.yaml"
    good = path.read_text()
    for broken in ("kind: 7\n", good.replace('"Pod"', "[Pod]"), "[" * 200_000, "a: &a [*a]\n", "? !!int x\n: y\n"):
        path.write_text(broken)
        world.until(lambda: any("last good" in each for each in world.ready()["faults"]), broken[:20])
        assert reaches(world, client, server.ipv4, PORT)
        assert not reaches(world, stranger, server.ipv4, PORT)
        path.write_text(good)
        world.until(lambda: world.ready()["faults"] == [], "mended")
    echo.close()


def test_a_policy_file_that_is_being_written_stays_what_it_was(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server, stranger = world.pod("client"), world.pod("server"), world.stranger("stranger")
    world.namespace("demo", {DEFAULT_POLICY: "all-authenticated"})
    echo = Echo(world, server, PORT)
    world.start()
    (path,) = (each for each in world.mesh.manifests.iterdir() if '"Namespace"' in each.read_text())
    good = path.read_text()
    with path.open("w") as half:  # as a shell does for `kubectl get … > file`
        (world.mesh.manifests / "other.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n")
        late = world.pod("late")
        world.until(lambda: world.ready()["pods"] == 3, "what else is written is followed")
        assert not reaches(world, stranger, server.ipv4, PORT)
        assert reaches(world, late, server.ipv4, PORT)
        half.write(good.replace("all-authenticated", "all-unauthenticated"))
    world.until(lambda: reaches(world, stranger, server.ipv4, PORT), "it is closed, and in force")
    assert reaches(world, client, server.ipv4, PORT)
    echo.close()


@pytest.mark.parametrize("text", ["kind: [unfinished", "kind: Server\nmetadata: {name: S, namespace: demo}\n"])
def test_at_the_very_first_start_what_cannot_be_read_lets_nobody_in_until_it_is_mended(
    make_world: Callable[..., World], text: str
) -> None:
    world = make_world("--default-inbound-policy", "all-unauthenticated")
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    (world.mesh.manifests / "policy.yaml").write_text(text)
    world.start()
    assert not reaches(world, client, server.ipv4, PORT)
    state = world.mesh.directory / "state"
    world.until(lambda: list(state.glob("*.msgpack")), "that is written down")
    world.mesh.kill()
    world.start()
    assert not reaches(world, client, server.ipv4, PORT), "a second start is no reason to open"
    (world.mesh.manifests / "policy.yaml").write_text("# mended\n")
    world.until(lambda: reaches(world, client, server.ipv4, PORT), "it is mended")
    echo.close()
