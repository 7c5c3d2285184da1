"""What is legal and surely not meant, finding by finding; `authz check` is where it is shown with file and line."""

from typing import Any

import msgspec
import pytest

from agent.objects.model import ContainerPort, MeshSettings, Pod
from agent.objects.policy import (
    AccountRef,
    AuthorizationPolicy,
    BrokenServer,
    HttpLayer,
    LabelSelector,
    MeshTLSAuthentication,
    NetworkAuthentication,
    PolicyObject,
    Ref,
    Route,
    Server,
    ServerAuthorization,
    Target,
    TargetKind,
)
from agent.policy.check import alone, declared, findings, probed
from tests.policy.world import Manifest, catalog_of, manifest, read, text_of

POD = manifest("Pod demo/api", {"metadata": {"labels": {"app": "api"}}})
OTHER = manifest("Pod demo/other", {"metadata": {"labels": {"app": "other"}}})
TO_NAMESPACE = manifest(
    "AuthorizationPolicy demo/p",
    {
        "targetRef": {"kind": "Namespace", "name": "demo"},
        "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "web"}],
    },
)


def server(name: str, port: int | str = 80, **labels: str) -> Manifest:
    return manifest(f"Server demo/{name}", {"podSelector": {"matchLabels": labels}, "port": port})


def found(*manifests: Manifest) -> list[str]:
    loaded = read(text_of(manifests))
    assert loaded.faults == ()
    catalog = catalog_of(loaded)
    return [str(each) for each in findings(catalog.pods, catalog.policies)]


def test_a_policy_for_a_namespace_needs_a_server_there_and_no_more() -> None:
    odd = "AuthorizationPolicy demo/p: it targets its namespace, which has no Server: it lets nobody in anywhere"
    assert found(POD, TO_NAMESPACE) == [odd]
    assert found(POD, TO_NAMESPACE, server("s", app="api")) == []


def test_a_server_that_selects_none_is_named_behind_one_for_external_workloads_too() -> None:
    external = manifest("Server demo/a", {"externalWorkloadSelector": {}, "port": 80})
    assert found(POD, OTHER, external, server("b", app="gone"), server("c", "http")) == [
        "Server demo/b: it selects no pod of its namespace",
        "Server demo/c: none of the pods that it selects has a port called 'http'",
    ]
    assert found(POD, OTHER, server("every", 80), server("each", 81)) == []


def test_the_empty_list_of_references_is_said_to_be_open() -> None:
    spec = {**TO_NAMESPACE["spec"], "requiredAuthenticationRefs": []}
    (said,) = found(POD, server("s", app="api"), manifest("AuthorizationPolicy demo/p", spec))
    assert said.endswith(": its requiredAuthenticationRefs are empty: it lets everyone in, plaintext clients too")


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (
            [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.0.0/16"]}],
            ["except 10.1.0.0/16 of 10.0.0.0/8 changes nothing: except 10.1.0.0/16 covers it"],
        ),
        (
            [{"cidr": "10.0.0.0/8", "except": ["10.1.2.0/24", "10.1.0.0/16", "10.1.3.0/24"]}],
            [
                "except 10.1.2.0/24 of 10.0.0.0/8 changes nothing: except 10.1.0.0/16 covers it",
                "except 10.1.3.0/24 of 10.0.0.0/8 changes nothing: except 10.1.0.0/16 covers it",
            ],
        ),
        (
            [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}, {"cidr": "10.0.0.0/14"}],
            [
                "except 10.1.0.0/16 of 10.0.0.0/8 changes nothing: 10.0.0.0/14 lets it in again",
                "except 10.2.0.0/16 of 10.0.0.0/8 changes nothing: 10.0.0.0/14 lets it in again",
            ],
        ),
        ([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "fd00::/8"}], []),
    ],
)
def test_an_exception_that_changes_nothing_is_named_each_once(networks: list[Any], expected: list[str]) -> None:
    named = found(manifest("NetworkAuthentication demo/n", {"networks": networks}))
    assert named == [f"NetworkAuthentication demo/n: {each}" for each in expected]


# ports of probes, and of the agent


def pod(name: str, *probes: int, namespace: str = "demo", label: str = "api", ports: tuple[int, ...] = ()) -> Pod:
    declares = tuple(ContainerPort("http" if port == 8080 else "", port) for port in ports)
    labels = {"app": label}
    return Pod(namespace, name, name, "node-a", (), labels=labels, container_ports=declares, probe_ports=probes)


SELECTED = LabelSelector((("app", "api"),))


