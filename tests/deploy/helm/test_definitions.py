"""Schemas agree with the decoders: the same versions, and at every place exactly the same fields."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from agent.catalog.sources.kubernetes import kinds, reading
from agent.kubernetes.kind import Kind
from agent.objects import decode_policy, decode_routes
from agent.objects.policy import POLICY_GROUP
from deploy.helm import definitions

SERVER = {"group": POLICY_GROUP, "kind": "Server", "name": "s"}
ACCOUNT = {"kind": "ServiceAccount", "name": "a"}
SELECTOR = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
NETWORK = {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}
RATE = {"requestsPerSecond": 1}
SOUND: dict[str, list[dict[str, Any]]] = {
    "Server": [
        {"podSelector": SELECTOR, "port": "http", "proxyProtocol": "HTTP/2", "accessPolicy": "audit"},
        {"externalWorkloadSelector": SELECTOR, "port": 80},
    ],
    "ServerAuthorization": [
        {
            "server": {"name": "s"},
            "client": {
                "networks": [NETWORK],
                "meshTLS": {"identities": ["*"], "serviceAccounts": [{"name": "a", "namespace": "b"}]},
            },
        },
        {"server": {"selector": SELECTOR}, "client": {"unauthenticated": True}},
        {"server": {"selector": SELECTOR}, "client": {"meshTLS": {"unauthenticatedTLS": True}}},
    ],
    "AuthorizationPolicy": [
        {"targetRef": {**SERVER, "namespace": "demo", "sectionName": "x"}, "requiredAuthenticationRefs": [ACCOUNT]}
    ],
    "MeshTLSAuthentication": [{"identities": ["*"]}, {"identityRefs": [{**ACCOUNT, "namespace": "b"}]}],
    "NetworkAuthentication": [{"networks": [NETWORK]}],
    "EgressNetwork": [{"trafficPolicy": "Allow", "networks": [NETWORK]}],
    "HTTPLocalRateLimitPolicy": [
        {
            "targetRef": SERVER,
            "total": RATE,
            "identity": RATE,
            "overrides": [{**RATE, "clientRefs": [ACCOUNT]}],
        }
    ],
    "HTTPRoute": [{"parentRefs": [{**SERVER, "port": 80}], "hostnames": ["a"], "rules": [{}]}],
}
"""Specs that the decoders admit; together they have every place that a schema has."""

Path = tuple[str | int, ...]


def fault(kind: str, spec: object) -> str:
    """What the decoder says of an object with a spec; empty where it admits it."""
    version = definitions.versions(kind)[0]
    raw = msgspec.json.encode({"metadata": {"name": "x", "namespace": "demo"}, "spec": spec})
    return reading.read(Kind(POLICY_GROUP, version, "x", kind), raw).fault


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every mapping in a spec, but of labels."""
    if isinstance(value, Mapping) and path[-1:] != ("matchLabels",):
        yield path
        for name, each in value.items():
            yield from places(each, (*path, name))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from places(each, (*path, at))


def with_field(value: Any, path: Path, name: str) -> Any:
    """A copy, with one more field in the mapping at a path."""
    if not path:
        return {**value, name: "?"}
    copied = list(value) if isinstance(value, list) else dict(value)
    copied[path[0]] = with_field(value[path[0]], path[1:], name)  # type: ignore[index] # as in `places`
    return copied


def schema_at(kind: str, path: Path) -> dict[str, Any]:
    found = definitions.spec(kind, definitions.versions(kind)[0])
    for each in path:
        found = found["items"] if isinstance(each, int) else found["properties"][each]
    return found


def test_kinds_and_versions_are_those_that_the_decoders_know() -> None:
    routes = {kind for kind, group in decode_routes.VERSIONS if group == POLICY_GROUP}
    assert definitions.KINDS.keys() == decode_policy.KINDS.keys() | routes == SOUND.keys()
    for kind in definitions.KINDS:
        served = definitions.definition(kind)["spec"]["versions"]
        assert [each["name"] for each in served] == list(definitions.versions(kind))
        assert [each["storage"] for each in served] == [True] + [False] * (len(served) - 1)


def test_agents_follow_each_kind_in_the_version_in_which_it_is_stored() -> None:
    ours = [each for each in kinds.POLICIES if each.kind.group == POLICY_GROUP]
    for followed in ours:
        named = definitions.KINDS[followed.kind.kind]
        assert followed.kind.plural == named.plural
        assert followed.kind.version == definitions.versions(followed.kind.kind)[0]


CHECKED = [
    (kind, spec, place)
    for kind, specs in SOUND.items()
    if kind in decode_policy.KINDS
    for spec in specs
    for place in places(spec)
]


@pytest.mark.parametrize(("kind", "spec"), [(kind, spec) for kind, specs in SOUND.items() for spec in specs])
def test_what_the_test_begins_with_is_sound(kind: str, spec: object) -> None:
    assert fault(kind, spec) == ""


@pytest.mark.parametrize(("kind", "spec", "place"), CHECKED)
def test_a_schema_names_the_fields_that_the_decoder_knows_there(kind: str, spec: object, place: Path) -> None:
    said = fault(kind, with_field(spec, place, "slip"))
    assert "unknown field 'slip'; known here: " in said
    assert set(schema_at(kind, place)["properties"]) == set(re.split(", ", said.partition("known here: ")[2]))


@pytest.mark.parametrize(("kind", "spec", "place"), CHECKED)
def test_a_slip_is_kept_for_the_decoder_to_refuse_and_not_pruned(kind: str, spec: object, place: Path) -> None:
    assert schema_at(kind, place)["x-kubernetes-preserve-unknown-fields"] is True


def test_every_place_of_the_schemas_is_tried() -> None:
    def known(schema: dict[str, Any], path: Path) -> Iterator[Path]:
        if schema.get("properties"):
            yield path
            for name, each in schema["properties"].items():
                yield from known(each, (*path, name))
        if "items" in schema:
            yield from known(schema["items"], (*path, 0))

    for kind in decode_policy.KINDS:
        tried = {tuple(0 if isinstance(at, int) else at for at in place) for k, _, place in CHECKED if k == kind}
        assert set(known(definitions.spec(kind, definitions.versions(kind)[0]), ())) == tried, kind
