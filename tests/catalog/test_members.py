"""Who serves a service: what kube-proxy and the slice controller make of the same manifests."""

import pytest

from tests.catalog.services import (
    LEAVING,
    SELECTED,
    Manifest,
    Services,
    endpoint,
    endpoint_slice,
    endpoints,
    pod,
    service,
)

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


@pytest.mark.parametrize("sliced", [True, False])
def test_the_api_servers_own_service_leads_to_it_by_its_slice_or_by_its_endpoints(*, sliced: bool) -> None:
    """The API server writes both, on an address of its node, and asks for no mirror of the one."""
    own: Manifest = service("kubernetes", ports=[{"name": "https", "port": 443, "targetPort": 6443}])
    both = [
        endpoints("203.0.113.1", name="kubernetes", labels=UNMIRRORED),
        endpoint_slice(endpoint("203.0.113.1", ready=True), name="kubernetes", of="kubernetes"),
    ]
    for each in (own, *both):
        each["metadata"]["namespace"] = "default"
    both[0]["subsets"][0]["ports"] = both[1]["ports"] = [{"name": "https", "port": 6443, "protocol": "TCP"}]
    found = Services(own, *(both if sliced else both[:1]))
    assert found.faults == ()
    assert [(each.address, each.port) for each in found.front(port=443).endpoints] == [("203.0.113.1", 6443)]


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
