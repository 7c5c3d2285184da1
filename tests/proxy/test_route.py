"""Where an outbound connection goes: never in plaintext to a meshed pod, whatever the rest of the catalog says."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.address import OriginalDst
from agent.catalog.fronts import Front
from agent.catalog.mesh import accepts_mesh, sends_mesh
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.annotations import MESHED_ONLY
from agent.objects.key import PodKey
from agent.objects.model import ContainerPort, Endpoint, MeshSettings, Pod, PortRange, Service, ServicePort
from agent.outcome import Outcome
from agent.policy.index import PolicySettings
from agent.proxy.route import Mesh, Passage, Plain, PlainReason, Refused, Route, route
from agent.proxy.view import Settings, View
from tests.proxy.fakes import mesh, plain

API_ID = SpiffeId.for_service_account("example.test", "demo", "api")


def test_nobody_but_route_says_where_a_connection_may_go() -> None:
    stranger: Any = object()
    with pytest.raises(TypeError, match=r"^only `route` says"):
        Passage(stranger, "192.0.2.2", 80)
    with pytest.raises(TypeError, match="only `route`"):
        Mesh(stranger, "192.0.2.2", 80, PodKey("demo/api"), API_ID)
    with pytest.raises(TypeError, match="only `route`"):
        Plain(stranger, "192.0.2.2", 80, PlainReason.LOOPBACK)


def pod(name: str, *ips: str, **settings: Any) -> Pod:
    return Pod("demo", name, name, "node-a", ips, settings=MeshSettings(**settings))


WEB = pod("web", "192.0.2.1", "2001:db8::1")
CATALOG = Catalog(
    1,
    (
        WEB,
        pod("api", "192.0.2.2", "2001:db8::2"),
        pod("plain", "192.0.2.3", injected=False),
        pod("skips", "192.0.2.4", skip_inbound_ports=(PortRange(7000, 7005),)),
        pod("subnet", "192.0.2.5", skip_subnets=("192.0.2.0/30",)),
    ),
    (
        Service("demo", "api", ("198.51.100.1",), (ServicePort("http", 80, (Endpoint("192.0.2.2", 8080),)),)),
        Service("demo", "empty", ("198.51.100.2",), (ServicePort("http", 80),)),
        Service("demo", "self", ("198.51.100.3",), (ServicePort("http", 80, (Endpoint("192.0.2.1", 8080),)),)),
        Service("demo", "loops", ("198.51.100.5",), (ServicePort("http", 80, (Endpoint("198.51.100.1", 80),)),)),
        Service("demo", "out", ("198.51.100.4",), (ServicePort("http", 80, (Endpoint("203.0.113.9", 8080),)),)),
    ),
)


def view(egress: str = "allow") -> View:
    made = View(Settings("node-a", PolicySettings("example.test"), egress))
    made.set_catalog(CATALOG)
    return made


def goes(address: str, port: int, egress: str = "allow", source: Pod = WEB) -> Route:
    return route(source, OriginalDst(address, port), view(egress), lambda front, _client: front.endpoints[0])


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("192.0.2.2", 8080, mesh("192.0.2.2", 8080, "demo/api", API_ID)),
        ("2001:db8::2", 8080, mesh("2001:db8::2", 8080, "demo/api", API_ID)),
        ("198.51.100.1", 80, mesh("192.0.2.2", 8080, "demo/api", API_ID)),
        ("198.51.100.3", 80, plain("192.0.2.1", 8080, PlainReason.LOOPBACK)),
        ("198.51.100.4", 80, plain("203.0.113.9", 8080, PlainReason.DESTINATION_NOT_IN_CATALOG)),
        ("203.0.113.1", 443, plain("203.0.113.1", 443, PlainReason.DESTINATION_NOT_IN_CATALOG)),
        ("192.0.2.3", 80, plain("192.0.2.3", 80, PlainReason.DESTINATION_NOT_MESHED)),
        ("192.0.2.4", 7003, plain("192.0.2.4", 7003, PlainReason.DESTINATION_SKIPS)),
        ("192.0.2.5", 80, plain("192.0.2.5", 80, PlainReason.DESTINATION_SKIPS)),
    ],
)
def test_where_connections_go(address: str, port: int, expected: Route) -> None:
    assert goes(address, port) == expected


def test_an_endpoint_that_is_a_service_itself_is_refused() -> None:
    found = goes("198.51.100.5", 80)
    assert isinstance(found, Refused)
    assert "198.51.100.1:80 of service demo/loops is a service's address itself" in found.message


def test_other_ports_of_a_pod_that_skips_some_are_meshed() -> None:
    assert isinstance(goes("192.0.2.4", 7006), Mesh)


@pytest.mark.parametrize(("port", "words"), [(80, "no ready endpoint"), (81, "no TCP port 81; it has 80")])
def test_a_service_that_cannot_serve_is_refused_with_its_name(port: int, words: str) -> None:
    refused = goes("198.51.100.2", port)
    assert isinstance(refused, Refused)
    assert refused.outcome is Outcome.NO_ENDPOINT
    assert "demo/empty" in refused.message
    assert words in refused.message


@pytest.mark.parametrize(("ports", "words"), [((), "it has none"), ((80, 443), "it has 80, 443")])
def test_a_port_that_a_service_does_not_have_is_refused_with_those_that_it_has(
    ports: tuple[int, ...], words: str
) -> None:
    seen = view()
    service = Service("demo", "some", ("198.51.100.6",), tuple(ServicePort("", port) for port in ports))
    seen.change_catalog(CatalogChange(2, services=(service,)))
    refused = route(WEB, OriginalDst("198.51.100.6", 81), seen, lambda front, _: front.endpoints[0])
    assert isinstance(refused, Refused)
    assert refused.message == f"service demo/some at 198.51.100.6 has no TCP port 81; {words}"


@pytest.mark.parametrize("address", ["203.0.113.1", "192.0.2.3", "192.0.2.5", "198.51.100.4"])
def test_meshed_only_refuses_what_is_outside_the_mesh(address: str) -> None:
    refused = goes(address, 80, MESHED_ONLY)
    assert isinstance(refused, Refused)
    assert refused.outcome is Outcome.EGRESS_NOT_MESHED
    assert re.search(r"and [0-9.]+:(80|8080) is none \(", refused.message)
    assert isinstance(goes("192.0.2.2", 80, MESHED_ONLY), Mesh)
    assert isinstance(goes("198.51.100.3", 80, MESHED_ONLY), Plain)


def test_a_source_whose_address_of_the_family_is_unknown_is_still_meshed() -> None:
    four_only = pod("four", "192.0.2.9")
    assert isinstance(goes("2001:db8::2", 80, source=four_only), Mesh)


@pytest.mark.parametrize(("port", "expected"), [(7003, Plain), (7006, Mesh), (6999, Mesh)])
def test_a_source_whose_address_of_the_family_is_unknown_is_kept_out_by_the_port_alone(
    port: int, expected: type[Passage]
) -> None:
    """What is dialled in plaintext at any other port would reach an agent that demands mTLS, or nobody's ears."""
    seen = view()
    target = pod(
        "both",
        "192.0.2.6",
        "2001:db8::6",
        skip_inbound_ports=(PortRange(7000, 7005), PortRange(8000, 8000)),
        skip_subnets=("192.0.2.9/32",),
    )
    seen.change_catalog(CatalogChange(2, (target,)))
    for source in (pod("four", "192.0.2.9"), pod("none")):
        dialled = OriginalDst("2001:db8::6", port)
        assert isinstance(route(source, dialled, seen, lambda front, _: front.endpoints[0]), expected)


