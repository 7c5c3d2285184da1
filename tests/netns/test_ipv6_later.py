"""IPv6 that is enabled in a pod after it was enrolled is captured from its first packet on."""

import socket
from collections.abc import Callable

import pytest

from agent.capture.address import show
from agent.lab.stage import Player
from tests.netns.test_catalog import asks
from tests.netns.world import MARKER, Echo, World

PORT = 8080


def enable_ipv6(world: World, pod: Player) -> None:
    """What an operator does in the pod; its own address is back at once."""
    assert world.run(pod, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0").returncode == 0
    done = world.run(pod, "ip", "address", "add", f"{pod.ipv6}/64", "dev", "eth0", "nodad")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_ipv6_that_comes_later_is_captured_at_once_and_carried(make_world: Callable[..., World], backend: str) -> None:
    world = make_world("--egress-mode", "meshed-only", "--backend", backend)
    late, other, outside = world.pod("late"), world.pod("other"), world.stranger("outside")
    assert world.run(late, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1").returncode == 0
    echoes = [Echo(world, player, PORT, 6) for player in (late, other, outside)]
    world.start()
    with world.connect(late, other.ipv4, PORT) as before:
        enable_ipv6(world, late)
        with pytest.raises(ConnectionResetError):
            asks(world, late, outside.ipv6, PORT)
        assert echoes[2].peers == []
        world.denial(pod=f"demo/{late.name}", destination=show(outside.ipv6, PORT))
        for client, server in ((late, other), (other, late)):
            assert asks(world, client, server.ipv6, PORT) == b"hello"
            world.closed(
                pod=f"demo/{server.name}", direction="inbound", destination=show(server.ipv6, PORT), security="mtls"
            )
        before.sendall(MARKER)
        assert before.recv(len(MARKER), socket.MSG_WAITALL) == MARKER, "nothing that was there is disturbed by it"
    for echo in echoes:
        echo.close()
