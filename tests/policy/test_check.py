"""What is legal and surely not meant, finding by finding; `authz check` is where it is shown with file and line."""

from typing import Any

import pytest

from agent.policy.check import findings
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