@pytest.mark.parametrize(
    ("skipped", "at", "expected"),
    [
        ("192.0.2.1/32", "192.0.2.6", Plain),
        ("192.0.2.1/32", "2001:db8::6", Mesh),
        ("2001:db8::1/128", "192.0.2.6", Mesh),
        ("2001:db8::1/128", "2001:db8::6", Plain),
    ],
)
def test_a_source_is_kept_out_by_its_address_of_the_family_that_it_dials(
    skipped: str, at: str, expected: type[Passage]
) -> None:
    seen = view()
    seen.change_catalog(CatalogChange(2, (pod("both", "192.0.2.6", "2001:db8::6", skip_subnets=(skipped,)),)))
    assert isinstance(route(WEB, OriginalDst(at, 80), seen, lambda front, _: front.endpoints[0]), expected)


ADDRESSES = ["192.0.2.1", "192.0.2.9", "10.0.0.1", "2001:db8::9"]
SETTINGS = st.builds(
    MeshSettings,
    injected=st.booleans(),
    skip_inbound_ports=st.sampled_from([(), (PortRange(80, 90),)]),
    skip_outbound_ports=st.sampled_from([(), (PortRange(85, 95),)]),
    skip_subnets=st.sampled_from([(), ("192.0.2.0/24",), ("2001:db8::/32",)]),
)


@given(SETTINGS, st.sampled_from(ADDRESSES), st.integers(78, 97))
def test_what_is_captured_is_exactly_what_is_not_skipped(settings: MeshSettings, address: str, port: int) -> None:
    skipped = settings.skip_subnets and address.startswith(settings.skip_subnets[0].split("0/")[0].split("::/")[0])
    assert accepts_mesh(settings, port, address) is (
        settings.injected and not (settings.skip_inbound_ports and 80 <= port <= 90) and not skipped
    )
    assert sends_mesh(settings, port, address) is (
        settings.injected and not (settings.skip_outbound_ports and 85 <= port <= 95) and not skipped
    )


