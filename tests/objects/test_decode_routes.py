"""Routes: on which Servers they hang, and what Linkerd's admission refuses of them."""

import json
from typing import Any

import pytest

from agent.manifests.document import documents
from agent.objects.decode_routes import decode, group_of
from agent.objects.field import FaultError
from agent.objects.key import ObjectKey
from agent.objects.policy import GATEWAY_GROUP, POLICY_GROUP, Route

SERVER = {"group": POLICY_GROUP, "kind": "Server", "name": "api"}


def route(spec: Any, *, kind: str = "HTTPRoute", group: str = POLICY_GROUP, version: str = "v1beta3") -> Route | None:
    (document,) = documents(json.dumps({"apiVersion": f"{group}/{version}", "kind": kind, "spec": spec}).encode())
    return decode(ObjectKey(kind, "demo", "route"), document, group, version)


def refused(spec: Any, **more: str) -> str:
    with pytest.raises(FaultError) as caught:
        route(spec, **more)
    return caught.value.reason


def test_it_hangs_on_servers_of_its_own_namespace_each_once() -> None:
    parents = [
        SERVER,
        SERVER | {"namespace": "demo", "group": POLICY_GROUP.upper()},
        SERVER | {"name": "web"},
        SERVER | {"name": "far", "namespace": "shop"},
        {"name": "gateway"},
        {"group": "core", "kind": "Service", "name": "api"},
    ]
    found = route({"parentRefs": parents})
    assert found is not None
    assert found.servers == ("api", "web")


def test_other_kinds_and_groups_are_no_routes_of_ours() -> None:
    assert route({}, kind="TCPRoute") is None
    assert route({}, kind="GRPCRoute", group=POLICY_GROUP) is None
    assert "apiVersion policy.linkerd.io/v2 is not known for HTTPRoute; these are: v1beta3" in refused({}, version="v2")


def matching(**match: Any) -> dict[str, Any]:
    return {"rules": [{"matches": [match]}]}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (matching(path={"value": "a"}), "spec.rules[0].matches[0].path: path 'a' must begin with a slash"),
        (matching(path={"type": "Prefix", "value": "/"}), "path type 'Prefix' must be one of Exact, PathPrefix"),
        (matching(method="GE T"), "'GE T' is no HTTP method"),
        (matching(headers=[{"name": "a b", "value": "c"}]), "'a b' is no header name"),
        (matching(headers=[{"name": "a", "value": "c", "type": "PathPrefix"}]), "match type 'PathPrefix' must be"),
        (matching(queryParams=[{"name": "", "value": "c"}]), "'' is no header name"),
        ({"rules": [{"filters": [{}]}]}, "filters[0].type: a string is expected here, not nothing"),
        (
            {"parentRefs": [{"group": POLICY_GROUP, "kind": "EgressNetwork", "name": "all"}]},
            "a parentRef to an EgressNetwork needs a port",
        ),
    ],
)
def test_what_admission_refuses_is_refused_with_its_path(spec: dict[str, Any], reason: str) -> None:
    assert reason in refused(spec)


@pytest.mark.parametrize(
    "spec",
    [
        matching(path={"type": "RegularExpression", "value": "a.*"}),
        matching(queryParams=[{"name": "a b", "value": "c"}]),
        matching(method="PURGE", headers=[{"name": "X-A", "value": ""}]),
        {"rules": [{"backendRefs": [{"name": "api"}]}]},
    ],
)
def test_what_admission_takes_is_taken(spec: dict[str, Any]) -> None:
    assert route(spec) is not None


def test_the_gateway_apis_own_rules_are_for_its_own_kinds() -> None:
    gateway = {"group": GATEWAY_GROUP, "version": "v1"}
    assert "needs a port" in refused({"rules": [{"backendRefs": [{"name": "api"}]}]}, **gateway)
    assert route({"rules": [{"backendRefs": [{"kind": "Other", "name": "api"}]}]}, **gateway) is not None
    grpc = {"kind": "GRPCRoute", **gateway}
    assert "a method match needs a service or a method" in refused(matching(method={"type": "Exact"}), **grpc)
    assert route(matching(method={"method": "Get"}), **grpc) is not None


def test_the_core_group_is_the_empty_text() -> None:
    (document,) = documents(b'{"a": {"group": "Core"}, "b": {"group": ""}, "c": {"group": "Apps"}}')
    assert [group_of(document.get(name), GATEWAY_GROUP) for name in "abcd"] == ["", "", "apps", GATEWAY_GROUP]
