"""Namespaces that only init steps know: the next agent finds them again, and lets go of those where nobody lives."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.lab.stage import Player
from tests.netns.test_catalog import PORT, asks, declare_without_namespace, enrol, init_check
from tests.netns.world import Echo, World


def pins(world: World) -> list[Path]:
    """The namespaces that are pinned."""
    return [path for path in (world.mesh.directory / "run" / "namespaces").iterdir() if path.name.isdigit()]


def handed_over(world: World) -> tuple[Player, Player]:
    """A client, and a pod that its init step has enrolled."""
    client, late = world.pod("client"), world.stranger("late")
    world.start()
    declare_without_namespace(world, "late", late, uid="first")
    assert enrol(world, late).returncode == 0
    return client, late


@pytest.mark.parametrize("end", ["kill -9", "stop"])
def test_a_namespace_that_was_handed_over_is_served_by_the_next_agent_without_its_init_step(
    make_world: Callable[..., World], end: str
) -> None:
    world = make_world(workers=1)
    client, late = handed_over(world)
    echo = Echo(world, late, PORT)
    assert asks(world, client, late.ipv4) == b"hello"
    if end == "stop":
        world.mesh.stop()
    else:
        world.mesh.kill()
    world.start()
    assert world.ready()["ready"]
    assert asks(world, client, late.ipv4) == b"hello"
    assert len(pins(world)) == 1
    echo.close()


def test_a_pod_that_is_not_to_be_meshed_any_more_when_the_agent_returns_is_let_go(
    make_world: Callable[..., World],
) -> None:
    world = make_world(workers=1)
    _, late = handed_over(world)
    world.mesh.stop()
    declare_without_namespace(world, "late", late, uid="first", inject="disabled")
    world.start()
    world.until(lambda: init_check(late) == 1, "its rules are gone")
    world.until(lambda: not pins(world), "its namespace is let go of")


def test_a_namespace_in_which_nobody_lives_any_more_is_let_go(make_world: Callable[..., World]) -> None:
    world = make_world("--verify-interval=1", workers=1)
    handed_over(world)
    assert len(pins(world)) == 1
    world.mesh.stop()
    (world.mesh.manifests / "pod-late.yaml").unlink()
    world.start()
    world.until(lambda: not pins(world), "its namespace is let go of")


def test_what_cannot_be_found_again_is_said_and_its_pod_waits_for_its_init_step(
    make_world: Callable[..., World],
) -> None:
    """As after a reboot, or in another mount namespace: the index is there, and what it names is not."""
    world = make_world(workers=1)
    _, late = handed_over(world)
    world.mesh.stop()
    world.mesh.forget_namespaces()
    (world.mesh.manifests / "pod-late.yaml").unlink()
    world.start()
    declare_without_namespace(world, "late", late, uid="first")
    world.until(lambda: "no network namespace is known" in str(world.ready()["waiting"]), "it waits for its init step")
    assert any("its init step must hand it over again" in str(line.get("msg")) for line in world.mesh.lines())
    assert enrol(world, late).returncode == 0
    assert world.ready()["ready"]
