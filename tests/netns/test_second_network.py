"""What comes to a pod and is not for its podIPs: refused, with words that say what would help; and that it helps."""

from collections.abc import Callable

import pytest

from agent.lab.stage import Player
from tests.netns.world import Echo, World, alive

PORT = 7000
SKIP = "config.linkerd.io/skip-subnets"


def ip(world: World, player: Player, *commands: str) -> None:
    """Commands of ip(8) inside a pod."""
    for words in commands:
        done = world.run(player, "ip", *words.split())
        assert done.returncode == 0, done.stderr


def join(world: World, one: Player, other: Player, network: str) -> None:
    """A cable between two pods, net1 at both ends; the first has .1 of the /24."""
    ip(world, one, f"link add net1 type veth peer name net1 netns {other.netns}")
    for player, number in ((one, 1), (other, 2)):
        ip(world, player, f"addr add {network}.{number}/24 dev net1", "link set net1 up")


def refused(world: World, player: Player, address: str) -> None:
    """A connection that the agent resets."""
    with pytest.raises(ConnectionResetError), world.connect(player, address, PORT) as sock:
        sock.recv(1)


def test_what_comes_by_a_second_interface_is_refused_and_told_what_helps(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    join(world, server, client, "10.88.0")
    echo = Echo(world, server, PORT)
    world.start()
    refused(world, client, "10.88.0.1")
    reason = world.denial(pod="demo/server", outcome="not_a_pod_address")["reason"]
    assert "10.88.0.1:7000 is on an interface of demo/server, and none of its podIPs" in reason
    assert f"name the network of 10.88.0.2 in the pod's annotation {SKIP}" in reason

    world.declare(server, annotations={SKIP: "10.88.0.0/24"})
    world.until(lambda: answers(world, client, "10.88.0.1"), "it passes by the mesh")
    assert echo.peers[-1][0] == "10.88.0.2"
    with world.connect(client, server.ipv4, PORT) as sock:
        assert alive(sock), "and the mesh is as it was"
    echo.close()


def test_what_a_pod_is_to_forward_is_refused_and_told_what_helps(make_world: Callable[..., World]) -> None:
    """As containers within a pod have it (Docker in Docker)."""
    world = make_world()
    pod, inner, outside = world.pod("pod"), world.stranger("inner"), world.stranger("outside")
    join(world, pod, inner, "172.17.0")
    assert world.run(pod, "sysctl", "-qw", "net.ipv4.ip_forward=1").returncode == 0
    ip(world, inner, f"route add {outside.ipv4} via 172.17.0.1")
    ip(world, outside, f"route add 172.17.0.0/24 via {pod.ipv4}")
    echo = Echo(world, outside, PORT)
    with world.connect(inner, outside.ipv4, PORT) as sock:
        assert alive(sock), "it is forwarded, without the mesh"
    world.start()
    refused(world, inner, outside.ipv4)
    reason = world.denial(pod="demo/pod", outcome="not_a_pod_address")["reason"]
    assert f"{outside.ipv4}:7000 is no address of demo/pod" in reason
    assert "it came to be forwarded" in reason
    assert f"name the network of 172.17.0.2 in the pod's annotation {SKIP}" in reason

    world.declare(pod, annotations={SKIP: "172.17.0.0/24"})
    world.until(lambda: answers(world, inner, outside.ipv4), "it is forwarded past the mesh")
    echo.close()


def answers(world: World, player: Player, address: str) -> bool:
    """Whether an exchange works now."""
    try:
        with world.connect(player, address, PORT) as sock:
            return alive(sock)
    except OSError:  # not yet
        return False
