"""Every address of a service, dialled from a meshed pod: mTLS to an endpoint, whatever kube-proxy on the node would do.

The hub of the stage is the node. It plays kube-proxy: what leaves a pod in plaintext for an address of a service comes
to the server all the same, and is seen on the wire.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.policies import DEFAULT_POLICY
from tests.netns.world import MARKER, Echo, Manifest, World, alive

PORT = 7000
OUTSIDE, BALANCER, OUTSIDE6 = "198.51.100.9", "198.51.100.10", "fd98::9"
NODE, NODE6 = "10.77.0.1", "fd77::1"
OPEN = {DEFAULT_POLICY: "all-unauthenticated"}
KUBE_PROXY = """
table inet kube-proxy {
  chain nat-prerouting {
    type nat hook prerouting priority dstnat
    ip daddr { 198.51.100.9, 198.51.100.10 } tcp dport 80 dnat ip to FOUR:7000
    ip daddr 10.77.0.1 tcp dport { 30080, 8080 } dnat ip to FOUR:7000
    ip6 daddr fd98::9 tcp dport 80 dnat ip6 to [SIX]:7000
    ip6 daddr fd77::1 tcp dport { 30080, 8080 } dnat ip6 to [SIX]:7000
  }
  chain nat-postrouting {
    type nat hook postrouting priority srcnat
    ct status dnat masquerade
  }
}
"""
ADDRESSES = [
    (OUTSIDE, 80), (OUTSIDE6, 80), (BALANCER, 80), (NODE, 30080), (NODE6, 30080), (NODE, 8080), (NODE6, 8080)
]  # fmt: skip


class Place(NamedTuple):
    world: World
    client: Player
    server: Player
    stranger: Player
    echo: Echo


def kube_proxy(world: World, server: Player) -> None:
    """What is sent to the addresses of the service goes to the server, from the node's own address."""
    for family in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        assert world.run(world.node, "sysctl", "-qw", f"net.{family}=1").returncode == 0
    rules = KUBE_PROXY.replace("FOUR", server.ipv4).replace("SIX", server.ipv6)
    done = world.run(world.node, "nft", "-f", "-", given=rules)
    assert done.returncode == 0, done.stderr


def service(name: str = "web", **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": PORT, "nodePort": 30080}]}
        | {"externalIPs": [OUTSIDE, OUTSIDE6]}
        | spec,
        "status": {"loadBalancer": {"ingress": [{"ip": BALANCER, "ipMode": "VIP"}]}},
    }


HOSTED: dict[str, Any] = {"containers": [{"name": "c", "ports": [{"containerPort": PORT, "hostPort": 8080}]}]}


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    place = Place(world, world.pod("client"), server := world.pod("server"), world.stranger("stranger"),
                  Echo(world, server, PORT, 6))  # fmt: skip
    world.declare(server, annotations=OPEN, spec=HOSTED, host_ips=(NODE, NODE6))
    world.write(service())
    kube_proxy(world, server)
    world.start()
    yield place
    place.echo.close()


def exchange(world: World, client: Player, address: str, port: int) -> bytes:
    with world.connect(client, address, port) as sock:
        sock.sendall(MARKER)
        return sock.recv(100)


def is_refused(world: World, client: Player, address: str, port: int) -> bool:
    try:
        exchange(world, client, address, port)
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(("address", "port"), ADDRESSES)
def test_a_meshed_pod_reaches_the_server_by_mtls_at_each_address_and_plaintext_is_nowhere(
    place: Place, address: str, port: int
) -> None:
    came = len(place.echo.peers)
    with place.world.wire() as wire:
        assert exchange(place.world, place.client, address, port) == MARKER
    assert not wire.contains(MARKER)
    server = place.server.address(6 if ":" in address else 4)
    assert (server, PORT) in {seen.flow[2:] for seen in wire.client_hellos()}
    assert not any(segment.flow.destination == address for segment in wire.segments())
    (peer,) = place.echo.peers[came:]
    assert peer[0].removeprefix("::ffff:") == place.client.address(6 if ":" in address else 4)


@pytest.mark.parametrize(("address", "port"), ADDRESSES)
def test_an_outsider_comes_by_the_node_as_before_and_in_plaintext(place: Place, address: str, port: int) -> None:
    came = len(place.echo.peers)
    with place.world.wire() as wire:
        assert exchange(place.world, place.stranger, address, port) == MARKER
    assert wire.contains(MARKER)
    (peer,) = place.echo.peers[came:]
    assert peer[0].removeprefix("::ffff:") in {NODE, NODE6}


@pytest.mark.parametrize("client", ["meshed", "stranger"])
def test_another_port_of_such_an_address_is_nobodys(place: Place, client: str) -> None:
    player = place.client if client == "meshed" else place.stranger
    assert is_refused(place.world, player, NODE, 9999)


