"""Who serves a service: what kube-proxy, the slice controller and the API's defaults make of the same manifests."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.fronts import Here, front
from agent.objects.model import Endpoint, Service, ServicePort
from tests.catalog.services import (
    CLUSTER_IP,
    CLUSTER_IP6,
    MINE,
    OTHER,
    Manifest,
    Services,
    endpoint,
    endpoint_slice,
    endpoints,
    node,
    pod,
    service,
)

SELECTED: dict[str, Any] = {"selector": {"app": "web"}}
MIRRORED = {"endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"}
UNMIRRORED = {"endpointslice.kubernetes.io/skip-mirror": "true"}

# -- pods that are not ready, or on their way out --


def test_pods_that_are_not_ready_serve_where_the_service_publishes_them() -> None:
    pods = (pod("a", "192.0.2.1", ready=False), pod("b", "192.0.2.2", ready=False, deleted=True))
    assert Services(service(**SELECTED), *pods).reached() == []
    assert Services(service(**SELECTED, publishNotReadyAddresses=True), *pods).reached() == ["192.0.2.1", "192.0.2.2"]


def test_a_deleted_pod_gets_new_connections_only_where_no_other_is_left() -> None:
    leaving, other = pod("a", "192.0.2.1", deleted=True), pod("b", "192.0.2.2")
    assert Services(service(**SELECTED), leaving, other).reached() == ["192.0.2.2"]
    assert Services(service(**SELECTED), leaving).reached() == ["192.0.2.1"]
    assert Services(service(**SELECTED), pod("a", "192.0.2.1", deleted=True, ready=False)).reached() == []


LEAVING = endpoint("192.0.2.1", ready=False, serving=True, terminating=True)


@pytest.mark.parametrize(
    ("written", "reached"),
    [
        ([LEAVING], ["192.0.2.1"]),
        ([LEAVING, endpoint("192.0.2.2", ready=True)], ["192.0.2.2"]),
        ([LEAVING, endpoint("192.0.2.2", ready=False)], ["192.0.2.1"]),
        ([LEAVING, endpoint("192.0.2.2")], ["192.0.2.2"]),
        ([endpoint("192.0.2.1", ready=False, serving=False, terminating=True)], []),
        ([endpoint("192.0.2.1", ready=False, terminating=True)], []),
        ([endpoint("192.0.2.1", ready=False, serving=True)], []),
    ],
)
def test_endpoints_that_leave_and_still_serve_are_the_last_resort(written: list[Manifest], reached: list[str]) -> None:
    assert Services(service(**SELECTED), endpoint_slice(*written)).reached() == reached


def test_a_slice_of_a_service_that_publishes_all_says_ready_of_what_leaves() -> None:
    leaves = endpoint_slice(endpoint("192.0.2.1", ready=True, terminating=True), endpoint("192.0.2.2"))
    assert Services(service(publishNotReadyAddresses=True), leaves).reached() == ["192.0.2.1", "192.0.2.2"]
    assert Services(service(), leaves).reached() == ["192.0.2.2"]


def test_an_endpoint_that_moves_between_slices_is_there_once_and_ready_if_one_says_so() -> None:
    found = Services(service(), endpoint_slice(LEAVING), endpoint_slice(endpoint("192.0.2.1"), name="web-2"))
    assert [(each.address, each.port) for each in found.front().endpoints] == [("192.0.2.1", 8080)]


# -- traffic policies --

LOCAL: dict[str, Any] = {"internalTrafficPolicy": "Local"}
HERE, THERE = endpoint("192.0.2.1", nodeName=MINE), endpoint("192.0.2.2", nodeName=OTHER)
NODE_LESS = endpoint("192.0.2.3")


@pytest.mark.parametrize(
    ("written", "reached", "words"),
    [
        ([HERE, THERE, NODE_LESS], ["192.0.2.1"], ""),
        ([THERE, NODE_LESS], [], "on this node, and internalTrafficPolicy is Local"),
        ([], [], "has no ready endpoint"),
        ([THERE, LEAVING | {"nodeName": MINE}], ["192.0.2.1"], ""),
        ([THERE, LEAVING | {"nodeName": OTHER}], [], "internalTrafficPolicy is Local"),
    ],
)
def test_internal_traffic_policy_local_asks_this_node_only(
    written: list[Manifest], reached: list[str], words: str
) -> None:
    found = Services(service(**LOCAL), endpoint_slice(*written))
    assert found.reached() == reached
    assert words in found.front().nobody


def test_a_local_service_with_a_selector_goes_by_the_pods_nodes() -> None:
    pods = (pod("a", "192.0.2.1"), pod("b", "192.0.2.2", node=OTHER))
    assert Services(service(**SELECTED, **LOCAL), *pods).reached() == ["192.0.2.1"]


def test_an_external_address_is_subject_to_no_traffic_policy() -> None:
    spec = {**LOCAL, "externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.9"]}
    spec["ports"] = [{"port": 80, "nodePort": 30080}]
    found = Services(service(**spec), endpoint_slice(HERE, THERE), node_addresses=["203.0.113.1"])
    for address, port in (("198.51.100.9", 80), ("203.0.113.1", 30080)):
        assert found.reached(address, port) == ["192.0.2.1", "192.0.2.2"]


def hinted(ip: str, *, zones: str = "", nodes: str = "") -> Manifest:
    hints = {
        "forZones": [{"name": each} for each in zones.split()],
        "forNodes": [{"name": each} for each in nodes.split()],
    }
    return endpoint(ip, hints=hints)


@pytest.mark.parametrize(
    ("zone", "written", "reached"),
    [
        ("east", [hinted("192.0.2.1", zones="east"), hinted("192.0.2.2", zones="west")], ["192.0.2.1"]),
        ("north", [hinted("192.0.2.1", zones="east"), hinted("192.0.2.2", zones="west")], ["192.0.2.1", "192.0.2.2"]),
        ("", [hinted("192.0.2.1", zones="east"), hinted("192.0.2.2", zones="west")], ["192.0.2.1", "192.0.2.2"]),
        ("east", [hinted("192.0.2.1", zones="east"), endpoint("192.0.2.2")], ["192.0.2.1", "192.0.2.2"]),
        ("east", [hinted("192.0.2.1", nodes=OTHER, zones="east"), hinted("192.0.2.2", nodes=MINE)], ["192.0.2.2"]),
        (
            "east",
            [hinted("192.0.2.1", nodes=OTHER, zones="east"), hinted("192.0.2.2", nodes=OTHER)],
            ["192.0.2.1", "192.0.2.2"],
        ),
        ("west", [hinted("192.0.2.1", zones="east"), LEAVING | {"addresses": ["192.0.2.2"]}], ["192.0.2.1"]),
    ],
)
def test_hints_of_slices_are_followed_where_all_have_them_and_somebody_is_near(
    zone: str, written: list[Manifest], reached: list[str]
) -> None:
    assert (
        Services(
            service(trafficDistribution="PreferSameZone"), endpoint_slice(*written), node(MINE, zone=zone)
        ).reached()
        == reached
    )


def test_a_node_whose_zone_is_learnt_later_follows_hints_from_then_on() -> None:
    found = Services(service(), endpoint_slice(hinted("192.0.2.1", zones="east"), hinted("192.0.2.2", zones="west")))
    assert found.reached() == ["192.0.2.1", "192.0.2.2"]
    found.put(node(MINE, zone="west"))
    assert found.reached() == ["192.0.2.2"]
    found.remove("Node", MINE)
    assert found.reached() == ["192.0.2.1", "192.0.2.2"]


def test_prefer_same_node_needs_no_slices() -> None:
    pods = (pod("a", "192.0.2.1"), pod("b", "192.0.2.2", node=OTHER))
    assert Services(service(**SELECTED, trafficDistribution="PreferSameNode"), *pods).reached() == ["192.0.2.1"]
    assert Services(service(**SELECTED, trafficDistribution="PreferSameNode"), pods[1]).reached() == ["192.0.2.2"]


ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]),
        st.just(80),
        st.sampled_from(["", MINE, OTHER]),
        st.sampled_from([(), ("east",), ("east", "west")]),
        st.sampled_from([(), (MINE,), (OTHER,)]),
    ),
    max_size=5,
).map(tuple)


@given(ENDPOINTS, ENDPOINTS, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "east", "north"]))
def test_whatever_is_preferred_nobody_is_reached_who_may_not_be_and_somebody_if_anybody_may(
    ready: tuple[Endpoint, ...], draining: tuple[Endpoint, ...], local: bool, six: bool, inside: bool, zone: str
) -> None:
    port = ServicePort("", 80, ready, draining)
    found = front(Service("demo", "web", (), (port,), local=local), port, Here(MINE, zone), six=six, inside=inside)
    usable = [
        [each for each in those if (":" in each.address) is six and (each.node == MINE or not (local and inside))]
        for those in (ready, draining)
    ]
    expected = usable[0] or usable[1]
    assert set(found.endpoints) <= set(expected)
    assert bool(found.endpoints) is bool(expected)
    assert bool(found.nobody) is not bool(found.endpoints)


# -- Endpoints --


def test_endpoints_without_slices_are_read_ready_ones_only() -> None:
    found = Services(service(), endpoints("203.0.113.7", notReadyAddresses=[{"ip": "203.0.113.8"}]))
    assert found.faults == ()
    assert [(each.address, each.port) for each in found.front().endpoints] == [("203.0.113.7", 8080)]


@pytest.mark.parametrize(
    ("labels_of_slice", "labels_of_endpoints", "reached"),
    [
        (MIRRORED, {}, ["192.0.2.1"]),
        ({}, {}, ["192.0.2.1", "203.0.113.7"]),
        ({}, UNMIRRORED, ["192.0.2.1"]),
        (None, UNMIRRORED, ["203.0.113.7"]),
    ],
)
def test_slices_go_before_endpoints_that_are_mirrored_and_beside_those_that_are_not_yet(
    labels_of_slice: dict[str, str] | None, labels_of_endpoints: dict[str, str], reached: list[str]
) -> None:
    slices = [] if labels_of_slice is None else [endpoint_slice(endpoint("192.0.2.1"), labels=labels_of_slice)]
    found = Services(service(), endpoints("203.0.113.7", labels=labels_of_endpoints), *slices)
    assert found.reached() == reached


def test_endpoints_of_a_service_with_a_selector_say_nothing() -> None:
    found = Services(service(**SELECTED), endpoints("203.0.113.7"), pod("a", "192.0.2.1"))
    assert found.reached() == ["192.0.2.1"]


def test_endpoints_that_only_say_who_leads_are_none() -> None:
    leads = endpoints("203.0.113.7")
    leads["metadata"]["annotations"] = {"control-plane.alpha.kubernetes.io/leader": "{}"}
    assert Services(service(), leads).reached() == []


def test_endpoints_with_a_fault_let_no_one_else_serve() -> None:
    found = Services(service(), endpoints("203.0.113.700"))
    (fault,) = found.faults
    assert "'203.0.113.700' is no IP address" in fault.reason
    assert fault.closed
    assert found.reached() == []


# -- defaults of the API --


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