def test_a_server_on_a_probes_port_is_named_with_the_pods_that_it_is_about() -> None:
    numbered, by_name = Server("demo", "api", 80, SELECTED), Server("demo", "named", "http", SELECTED)
    beside, external = Server("demo", "beside", 81, SELECTED), Server("demo", "external", 80, None)
    elsewhere = Server("shop", "api", 80, LabelSelector())
    pods = [pod(f"api-{number}", 80, 8080, ports=(8080,)) for number in range(5)]
    others = [pod("web", 80, label="web"), pod("silent"), pod("far", 80, namespace="far")]
    no_server = NetworkAuthentication("demo", "n", ())
    found = probed([*pods, *others], [numbered, by_name, beside, external, elsewhere, no_server])
    assert [(str(each.object), each.message.partition(" is a probe's port too")[0]) for each in found] == [
        ("Server demo/api", "port 80 of demo/api-0, demo/api-1, demo/api-2 and 2 more"),
        ("Server demo/named", "port 8080 of demo/api-0, demo/api-1, demo/api-2 and 2 more"),
    ]
    (said,) = probed(pods[:3], [numbered])
    assert said.message.startswith("port 80 of demo/api-0, demo/api-1, demo/api-2 is a probe's port too: from the node")


def test_a_pod_that_declares_a_port_of_the_agents_own_is_named_for_each() -> None:
    both, one, neither = pod("both", ports=(4143, 4140, 80)), pod("a", ports=(4140,)), pod("b", ports=(80, 8080))
    outside = msgspec.structs.replace(pod("c", ports=(4140,)), settings=MeshSettings(injected=False))
    found = declared([both, one, neither, outside], (4140, 4143))
    assert [(str(each.object), each.message.partition(",")[0]) for each in found] == [
        ("Pod demo/a", "it declares port 4140"),
        ("Pod demo/both", "it declares port 4140"),
        ("Pod demo/both", "it declares port 4143"),
    ]


# what hangs on something that is not there, names nobody, or is not enforced


API = Server("demo", "api", 80, SELECTED, labels={"tier": "front"})
GROUP = "policy.linkerd.io"
WHOEVER = Ref("ServiceAccount", "demo", "web")


def authorizing(**more: Any) -> ServerAuthorization:
    return ServerAuthorization("demo", "a", **{"server": "api", "selector": None, "unauthenticated": True} | more)


def policy_for(kind: TargetKind, name: str, group: str = GROUP, **more: Any) -> AuthorizationPolicy:
    return AuthorizationPolicy("demo", "p", Target(kind, group, name), **{"mesh": WHOEVER} | more)


def dangling(what: str, to: str = "demo/gone") -> str:
    return f"it {what} Server {to}, which does not exist"


