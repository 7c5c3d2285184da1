"""What is legal and surely not meant, finding by finding; `authz check` is where it is shown with file and line."""

from typing import Any

import msgspec
import pytest

from agent.objects.model import ContainerPort, MeshSettings, Pod
from agent.objects.policy import LabelSelector, NetworkAuthentication, Server
from agent.policy.check import declared, findings, probed
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
