"""What a process can do to its pod's capture with the capability that container runtimes give to everybody."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.capture.address import show
from agent.lab.stage import Player
from tests.netns.test_capture import DIAL_WITH_MARK, WITH_NET_RAW
from tests.netns.world import MARKER, Echo, World

PORT = 8080


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_net_raw_alone_gets_nobody_past_an_egress_mode_that_forbids_it(
    make_world: Callable[..., World], backend: str
) -> None:
    world = make_world("--egress-mode", "meshed-only", "--backend", backend)
    app, server, outside = world.pod("app"), world.pod("server"), world.stranger("outside")
    serving, forbidden = (Echo(world, player, PORT, 6) for player in (server, outside))
    world.start()
    for version in (4, 6):
        for mark in (0, 0x539, 0x111):
            for device in ("", "eth0"):
                words = (sys.executable, "-c", DIAL_WITH_MARK, outside.address(version), str(PORT), str(mark), device)
                done = world.run(app, *WITH_NET_RAW, *words)
                assert done.returncode == 0, done.stderr
        world.denial(pod=f"demo/{app.name}", destination=show(outside.address(version), PORT))
        with world.connect(app, server.address(version), PORT) as sock:
            sock.sendall(MARKER)
            assert sock.recv(len(MARKER)) == MARKER, "and what is allowed works as ever"
    assert forbidden.peers == []
    for echo in (serving, forbidden):
        echo.close()


def test_who_may_take_rules_away_is_named_of_each_pod_and_who_has_what_runtimes_grant_of_the_first(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    pods = {name: world.pod(name) for name in ("a", "b", "c", "d")}
    for name, kept in {"a": "net_raw", "b": "net_raw", "c": "net_admin", "d": "chown"}.items():
        world.spawn(pods[name], "setpriv", f"--bounding-set=-all,+{kept}", f"--inh-caps=-all,+{kept}", "sleep", "1000")
    for player in pods.values():
        world.until(lambda player=player: "sleep" in processes_of(world, player), "it runs, without setpriv's own")  # type: ignore[misc]  # bound by name
    world.start()
    world.until(lambda: world.count("quietwire_pods_with_capability", capability="NET_RAW") == 2, "both are counted")
    assert world.count("quietwire_pods_with_capability", capability="NET_ADMIN") == 1
    said = [line["msg"] for line in world.mesh.lines() if "capture cannot hold sleep" in str(line.get("msg"))]
    assert len(said) == 2
    (admin,) = (words for words in said if "NET_ADMIN)" in words)
    assert "in demo/c: drop" in admin
    (raw,) = (words for words in said if words is not admin)
    assert "Container runtimes grant NET_RAW by default" in raw


def processes_of(world: World, player: Player) -> set[str]:
    """The names of what runs in a pod."""
    pids = world.run(world.node, "ip", "netns", "pids", player.netns).stdout.split()
    return {Path("/proc", pid, "comm").read_text().strip() for pid in pids}
