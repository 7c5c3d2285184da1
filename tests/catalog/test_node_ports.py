"""What is reached at a node's own addresses: a service by its NodePort, a pod by its hostPort."""

from agent.objects.model import Endpoint
from tests.catalog.services import (
    MINE,
    NODE,
    NODE6,
    OTHER,
    PORTS,
    SERVED,
    Services,
    hosting,
    node,
    pod,
    service,
)


def test_a_node_port_is_reached_at_every_address_of_every_node() -> None:
    elsewhere = pod("b", "192.0.2.2", node=OTHER)
    elsewhere["status"]["hostIPs"] = [{"ip": "203.0.113.2"}]
    found = Services(service(ports=PORTS), SERVED, elsewhere, node("node-c", "203.0.113.3"), node_addresses=[NODE])
    for address in (NODE, "203.0.113.2", "203.0.113.3"):
        assert found.reached(address, 30080) == ["192.0.2.1"]
    assert found.index.outside("203.0.113.4", 30080) is None
    assert found.index.outside(NODE, 30081) is None


def test_a_nodes_address_is_one_for_as_long_as_somebody_says_so() -> None:
    first, second = (pod(name, f"192.0.2.{at}") for at, name in enumerate("ab", 2))
    for each in (first, second):
        each["status"]["hostIP"] = NODE
    found = Services(service(ports=PORTS), SERVED, first, second)
    found.remove("Pod", "a")
    assert found.reached(NODE, 30080) == ["192.0.2.1"]
    found.remove("Pod", "b")
    assert found.index.outside(NODE, 30080) is None


def test_a_host_port_leads_to_the_pod_of_that_node() -> None:
    found = Services(hosting("a", "192.0.2.1"), hosting("b", "192.0.2.2", OTHER), node_addresses=["203.0.113.9"])
    for address in (NODE, "203.0.113.9"):
        assert found.behind_node(address, 80) == Endpoint("192.0.2.1", 8080)
    assert found.behind_node("203.0.113.2", 80) == Endpoint("192.0.2.2", 8080)
    assert found.behind_node(NODE, 8080) is None
    assert found.behind_node("203.0.113.77", 80) is None
    found.remove("Pod", "a")
    assert found.behind_node("203.0.113.9", 80) is None


def test_a_host_port_on_one_address_is_on_that_one_only() -> None:
    found = Services(hosting("a", "192.0.2.1", hostIP="203.0.113.9"), node_addresses=[NODE, "203.0.113.9"])
    assert found.behind_node("203.0.113.9", 80) == Endpoint("192.0.2.1", 8080)
    assert found.behind_node(NODE, 80) is None
    for every in ("", "0.0.0.0"):
        assert Services(hosting("a", "192.0.2.1", hostIP=every)).behind_node(NODE, 80) == Endpoint("192.0.2.1", 8080)


def test_a_host_port_leads_to_the_family_that_was_dialled() -> None:
    both = hosting("a", "192.0.2.1")
    both["status"] |= {"podIPs": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "hostIPs": [{"ip": NODE}, {"ip": NODE6}]}
    found = Services(both)
    assert found.behind_node(NODE6, 80) == Endpoint("2001:db8::1", 8080)
    assert Services(hosting("a", "192.0.2.1"), node_addresses=[NODE6]).behind_node(NODE6, 80) is None


def test_a_pod_on_the_hosts_network_is_no_other_address_but_the_nodes() -> None:
    host = hosting("a", NODE) | {"spec": {"nodeName": MINE, "hostNetwork": True, "containers": []}}
    host["spec"]["containers"] = [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]
    found = Services(host, service(ports=PORTS), SERVED)
    assert found.behind_node(NODE, 80) is None
    assert found.reached(NODE, 30080) == ["192.0.2.1"]
    assert found.index.pod_at(NODE) is None
