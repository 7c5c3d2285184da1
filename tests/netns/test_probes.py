"""The kubelet's probes: from the node's own addresses to the probes' ports, whatever policy says, and nothing else.

The node is the hub of the stage: its addresses are what the pods' manifests give as `hostIPs`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.policies import DEFAULT_POLICY, VERSIONS, account, explain, policy, reaches, server
from tests.netns.world import Echo, World, alive

STRICT = {DEFAULT_POLICY: "deny"}
HTTP, TCP, GRPC, INIT, SELECTED, STARTED, STOPPED = 8080, 8081, 8082, 8083, 8084, 8085, 8086
PROBED = (HTTP, TCP, GRPC, INIT, SELECTED, STARTED, STOPPED)
LIVE, READY, BEGUN, BESIDE, AFTER, BEFORE = DEAD = (8091, 8092, 8093, 8094, 8095, 8096)
"""Probed in each way, and nobody listens."""
OTHER, ELSEWHERE = 9000, 9001
CONTAINERS: dict[str, Any] = {
    "initContainers": [
        {
            "name": "sidecar",
            "restartPolicy": "Always",
            "startupProbe": {"tcpSocket": {"port": INIT}},
            "readinessProbe": {"tcpSocket": {"port": BESIDE}},
        }
    ],
    "containers": [
        {
            "name": "main",
            "ports": [{"name": "http", "containerPort": HTTP}, {"name": "other", "containerPort": OTHER}],
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
            "readinessProbe": {"tcpSocket": {"port": TCP}},
            "startupProbe": {"grpc": {"port": GRPC}},
        },
        {"name": "second", "readinessProbe": {"httpGet": {"port": SELECTED}}},
        {"name": "third", "livenessProbe": {"httpGet": {"port": ELSEWHERE, "host": "192.0.2.1"}}},
        {
            "name": "fifth",
            "livenessProbe": {"tcpSocket": {"port": LIVE}},
            "readinessProbe": {"tcpSocket": {"port": READY}},
            "startupProbe": {"tcpSocket": {"port": BEGUN}},
            "lifecycle": {"postStart": {"tcpSocket": {"port": AFTER}}, "preStop": {"httpGet": {"port": BEFORE}}},
        },
        {
            "name": "sixth",
            "lifecycle": {"postStart": {"httpGet": {"port": STARTED}}, "preStop": {"tcpSocket": {"port": STOPPED}}},
        },
        {"name": "fourth", "livenessProbe": {"exec": {"command": ["true"]}}},
    ],
}


class Place(NamedTuple):
    world: World
    web: Player
    cart: Player
    stranger: Player
    probed: Player
    elsewhere: Player
    changing: Player

    def declare(self, player: Player, **more: Any) -> None:
        """A pod with probes, on the node that the hub is."""
        self.world.declare(
            player, **{"annotations": STRICT, "spec": CONTAINERS, "host_ips": ("10.77.0.1", "fd77::1")} | more
        )


@pytest.fixture(scope="module", params=["legacy", "nft"])
def place(request: pytest.FixtureRequest, make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world("--backend", request.param)
    names = ("probed", "elsewhere", "changing")
    place = Place(
        world, world.pod("web"), world.pod("cart"), world.stranger("stranger"), *(world.pod(name) for name in names)
    )
    place.declare(place.probed)
    place.declare(place.elsewhere, host_ips=("192.0.2.7", "2001:db8::7"))
    place.declare(place.changing)
    world.write(server("selected", SELECTED, app="probed"), policy("selected", "selected", account("web")))
    echoes = [Echo(world, place.probed, port, 6) for port in (*PROBED, OTHER, ELSEWHERE)]
    echoes += [Echo(world, player, HTTP, 6) for player in (place.elsewhere, place.changing)]
    world.start()
    yield place
    for echo in echoes:
        echo.close()


def ports_reached(place: Place, who: Player, version: int) -> set[int]:
    return {
        port for port in (*PROBED, OTHER, ELSEWHERE) if reaches(place.world, who, place.probed.address(version), port)
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_node_reaches_the_probes_ports_and_no_other(place: Place, version: int) -> None:
    assert ports_reached(place, place.world.node, version) == set(PROBED)


@pytest.mark.parametrize("version", VERSIONS)
def test_from_anywhere_else_a_probes_port_is_as_any_other(place: Place, version: int) -> None:
    assert ports_reached(place, place.stranger, version) == set()
    assert ports_reached(place, place.cart, version) == set()
    assert ports_reached(place, place.web, version) == {SELECTED}


@pytest.mark.parametrize("version", VERSIONS)
def test_another_nodes_addresses_are_nothing(place: Place, version: int) -> None:
    assert not reaches(place.world, place.world.node, place.elsewhere.address(version), HTTP)


@pytest.mark.parametrize("port", DEAD, ids=["liveness", "readiness", "startup", "sidecar", "postStart", "preStop"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_probe_sees_that_nobody_listens_and_from_elsewhere_nobody_sees_anything(
    place: Place, version: int, port: int
) -> None:
    world, address = place.world, place.probed.address(version)
    with pytest.raises(ConnectionRefusedError):
        world.connect(world.node, address, port)
    with world.connect(place.stranger, address, port) as sock:  # the agent's listener, which refuses
        assert not alive(sock)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_probe_is_told_by_explain_and_is_no_connection_of_the_agents(place: Place, version: int) -> None:
    world = place.world
    assert reaches(world, world.node, place.probed.address(version), TCP)
    answer = explain(world, from_ip=world.node.address(version), to="demo/probed", port=TCP)
    assert (answer["verdict"], answer["authorization"]) == ("allow", "probe")
    for asked, port in ((place.stranger.address(version), TCP), (world.node.address(version), OTHER)):
        assert explain(world, from_ip=asked, to="demo/probed", port=port)["verdict"] == "deny"
    assert not reaches(world, world.node, place.probed.address(version), OTHER)
    world.denial(outcome="denied_by_default", pod="demo/probed")
    assert not [line for line in world.mesh.lines() if line.get("authorization") == "probe"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_probe_that_goes_takes_its_connections_with_it(place: Place, version: int) -> None:
    world, changing = place.world, place.changing
    with world.connect(world.node, changing.address(version), HTTP) as sock:
        assert alive(sock)
        place.declare(changing, spec={})
        world.until(lambda: not alive(sock), "it is cut")
    assert not reaches(world, world.node, changing.address(version), HTTP)
    place.declare(changing)
    world.until(lambda: reaches(world, world.node, changing.address(version), HTTP), "the probe is back")


def test_an_address_that_comes_to_the_node_may_probe_and_one_that_goes_may_not(place: Place) -> None:
    world, pod = place.world, place.elsewhere
    fresh = "192.0.2.7"
    assert world.run(world.node, "ip", "addr", "add", f"{fresh}/32", "dev", "br0").returncode == 0
    assert world.run(pod, "ip", "route", "add", f"{fresh}/32", "dev", "eth0").returncode == 0

    def answers() -> bool:
        with world.open_socket(world.node) as sock:
            sock.settimeout(1.0)
            sock.bind((fresh, 0))
            try:
                sock.connect((pod.ipv4, HTTP))
            except OSError:
                return False
            return alive(sock)

    assert answers(), "it is one of the pod's hostIPs"
    assert not reaches(world, world.node, pod.ipv4, HTTP), "and the others are none"
    place.declare(pod, host_ips=("10.77.0.1",))
    world.until(lambda: not answers(), "it is no address of the pod's node any more")
    world.until(lambda: reaches(world, world.node, pod.ipv4, HTTP), "and this one is")
