"""Who of a service's endpoints is reached from one node: traffic policies, hints, preferences."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.fronts import Here, front
from agent.objects.model import Endpoint, Service, ServicePort
from tests.catalog.services import (
    LEAVING,
    MINE,
    OTHER,
    SELECTED,
    Manifest,
    Services,
    endpoint,
    endpoint_slice,
    node,
    pod,
    service,
)

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
