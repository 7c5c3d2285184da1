"""What has fallen, and what is only gone."""

import datetime
from typing import Any

from tests.kubernetes.cluster.standing import fallen, standing, told_before

BEGAN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def an_object(kind: str, name: str, namespace: str = "", *, ready: bool = True, **meta: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"u-{name}", **({"namespace": namespace} if namespace else {}), **meta}
    condition = {"type": "Ready", "status": str(ready)}
    return {"kind": kind, "metadata": metadata, "spec": {}, "status": {"conditions": [condition]}}


def a_slice(name: str, *ready: bool, service: str = "api") -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}}
    endpoints = [{"conditions": {"ready": each}} for each in ready] or None
    return {"kind": "EndpointSlice", "metadata": meta, "endpoints": endpoints}


def a_pod(started: str | None, node: str = "n1", **meta: Any) -> dict[str, Any]:
    made = an_object("Pod", "api", "shop", **meta)
    state = {"waiting": {}} if started is None else {"running": {"startedAt": started}}
    return {**made, "spec": {"nodeName": node}, "status": {"containerStatuses": [{"state": state}]}}


SHOP = an_object("Namespace", "shop")
NODE, POD = an_object("Node", "n1"), an_object("Pod", "api", "shop")


def test_what_stood_and_is_not_ready_has_fallen() -> None:
    before = standing([SHOP, NODE, POD, an_object("Pod", "never", "shop", ready=False)])
    assert fallen(before, [SHOP, NODE, POD], BEGAN) == []
    down = [an_object("Node", "n1", ready=False), an_object("Pod", "api", "shop", ready=False)]
    waiting = an_object("Pod", "never", "shop", ready=False)
    assert fallen(before, [SHOP, *down, waiting], BEGAN) == ["Node n1 is not ready", "Pod shop/api is not ready"]


def test_what_is_gone_or_goes_has_not_fallen_nor_has_what_came_in_its_place() -> None:
    before = standing([SHOP, NODE, POD, a_slice("one", True)])
    assert fallen(before, [SHOP], BEGAN) == []
    goes = an_object("Pod", "api", "shop", ready=False, deletionTimestamp="now")
    assert fallen(before, [SHOP, goes, an_object("Pod", "api", "shop", ready=False, uid="another")], BEGAN) == []
    going = an_object("Namespace", "shop", deletionTimestamp="now")
    assert fallen(before, [going, an_object("Pod", "api", "shop", ready=False), a_slice("one", False)], BEGAN) == []


def test_a_service_has_as_many_endpoints_as_it_had_whichever_they_are() -> None:
    before = standing([SHOP, a_slice("one", True, True, False), a_slice("two", True), a_slice("x", True, service="x")])
    assert before.endpoints == {"shop/api": 3, "shop/x": 1}
    assert (
        fallen(before, [SHOP, a_slice("three", True, True, True, True), a_slice("x", True, service="x")], BEGAN) == []
    )
    assert fallen(before, [SHOP, a_slice("one", False, True), a_slice("x", service="x")], BEGAN) == [
        "Service shop/api has 1 of 3 endpoints",
        "Service shop/x has 0 of 1 endpoints",
    ]


def test_a_pod_that_ran_before_its_node_started_has_not_been_told_of_since() -> None:
    early, late = "2026-01-02T03:04:04Z", "2026-01-02T03:04:05Z"
    assert told_before([SHOP, a_pod(early)], "n1", BEGAN) == ["shop/api"]
    assert told_before([SHOP, a_pod(late)], "n1", BEGAN) == told_before([SHOP, a_pod(None)], "n1", BEGAN) == []
    assert told_before([SHOP, a_pod(early, "n2"), a_pod(early, deletionTimestamp="now")], "n1", BEGAN) == []


def test_a_node_whose_lease_is_old_is_about_to_be_unknown() -> None:
    def lease(renewed: str, name: str = "n1", namespace: str = "kube-node-lease") -> dict[str, Any]:
        return {"kind": "Lease", "metadata": {"name": name, "namespace": namespace}, "spec": {"renewTime": renewed}}

    before = standing([NODE])
    everywhere = [an_object("Namespace", "kube-node-lease"), an_object("Namespace", "shop"), NODE]
    old, new = "2026-01-02T03:03:44.999999Z", "2026-01-02T03:03:50.000000Z"
    assert fallen(before, [*everywhere, lease(old)], BEGAN) == [f"Node n1 has renewed its lease {old}"]
    for each in (lease(new), lease(old, "n2"), lease(old, namespace="shop")):
        assert fallen(before, [*everywhere, each], BEGAN) == []