# -- addresses of services outside the cluster's network, and of nodes --

OUTSIDE, BALANCER, NODE = "203.0.113.80", "203.0.113.81", "203.0.113.90"
API = Endpoint("192.0.2.2", 8080)


def outside(service: str = "api", *ready: Endpoint, **port: Any) -> Service:
    reached: dict[str, Any] = {"external_ips": (OUTSIDE,), "balancer_ips": (BALANCER,), "node_port": 30080}
    ranges = ("192.0.2.1/32",)
    return Service("demo", service, (), (ServicePort("", 80, ready, **reached | port),), source_ranges=ranges)


def goes_with(*more: Service | Pod, at: str, port: int, source: Pod = WEB, egress: str = "allow") -> Route:
    seen = view(egress)
    seen.set_node_addresses((NODE,))
    seen.change_catalog(
        CatalogChange(
            2,
            tuple(each for each in more if isinstance(each, Pod)),
            tuple(each for each in more if isinstance(each, Service)),
        )
    )
    return route(source, OriginalDst(at, port), seen, lambda front, _client: front.endpoints[0])


MESHED = mesh("192.0.2.2", 8080, "demo/api", API_ID)


@pytest.mark.parametrize(("at", "port"), [(OUTSIDE, 80), (BALANCER, 80), (NODE, 30080)])
def test_every_address_of_a_service_is_mtls_to_an_endpoint(at: str, port: int) -> None:
    assert goes_with(outside("api", API), at=at, port=port) == MESHED
    assert goes_with(outside("api", API), at=at, port=port, egress=MESHED_ONLY) == MESHED
    refused = goes_with(outside(), at=at, port=port)
    assert isinstance(refused, Refused)
    assert refused.outcome is Outcome.NO_ENDPOINT
    assert "demo/api has no ready endpoint" in refused.message


def test_an_endpoint_that_is_not_meshed_is_dialled_as_by_the_cluster_ip() -> None:
    found = goes_with(outside("api", Endpoint("192.0.2.3", 81)), at=OUTSIDE, port=80)
    assert found == plain("192.0.2.3", 81, PlainReason.DESTINATION_NOT_MESHED)
    refused = goes_with(outside("api", Endpoint("192.0.2.3", 81)), at=OUTSIDE, port=80, egress=MESHED_ONLY)
    assert isinstance(refused, Refused)
    assert refused.outcome is Outcome.EGRESS_NOT_MESHED


@pytest.mark.parametrize(("at", "port"), [(OUTSIDE, 81), (BALANCER, 443), (NODE, 22)])
def test_other_ports_of_such_an_address_are_not_the_services(at: str, port: int) -> None:
    assert goes_with(outside("api", API), at=at, port=port) == plain(at, port, PlainReason.DESTINATION_NOT_IN_CATALOG)


def test_a_worker_that_is_given_the_whole_catalog_anew_still_knows_its_nodes_addresses() -> None:
    seen = view()
    seen.set_node_addresses((NODE,))
    seen.set_catalog(Catalog(2, CATALOG.pods, (outside("api", API),)))
    assert route(WEB, OriginalDst(NODE, 30080), seen, lambda front, _client: front.endpoints[0]) == MESHED


def test_a_host_port_is_mtls_to_its_pod() -> None:
    host = Pod(
        "demo", "host", "host", "node-a", ("192.0.2.50",), container_ports=(ContainerPort("", 8080, host_port=80),)
    )
    expected = mesh("192.0.2.50", 8080, "demo/host", SpiffeId.for_service_account("example.test", "demo", "host"))
    assert goes_with(host, at=NODE, port=80) == expected
    assert goes_with(host, at=NODE, port=80, source=host) == plain("192.0.2.50", 8080, PlainReason.LOOPBACK)


@pytest.mark.parametrize(("claimed", "port"), [("192.0.2.2", 80), ("198.51.100.1", 80)])
def test_nobody_draws_a_pods_or_a_cluster_ips_traffic_to_himself(claimed: str, port: int) -> None:
    """CVE-2020-8554."""
    thief = outside("thief", Endpoint("192.0.2.3", 81), external_ips=(claimed,), balancer_ips=(claimed,))
    found = goes_with(thief, at=claimed, port=port)
    assert isinstance(found, Mesh)
    assert found.pod == "demo/api"


def test_only_source_ranges_reach_a_load_balancers_address() -> None:
    other = pod("other", "192.0.2.9")
    assert goes_with(outside("api", API), at=OUTSIDE, port=80, source=other) == MESHED
    refused = goes_with(outside("api", API), at=BALANCER, port=80, source=other)
    assert isinstance(refused, Refused)
    assert refused.outcome is Outcome.NETWORK_NOT_PERMITTED
    assert "loadBalancerSourceRanges" in refused.message