NOT_ENFORCED = "it is not enforced by this version: it bears on requests, not on connections"
BY_SELECTOR = LabelSelector((("tier", "front"),))
ROUTE = Route("demo", "r", TargetKind.HTTP_ROUTE, GROUP, ("api",))


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (API, []),
        (BrokenServer("demo", "broken"), []),
        (authorizing(), []),
        (authorizing(server="gone"), [dangling("authorizes for")]),
        (msgspec.structs.replace(authorizing(), namespace="shop"), [dangling("authorizes for", "shop/api")]),
        (authorizing(server=None, selector=BY_SELECTOR), []),
        (
            authorizing(server=None, selector=LabelSelector((("tier", "back"),))),
            ["its selector selects no Server of its namespace"],
        ),
        (authorizing(unauthenticated=False), ["its client names nobody, so that it lets nobody in"]),
        (authorizing(unauthenticated=False, unauthenticated_tls=True), []),
        (authorizing(unauthenticated=False, identities=("*",)), []),
        (authorizing(unauthenticated=False, accounts=(AccountRef("demo", "web"),)), []),
        (MeshTLSAuthentication("demo", "m"), ["it names nobody, so that what refers to it lets nobody in"]),
        (MeshTLSAuthentication("demo", "m", identities=("*",)), []),
        (MeshTLSAuthentication("demo", "m", accounts=(AccountRef("demo", "web"),)), []),
        (MeshTLSAuthentication("demo", "m", namespaces=("demo",)), []),
        (ROUTE, []),
        (msgspec.structs.replace(ROUTE, servers=("gone", "api")), [dangling("hangs on")]),
        (msgspec.structs.replace(ROUTE, namespace="shop"), [dangling("hangs on", "shop/api")]),
        (HttpLayer("demo", "egress", "EgressNetwork"), [NOT_ENFORCED]),
        (HttpLayer("demo", "rate", "HTTPLocalRateLimitPolicy", "api"), [NOT_ENFORCED]),
        (HttpLayer("demo", "rate", "HTTPLocalRateLimitPolicy", "gone"), [NOT_ENFORCED, dangling("hangs on")]),
        (policy_for(TargetKind.SERVER, "api"), []),
        (policy_for(TargetKind.SERVER, "gone"), [dangling("targets")]),
        (policy_for(TargetKind.NAMESPACE, "demo", ""), []),
        (policy_for(TargetKind.HTTP_ROUTE, "gone"), ["it targets HTTPRoute demo/gone, which does not exist"]),
        (policy_for(TargetKind.GRPC_ROUTE, "r"), ["it targets GRPCRoute demo/r, which does not exist"]),
        (policy_for(TargetKind.HTTP_ROUTE, "r", "other"), ["it targets HTTPRoute demo/r, which does not exist"]),
        (
            policy_for(TargetKind.SERVER, "api", mesh=Ref("MeshTLSAuthentication", "demo", "m")),
            ["it refers to MeshTLSAuthentication demo/m, which does not exist, so that it lets nobody in"],
        ),
        (
            policy_for(TargetKind.SERVER, "api", network=Ref("NetworkAuthentication", "far", "n")),
            ["it refers to NetworkAuthentication far/n, which does not exist, so that it lets nobody in"],
        ),
    ],
    ids=lambda value: str(value.key) if hasattr(value, "key") else f"{len(value)} findings",
)
def test_each_object_that_lets_in_nobody_or_more_than_it_seems_is_named_with_what_is_odd(
    odd: PolicyObject, expected: list[str]
) -> None:
    there = {each.key: each for each in (API, msgspec.structs.replace(API, name="gone", namespace="far"), ROUTE, odd)}
    found = [each.message for each in findings((), there.values()) if each.object == odd.key]
    assert found == sorted(expected)


def test_a_policy_for_a_route_that_is_there_is_said_not_to_be_enforced() -> None:
    policy = policy_for(TargetKind.HTTP_ROUTE, "r")
    assert [each.message for each in findings((), (API, ROUTE, policy))] == [
        "it targets HTTPRoute r, and routes are not enforced yet: it lets nobody in"
    ]


def test_a_policy_whose_references_are_there_is_not_odd() -> None:
    mesh, network = MeshTLSAuthentication("demo", "m", ("*",)), NetworkAuthentication("demo", "n", ())
    mine = policy_for(
        TargetKind.SERVER,
        "api",
        mesh=Ref("MeshTLSAuthentication", "demo", "m"),
        network=Ref("NetworkAuthentication", "demo", "n"),
    )
    assert findings((), (API, mesh, network, mine)) == ()


def test_what_is_odd_about_an_object_alone_is_said_without_what_else_there_is() -> None:
    """A webhook knows the one object that is to be stored: what it hangs on may follow."""
    mesh, lost = MeshTLSAuthentication("demo", "m"), policy_for(TargetKind.SERVER, "gone", mesh=None)
    assert [str(each) for each in alone(mesh)] == [
        "MeshTLSAuthentication demo/m: it names nobody, so that what refers to it lets nobody in"
    ]
    (said,) = alone(lost)
    assert (said.object, said.message.partition(":")[0]) == (lost.key, "its requiredAuthenticationRefs are empty")
    assert alone(API) == alone(ROUTE) == alone(authorizing(server="gone")) == ()
    assert [str(each) for each in alone(HttpLayer("demo", "egress", "EgressNetwork"))] == [
        f"EgressNetwork demo/egress: {NOT_ENFORCED}"
    ]


def test_of_two_servers_on_one_port_the_one_without_effect_is_named_with_the_pods() -> None:
    older = msgspec.structs.replace(API, created=1.0)
    younger = msgspec.structs.replace(API, name="late", created=2.0)
    pods = [pod(f"api-{number}") for number in range(4)]
    (said,) = findings(pods, (younger, older))
    assert str(said) == (
        "Server demo/late: it is without effect on port 80 of demo/api-0, demo/api-1, demo/api-2 and 1 more: "
        "Server api selects it too, and is older or first by name"
    )


def test_a_server_in_a_namespace_without_pods_selects_none_where_there_are_pods_elsewhere() -> None:
    (said,) = findings([pod("far", namespace="far")], (API,))
    assert str(said) == "Server demo/api: it selects no pod of its namespace"
    assert findings([], (API,)) == (), "without a single pod nothing is said"