def test_nobody_serves_is_refused_and_not_sent_to_the_node_instead(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    world.declare(server, annotations=OPEN, host_ips=(NODE, NODE6), ready=False)
    world.write(service())
    kube_proxy(world, server)
    echo = Echo(world, server, PORT, 6)
    world.start()
    with world.wire() as wire:
        for address, port in ((OUTSIDE, 80), (BALANCER, 80), (NODE, 30080)):
            with pytest.raises(ConnectionResetError):
                exchange(world, client, address, port)
    assert not wire.contains(MARKER)
    assert echo.peers == []
    assert "has no ready endpoint for port 80" in world.denial(direction="outbound")["reason"]
    echo.close()


def test_plaintext_to_an_address_that_becomes_a_services_ends(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    world.declare(server, annotations=OPEN)
    kube_proxy(world, server)
    echo = Echo(world, server, PORT, 6)
    world.start()
    with world.connect(client, OUTSIDE, 80) as held:
        assert alive(held), "it is nobody's yet, and goes out as it is"
        world.write(service())
        with pytest.raises(ConnectionResetError):
            held.recv(100)
    ended = world.closed(outcome="terminated")
    assert "is meshed now: plaintext must end" in ended["reason"]
    with world.wire() as wire:
        assert exchange(world, client, OUTSIDE, 80) == MARKER
    assert not wire.contains(MARKER)
    echo.close()


# -- who serves --

CLUSTER_IP, OTHER_IP = "10.96.0.10", "10.96.0.11"
PLAIN_SERVICE: dict[str, Any] = {"clusterIP": CLUSTER_IP, "externalIPs": [], "selector": {"role": "echo"}}


class Two(NamedTuple):
    world: World
    client: Player
    pods: tuple[Player, Player]
    echoes: tuple[Echo, Echo]

    def came(self) -> list[int]:
        """Connections that each has had since the last time."""
        found = [len(echo.peers) for echo in self.echoes]
        for echo in self.echoes:
            echo.peers.clear()
        return found


@pytest.fixture
def two(make_world: Callable[..., World]) -> Iterator[Two]:
    world = make_world()
    client, pods = world.pod("client"), (world.pod("one"), world.pod("two"))
    for each in pods:
        world.declare(each, labels={"role": "echo"})
    echoes = (Echo(world, pods[0], PORT), Echo(world, pods[1], PORT))
    yield Two(world, client, pods, echoes)
    for echo in echoes:
        echo.close()


def endpoints(*those: tuple[Player, dict[str, Any]], of: str = "web") -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{of}-1", "namespace": "demo", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [player.ipv4]} | more for player, more in those],
        "ports": [{"port": PORT}],
    }


def test_a_client_stays_with_its_endpoint_whichever_worker_takes_it_and_whoever_comes(two: Two) -> None:
    world, (one, other) = two.world, two.pods
    second = world.pod("second")
    free = service("free", **PLAIN_SERVICE | {"clusterIP": OTHER_IP})
    sticky = service(**PLAIN_SERVICE, sessionAffinity="ClientIP")
    world.write(sticky, endpoints((one, {})), free, endpoints((one, {}), of="free"))
    world.start()
    assert exchange(world, two.client, CLUSTER_IP, 80) == MARKER
    assert two.came() == [1, 0]
    world.write(endpoints((one, {}), (other, {})), endpoints((other, {}), of="free"))
    world.until(lambda: exchange(world, two.client, OTHER_IP, 80) and two.came() == [0, 1], "both changes are in force")
    assert two.came() == [0, 0]
    for _ in range(40):
        assert exchange(world, two.client, CLUSTER_IP, 80) == MARKER
    assert two.came() == [40, 0]
    for _ in range(10):
        assert exchange(world, second, CLUSTER_IP, 80) == MARKER
    assert sorted(two.came()) == [0, 10]
    world.write(endpoints((other, {})))
    world.until(lambda: exchange(world, two.client, CLUSTER_IP, 80) and two.came()[1], "its endpoint is gone")


def test_a_client_is_led_back_when_its_time_is_over(two: Two) -> None:
    world, seconds = two.world, 5
    sticky = service(
        **PLAIN_SERVICE,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
    )
    both = endpoints(*((each, {}) for each in two.pods))
    free = service("free", **PLAIN_SERVICE | {"clusterIP": OTHER_IP})
    world.write(sticky, both, free, endpoints((two.pods[0], {}), of="free"))
    world.start()
    first = came_of(two, 1).index(1)  # as a hash says, which knows of nothing before
    other = 1 - first
    world.write(endpoints((two.pods[other], {})))
    world.until(lambda: came_of(two, 1)[other], "its endpoint is gone, and it goes to the other")
    world.write(both, endpoints((two.pods[1], {}), of="free"))
    world.until(lambda: exchange(world, two.client, OTHER_IP, 80) and two.came()[1], "both changes are in force")
    assert came_of(two, 10)[other] == 10, "it stays"
    time.sleep(seconds + 1.0)  # what is waited for is the clock itself
    assert came_of(two, 10)[first] == 10


def test_internal_traffic_policy_local_reaches_this_nodes_endpoints_or_nobody(two: Two) -> None:
    world, (one, other) = two.world, two.pods
    here, there = {"nodeName": "node-a"}, {"nodeName": "node-b"}
    local = service(**PLAIN_SERVICE, internalTrafficPolicy="Local")
    world.write(local, endpoints((one, there), (other, here)))
    world.start()
    for _ in range(20):
        assert exchange(world, two.client, CLUSTER_IP, 80) == MARKER
    assert two.came() == [0, 20]
    world.write(endpoints((one, there)))
    world.until(lambda: is_refused(world, two.client, CLUSTER_IP, 80), "nobody is left on this node")
    assert "internalTrafficPolicy is Local" in world.denial(direction="outbound")["reason"]
    assert two.came()[0] == 0


def test_a_pod_that_leaves_serves_what_it_has_and_new_connections_only_as_the_last(two: Two) -> None:
    world, (one, other) = two.world, two.pods
    world.write(service(**PLAIN_SERVICE))
    world.start()
    held = []
    while len(two.echoes[0].peers) == 0:
        held.append(world.connect(two.client, CLUSTER_IP, 80))
        assert alive(held[-1])
    deleted(world, one)
    world.until(lambda: served(two, [0, 5]), "it gets no new connections")
    assert all(alive(sock) for sock in held), "those that it has go on"
    deleted(world, other)
    world.until(lambda: min(came_of(two, 10)) > 0, "when all leave, all that still serve are the last resort")
    for sock in held:
        sock.close()


def test_a_pod_that_is_not_ready_serves_where_the_service_publishes_it(two: Two) -> None:
    world = two.world
    for each in two.pods:
        world.declare(each, labels={"role": "echo"}, ready=False)
    world.write(service(**PLAIN_SERVICE))
    world.start()
    assert is_refused(world, two.client, CLUSTER_IP, 80)
    world.write(service(**PLAIN_SERVICE, publishNotReadyAddresses=True))
    world.until(lambda: not is_refused(world, two.client, CLUSTER_IP, 80), "it is published")
    world.until(lambda: min(came_of(two, 10)) > 0, "and so is the other")
    world.write(service(**PLAIN_SERVICE))
    world.until(lambda: is_refused(world, two.client, CLUSTER_IP, 80), "it is no more")


def test_an_endpoint_of_a_slice_that_is_terminating_serves_while_none_is_ready(two: Two) -> None:
    world, (one, other) = two.world, two.pods
    leaving = {"conditions": {"ready": False, "serving": True, "terminating": True}}
    gone = {"conditions": {"ready": False, "serving": False, "terminating": True}}
    world.write(service(**PLAIN_SERVICE), endpoints((one, leaving), (other, {})))
    world.start()
    assert came_of(two, 20) == [0, 20]
    world.write(endpoints((one, leaving), (other, {"conditions": {"ready": False}})))
    world.until(lambda: served(two, [5, 0]), "it is the last resort")
    world.write(endpoints((one, gone), (other, {"conditions": {"ready": False}})))
    world.until(lambda: is_refused(world, two.client, CLUSTER_IP, 80), "and serves nobody when it serves no more")


def test_hints_lead_to_endpoints_of_this_node_and_elsewhere_where_there_is_none(two: Two) -> None:
    world, (one, other) = two.world, two.pods
    there, here = ({"nodeName": node, "hints": {"forNodes": [{"name": node}]}} for node in ("node-b", "node-a"))
    near = service(**PLAIN_SERVICE, trafficDistribution="PreferSameNode")
    world.write(near, endpoints((one, there), (other, here)))
    world.start()
    assert came_of(two, 20) == [0, 20]
    world.write(endpoints((one, there)))
    world.until(lambda: served(two, [5, 0]), "it is preferred, and not demanded")


def deleted(world: World, player: Player) -> None:
    """A pod has been deleted, and has its grace period."""
    path = world.mesh.manifests / f"pod-{player.name}.yaml"
    path.write_text(
        path.read_text().replace('"metadata": {', '"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", ')
    )
    assert "deletionTimestamp" in path.read_text()


def came_of(two: Two, count: int) -> list[int]:
    two.came()
    for _ in range(count):
        assert exchange(two.world, two.client, CLUSTER_IP, 80) == MARKER
    return two.came()


def served(two: Two, expected: list[int]) -> bool:
    return came_of(two, sum(expected)) == expected


def test_an_external_database_by_endpoints_is_reached_as_it_is(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, strict = world.pod("client"), world.pod("strict", annotations={"quietwire.io/egress-mode": "meshed-only"})
    database = world.stranger("database")
    outside = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "demo"},
        "subsets": [{"addresses": [{"ip": database.ipv4}], "ports": [{"port": PORT}]}],
    }
    world.write(service(clusterIP=CLUSTER_IP, externalIPs=[], selector={}), outside)
    echo = Echo(world, database, PORT)
    world.start()
    with world.wire() as wire:
        assert exchange(world, client, CLUSTER_IP, 80) == MARKER
    assert wire.contains(MARKER), "the database is no pod of the mesh"
    with pytest.raises(ConnectionResetError):
        exchange(world, strict, CLUSTER_IP, 80)
    assert len(echo.peers) == 1
    echo.close()