@pytest.mark.parametrize("endpoint", [Endpoint(OUTSIDE, 80), Endpoint(NODE, 30080), Endpoint("198.51.100.1", 80)])
def test_an_endpoint_that_is_an_address_of_a_service_is_refused(endpoint: Endpoint) -> None:
    refused = goes_with(outside("loops", endpoint), at=BALANCER, port=80)
    assert isinstance(refused, Refused)
    assert "is a service's address itself" in refused.message


def test_an_endpoint_that_is_a_pod_is_dialled_whatever_a_service_claims_to_have() -> None:
    """Else whoever may write a Service takes another one's endpoints away with `externalIPs`."""
    thief = outside("thief", Endpoint("192.0.2.3", 81), external_ips=(API.address,))
    claimed = msgspec.structs.replace(
        thief, ports=(msgspec.structs.replace(thief.ports[0], port=API.port, external_ips=(API.address,)),)
    )
    assert goes_with(outside("api", API), claimed, at=OUTSIDE, port=80) == MESHED


SIX = "2001:db8:5::1"


@pytest.mark.parametrize(
    ("ips", "at", "client", "served"),
    [
        (("192.0.2.1", "2001:db8::1"), "198.51.100.9", "192.0.2.1", True),
        (("192.0.2.1", "2001:db8::1"), SIX, "2001:db8::1", True),
        (("192.0.2.1",), SIX, "demo/web", False),
        (("2001:db8::1",), "198.51.100.9", "demo/web", False),
        (("192.0.2.9", "2001:db8::9"), "198.51.100.9", "192.0.2.9", False),
        (("192.0.2.9", "2001:db8::9"), SIX, "2001:db8::9", False),
    ],
)
def test_a_client_is_its_address_of_the_family_that_it_dials(
    ips: tuple[str, ...], at: str, client: str, *, served: bool
) -> None:
    """By that it is let in from a load balancer's networks, and led to the endpoint that it had before."""
    networks = ("192.0.2.1/32", "2001:db8::1/128")
    endpoints = (Endpoint("192.0.2.2", 8080), Endpoint("2001:db8::2", 8080))
    port = ServicePort("", 80, endpoints, balancer_ips=("198.51.100.9", SIX), external_ips=("203.0.113.1",))
    seen, asked = view(), []
    service = Service("demo", "balanced", (), (port,), source_ranges=networks)
    seen.change_catalog(CatalogChange(2, services=(service,)))

    def pick(front: Front, client: str) -> Endpoint:
        asked.append(client)
        return front.endpoints[0]

    found = route(pod("web", *ips), OriginalDst(at, 80), seen, pick)
    assert isinstance(found, Mesh) is served
    if isinstance(found, Refused):
        assert found.message == (
            f"service demo/balanced is reached at its load balancer's address {OriginalDst(at, 80)} only from "
            f"192.0.2.1/32, 2001:db8::1/128 (loadBalancerSourceRanges), and not from {client}; dial its cluster IP "
            f"instead"
        )
    assert asked == ([client] if served else [])


def test_a_source_without_an_address_is_known_by_its_name_to_whoever_picks() -> None:
    asked: list[str] = []

    def pick(front: Front, client: str) -> Endpoint:
        asked.append(client)
        return front.endpoints[0]

    route(pod("new"), OriginalDst("198.51.100.1", 80), view(), pick)
    assert asked == ["demo/new"]


@given(
    st.lists(
        st.sampled_from([API, Endpoint("192.0.2.3", 81), Endpoint(NODE, 30080), Endpoint("203.0.113.5", 1)]), max_size=3
    ),
    st.lists(st.sampled_from([OUTSIDE, "192.0.2.2", "198.51.100.1", NODE]), max_size=3),
    st.sampled_from([OUTSIDE, BALANCER, NODE, "192.0.2.2", "198.51.100.1"]),
    st.sampled_from([80, 30080, 8080]),
)
def test_nothing_goes_to_an_address_of_a_service_or_in_plaintext_to_a_meshed_pod(
    ready: list[Endpoint], external: list[str], at: str, port: int
) -> None:
    found = goes_with(outside("x", *ready, external_ips=tuple(external)), at=at, port=port)
    match found:
        case Plain(address=address, port=number):
            assert address not in {"192.0.2.2", "198.51.100.1"}
            assert (address, number) not in {(BALANCER, 80), (NODE, 30080), *((ip, 80) for ip in external)}
        case Mesh():
            assert found == mesh("192.0.2.2", found.port, "demo/api", API_ID)
        case Refused(outcome, _):
            assert outcome is Outcome.NO_ENDPOINT
