"""Who has an external address, or a port of a node: one at a time, and the rest is told."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.claims import Claim, Claims, HostPorts, claims_of
from agent.objects.decode_services import RawService, RawServicePort
from agent.objects.key import ObjectKey
from agent.objects.model import ContainerPort, Endpoint, Pod
from tests.catalog.services import (
    CLUSTER_IP,
    MINE,
    NODE,
    NODE6,
    OTHER,
    PORTS,
    SERVED,
    Manifest,
    Services,
    endpoint,
    endpoint_slice,
    hosting,
    service,
)

OUTSIDE, BALANCER = "198.51.100.9", "198.51.100.10"


def balanced(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"loadBalancer": {"ingress": list(entries)}}


def test_external_and_load_balancer_addresses_lead_to_the_endpoints() -> None:
    found = Services(service(externalIPs=[OUTSIDE], status=balanced({"ip": BALANCER})), SERVED)
    for address in (CLUSTER_IP, OUTSIDE, BALANCER):
        assert found.reached(address) == ["192.0.2.1"]
    assert found.index.outside(OUTSIDE, 81) is None, "another port of that address is somebody else's"
    assert found.index.service_at(OUTSIDE) is None


@pytest.mark.parametrize(
    ("entry", "ours"),
    [
        ({"ip": BALANCER}, True),
        ({"ip": BALANCER, "ipMode": "VIP"}, True),
        ({"ip": BALANCER, "ipMode": "Proxy"}, False),
        ({"hostname": "lb.example.test"}, False),
        ({"hostname": "lb.example.test", "ip": ""}, False),
    ],
)
def test_what_a_load_balancer_changes_on_the_way_goes_to_it(entry: dict[str, Any], ours: bool) -> None:
    found = Services(service(status=balanced(entry)), SERVED)
    assert found.faults == ()
    assert (found.index.outside(BALANCER, 80) is not None) is ours


def test_source_ranges_are_for_load_balancers_addresses_only() -> None:
    spec: dict[str, Any] = {"loadBalancerSourceRanges": ["10.0.0.1/8"], "externalIPs": [OUTSIDE]}
    found = Services(service(**spec, status=balanced({"ip": BALANCER}, {"ip": OUTSIDE})), SERVED)
    sources = {address: found.front(address).sources for address in (CLUSTER_IP, OUTSIDE, BALANCER)}
    assert sources == {CLUSTER_IP: (), OUTSIDE: (), BALANCER: ("10.0.0.0/8",)}


def test_a_service_that_goes_takes_its_addresses_with_it() -> None:
    found = Services(service(ports=PORTS, externalIPs=[OUTSIDE]), SERVED, node_addresses=[NODE])
    found.put(service(ports=[{"port": 80, "nodePort": 30081}], externalIPs=[BALANCER]))
    assert [found.index.outside(OUTSIDE, 80), found.index.outside(NODE, 30080)] == [None, None]
    assert found.reached(BALANCER) == found.reached(NODE, 30081) == ["192.0.2.1"]
    found.remove("Service", "web")
    assert [found.index.outside(BALANCER, 80), found.index.outside(NODE, 30081)] == [None, None]


# -- two services at one address --


def rival(name: str, created: str = "", **spec: Any) -> Manifest:
    return service(name, created=created, clusterIP=f"10.96.1.{ord(name[0])}", **spec)


def test_of_two_services_at_one_address_and_port_the_older_has_it_and_the_fault_names_both() -> None:
    old = rival("z", "2025-01-01T00:00:00Z", externalIPs=[OUTSIDE], ports=PORTS)
    new = rival("a", "2026-01-01T00:00:00Z", externalIPs=[OUTSIDE], ports=PORTS)
    for order in itertools.permutations([old, new]):
        found = Services(*order, node_addresses=[NODE])
        assert found.front(OUTSIDE).service == found.front(NODE, 30080).service == "demo/z"
        (fault,) = found.faults
        assert fault.object == "Service demo/a"
        assert f"{OUTSIDE}, port 80, is Service demo/z's" in fault.reason
        assert "NodePort 30080 is Service demo/z's" in fault.reason
        assert found.front("10.96.1.97").service == "demo/a", "what nobody else claims stays its own"


def test_of_two_services_of_the_same_age_the_first_by_name_has_it_until_it_goes() -> None:
    found = Services(rival("b", externalIPs=[OUTSIDE]), rival("a", externalIPs=[OUTSIDE]))
    assert found.front(OUTSIDE).service == "demo/a"
    found.remove("Service", "a")
    assert found.front(OUTSIDE).service == "demo/b"
    assert found.faults == ()


def test_two_services_may_share_an_address_on_different_ports() -> None:
    found = Services(rival("a", externalIPs=[OUTSIDE]), rival("b", externalIPs=[OUTSIDE], ports=[{"port": 81}]))
    assert found.faults == ()
    assert [found.front(OUTSIDE, port).service for port in (80, 81)] == ["demo/a", "demo/b"]


CLAIMING_PORTS = st.builds(
    RawServicePort, st.just(""), st.sampled_from([80, 81]), st.just(80), st.sampled_from([0, 30080])
)
CLAIMANTS = st.builds(
    RawService,
    st.just("demo"),
    st.sampled_from("abc"),
    st.just(()),
    st.lists(CLAIMING_PORTS, max_size=2).map(tuple),
    external_ips=st.lists(st.sampled_from([OUTSIDE, BALANCER]), unique=True).map(tuple),
    balancer_ips=st.lists(st.sampled_from([BALANCER]), unique=True).map(tuple),
    created=st.sampled_from([None, 1.0, 2.0]),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | CLAIMANTS), max_size=8))
def test_every_claim_is_one_services_whatever_the_order_and_who_may_be_touched_is_told(
    steps: list[tuple[str, RawService | None]],
) -> None:
    claims, there = Claims(), dict[ObjectKey, RawService]()
    held: dict[ObjectKey, set[Claim]] = {}
    for name, raw in steps:
        key = ObjectKey("Service", "demo", name if raw is None else raw.name)
        told = claims.put(key, raw)
        there.pop(key, None)
        if raw is not None:
            there[key] = raw
        before, held = held, {each: _held(claims, service) for each, service in there.items()}
        assert {each for each in held.keys() & before.keys() if held[each] != before[each]} <= told | {key}
        wanted = {claim for service in there.values() for claim in claims_of(service)}
        assert sorted(claim for those in held.values() for claim in those) == sorted(wanted), "each once"
    afresh = Claims()
    for key, raw in reversed(there.items()):
        afresh.put(key, raw)
    assert {key: _held(afresh, raw) for key, raw in there.items()} == held
    assert afresh.conflicts() == claims.conflicts()
    assert claims.conflicts().keys() == {key for key, raw in there.items() if held[key] != claims_of(raw)}


def _held(claims: Claims, service: RawService) -> set[Claim]:
    found = set()
    for port in service.ports:
        held = claims.held(service, port)
        found |= {Claim(ip, port.port) for ip in (*held.external_ips, *held.balancer_ips)}
        found |= {Claim("", held.node_port)} if held.node_port else set()
    return found


def test_a_service_whose_cluster_ip_is_anothers_keeps_its_other_addresses_closed() -> None:
    """Nobody would know them without it, and they would be dialled in plaintext."""
    late = service("late", externalIPs=[OUTSIDE], ports=[{"port": 80, "nodePort": 30080}])
    found = Services(service(), SERVED, endpoint_slice(endpoint("192.0.2.2"), of="late", name="late-1"), late)
    found.index.set_node_addresses([NODE])
    (fault,) = found.faults
    assert "its address 10.96.0.1 is Service demo/web's already" in fault.reason
    assert fault.closed
    assert found.front().service == "demo/web"
    for address, port in ((OUTSIDE, 80), (NODE, 30080)):
        assert found.front(address, port).service == "demo/late"
        assert found.reached(address, port) == []
    found.put(late | {"spec": late["spec"] | {"clusterIP": "10.96.0.9"}})
    assert found.reached(OUTSIDE) == ["192.0.2.2"]


# -- ports of the node that lead to one pod --


def test_of_two_pods_with_one_host_port_on_one_node_the_first_by_name_has_it_and_the_fault_names_both() -> None:
    for order in itertools.permutations([hosting("a", "192.0.2.1"), hosting("b", "192.0.2.2")]):
        found = Services(*order, hosting("c", "192.0.2.3", OTHER))
        assert found.behind_node(NODE, 80) == Endpoint("192.0.2.1", 8080)
        (fault,) = found.faults
        assert fault.object == "Pod demo/b"
        assert fault.reason == f"hostPort 80 of node {MINE} is Pod demo/a's, which is first by name"
        assert fault.origin.line > 0
        found.remove("Pod", "a")
        assert found.behind_node(NODE, 80) == Endpoint("192.0.2.2", 8080)
        assert found.faults == ()


@pytest.mark.parametrize(
    ("first", "second", "collide"),
    [
        ({"hostIP": NODE}, {"hostIP": NODE}, True),
        ({"hostIP": NODE}, {"hostIP": "203.0.113.9"}, False),
        ({"hostIP": NODE}, {"hostIP": "0.0.0.0"}, True),
        ({"hostPort": 81}, {}, False),
        ({"protocol": "UDP"}, {}, False),
    ],
)
def test_host_ports_collide_where_one_address_and_port_would_be_both(
    first: dict[str, Any], second: dict[str, Any], *, collide: bool
) -> None:
    found = Services(hosting("a", "192.0.2.1", **first), hosting("b", "192.0.2.2", **second))
    assert bool(found.faults) is collide


def test_pods_that_are_on_no_node_yet_share_nothing() -> None:
    assert Services(hosting("a", "192.0.2.1", node=""), hosting("b", "192.0.2.2", node="")).faults == ()


HOSTED = st.builds(
    Pod,
    st.just("demo"),
    st.sampled_from("abc"),
    st.just("default"),
    st.sampled_from(["", MINE, OTHER]),
    st.just(("192.0.2.1",)),
    container_ports=st.lists(
        st.builds(
            ContainerPort, st.just(""), st.just(80), st.sampled_from([0, 80, 81]), st.sampled_from(["", NODE, NODE6])
        ),
        max_size=3,
    ).map(tuple),
    host_network=st.booleans(),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | HOSTED), max_size=8))
def test_what_pods_claim_is_told_of_those_that_are_there_in_whatever_order_they_came(
    steps: list[tuple[str, Pod | None]],
) -> None:
    ports, there = HostPorts(), dict[ObjectKey, Pod]()
    for name, claimant in steps:
        key = ObjectKey("Pod", "demo", name if claimant is None else claimant.name)
        ports.put(key, claimant)
        there.pop(key, None)
        if claimant is not None:
            there[key] = claimant
    afresh = HostPorts()
    for key, claimant in reversed(there.items()):
        afresh.put(key, claimant)
    assert afresh.conflicts() == ports.conflicts()


def test_udp_has_no_part_in_it() -> None:
    assert Services(hosting("a", "192.0.2.1", protocol="UDP")).behind_node(NODE, 80) is None
    assert (
        Services(
            service(ports=[{"port": 80, "nodePort": 30080, "protocol": "UDP"}]), node_addresses=[NODE]
        ).index.outside(NODE, 30080)
        is None
    )
