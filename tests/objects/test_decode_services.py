"""What a service, and who serves it, are read as: the API's defaults, what is left out, and faults."""

from typing import Any

import pytest

from tests.catalog.services import (
    CLUSTER_IP,
    CLUSTER_IP6,
    OTHER,
    SELECTED,
    Services,
    endpoint,
    endpoint_slice,
    pod,
    service,
)


@pytest.mark.parametrize(
    "port", [{"port": 80}, {"port": 80, "targetPort": 0}, {"port": 80, "targetPort": "", "protocol": "", "name": ""}]
)
def test_a_service_port_that_says_little_is_what_the_api_makes_of_it(port: dict[str, Any]) -> None:
    found = Services(service(**SELECTED, ports=[port]), pod("a", "192.0.2.1"))
    assert found.faults == ()
    assert [(each.address, each.port) for each in found.front().endpoints] == [("192.0.2.1", 80)]


def test_what_is_null_or_empty_is_as_if_it_were_left_out() -> None:
    empty: dict[str, Any] = {
        "type": "", "clusterIPs": [CLUSTER_IP], "clusterIP": "", "sessionAffinity": "", "internalTrafficPolicy": "",
        "trafficDistribution": None, "externalIPs": None, "selector": None, "sessionAffinityConfig": None,
        "publishNotReadyAddresses": None, "loadBalancerSourceRanges": [], "ports": [{"port": 80, "nodePort": 0}],
    }  # fmt: skip
    found = Services(service(**empty), endpoint_slice(endpoint("192.0.2.1", nodeName=OTHER, hints={})))
    assert found.faults == ()
    assert found.reached() == ["192.0.2.1"]
    assert found.front().affinity_seconds == 0


def test_a_namespace_that_is_empty_is_the_default_one() -> None:
    bare = service()
    bare["metadata"]["namespace"] = ""
    assert Services(bare).front().service == "default/web"


def test_ports_of_other_protocols_are_neighbours_and_no_ports_of_tcps() -> None:
    """One number may be several ports: a DNS server's, or what is spoken over SCTP and TCP."""
    neighbours: list[dict[str, Any]] = [
        *({"name": f"dns-{name}", "port": 53, "protocol": name.upper()} for name in ("udp", "tcp")),
        *({"name": f"diameter-{name}", "port": 3868, "protocol": name.upper()} for name in ("sctp", "tcp")),
        {"name": "only-sctp", "port": 3869, "protocol": "SCTP"},
    ]
    numbers = [{"containerPort": 1053, "protocol": "UDP"}, {"containerPort": 1054, "protocol": "SCTP", "name": "only"}]
    by_selector = Services(
        service(**SELECTED, ports=neighbours), pod("a", "192.0.2.1", containers=[{"name": "c", "ports": numbers}])
    )
    moved = [each | {"port": each["port"] + (1000 if each["protocol"] == "TCP" else 2000)} for each in neighbours]
    by_slice = Services(service(ports=neighbours), endpoint_slice(endpoint("192.0.2.1")) | {"ports": moved})
    for found, more in ((by_selector, 0), (by_slice, 1000)):
        assert found.faults == ()
        for number in (53, 3868):
            assert [(each.address, each.port) for each in found.front(port=number).endpoints] == [
                ("192.0.2.1", number + more)
            ]
        assert found.index.front_at(CLUSTER_IP, 3869) is None
    (only,) = by_selector.index.catalog.pods
    assert only.container_ports == ()


def test_a_slice_port_without_a_number_is_no_port() -> None:
    without = endpoint_slice(endpoint("192.0.2.1")) | {"ports": [{"name": ""}]}
    found = Services(service(), without)
    assert found.faults == ()
    assert found.reached() == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"internalTrafficPolicy": "local"}, "must be one of Cluster, Local"),
        ({"sessionAffinity": "Cookie"}, "must be one of None, ClientIP"),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}, "from 1 to"),
        ({"trafficDistribution": "Nearby"}, "must be one of PreferClose"),
        ({"externalIPs": ["nowhere"]}, "is no IP address"),
        ({"loadBalancerSourceRanges": ["10.0.0.0/40"]}, "is no network"),
        ({"ports": [{"port": 80, "targetPort": "8080"}]}, "is a text, and no container port"),
        ({"ports": [{"port": 80, "nodePort": 70000}]}, "a port number"),
        ({"publishNotReadyAddresses": "yes"}, "true or false"),
    ],
)
def test_a_service_with_a_fault_keeps_its_addresses_and_is_served_by_nobody(spec: dict[str, Any], words: str) -> None:
    spec = {"externalIPs": ["198.51.100.9"], "ports": [{"port": 81}, {"port": 82}], **spec}
    spec["ports"] = [*spec["ports"], {"port": 83}]
    found = Services(service(**spec), endpoint_slice(endpoint("192.0.2.1")))
    (fault,) = found.faults
    assert words in fault.reason
    assert fault.closed
    assert found.reached(CLUSTER_IP, 83) == []
    if spec["externalIPs"] == ["198.51.100.9"]:
        assert found.reached("198.51.100.9", 83) == []


def test_both_families_have_their_own_endpoints() -> None:
    both = pod("a", "192.0.2.1")
    both["status"]["podIPs"] = [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]
    found = Services(service(**SELECTED, clusterIPs=[CLUSTER_IP, CLUSTER_IP6]), both)
    assert found.reached() == ["192.0.2.1"]
    assert found.reached(CLUSTER_IP6) == ["2001:db8::1"]
