"""What Linkerd's schemas and its admission webhook refuse is refused here, with file, line, field and reason.

The refused manifests are in `refused/*.yaml`; each document's first comment says which field its fault names, and,
behind the colon, some words of the reason. `# here` marks the line of the fault; where a field is missing none can be
marked, and any line of the object will do.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.files.directory import FilesSource, load
from agent.manifests.fault import Fault
from agent.objects.key import PodKey
from agent.objects.policy import DefaultPolicy, Route
from agent.outcome import Outcome
from agent.policy.authorize import authorize
from agent.policy.index import PolicyIndex, PolicySettings
from agent.policy.model import Denial, Permit, PodPort
from tests.policy.world import TRUST_DOMAIN, Manifest, World, client, manifest, read, text_of, verdict

REFUSED = Path(__file__).parent / "refused"
POD = manifest("Pod demo/api", {"metadata": {"labels": {"app": "api"}}, "status": {"podIP": "10.1.0.10"}})
SERVER = manifest("Server demo/s", {"podSelector": {"matchLabels": {"app": "api"}}, "port": 8080})
"""Sound objects, before and after which the refused ones stand."""


class Refused(Struct, frozen=True):
    """One document that is refused: `line` within it, from 1, or None where any will do."""

    kind: str
    number: int
    text: str
    line: int | None
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.field}: {self.reason}"


def refused_in(path: Path) -> list[Refused]:
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("---\n")):
        lines = text.splitlines()
        field, _, reason = lines[0].removeprefix("# ").partition(": ")
        marked = [index for index, line in enumerate(lines, 1) if line.endswith("# here")]
        found.append(Refused(path.stem, number, text, marked[0] if marked else None, field, reason))
    return found


ALL = [each for path in sorted(REFUSED.glob("*.yaml")) for each in refused_in(path)]


@pytest.mark.parametrize("refused", ALL, ids=str)
def test_a_refusal_names_file_line_and_field_and_the_rest_is_loaded(tmp_path: Path, refused: Refused) -> None:
    before, after = text_of([POD]), text_of([SERVER])
    (tmp_path / "policy.yaml").write_text(f"{before}---\n{refused.text}---\n{after}", encoding="utf-8")
    other = manifest("NetworkAuthentication demo/other", {"networks": [{"cidr": "192.0.2.0/24"}]})
    (tmp_path / "other.yaml").write_text(text_of([other]), encoding="utf-8")
    loaded = load([tmp_path])
    assert len(loaded.faults) == 1, loaded.faults
    (fault,) = loaded.faults
    first = len(before.splitlines()) + 1
    assert fault.origin.file == str(tmp_path / "policy.yaml")
    if refused.line is None:
        assert first < fault.origin.line <= first + len(refused.text.splitlines()), str(fault)
    else:
        assert fault.origin.line == first + refused.line, str(fault)
    assert fault.object == f"{refused.kind} demo/x"
    assert refused.field in fault.reason
    assert refused.reason in fault.reason
    assert not fault.last_good
    names = {(key.kind, key.name) for key in loaded.objects}
    assert {("Pod", "api"), ("Server", "s"), ("NetworkAuthentication", "other")} <= names


class Directory:
    """Manifests in a directory that is read again and again, as an agent does, with what is in force of them."""

    def __init__(self, path: Path, default: str = "all-unauthenticated") -> None:
        self.path = path
        self.pods = CatalogIndex(Catalog())
        self.policy = PolicyIndex(Catalog(), PolicySettings(TRUST_DOMAIN, DefaultPolicy(default)))
        self.faults: list[Fault] = []
        self._source = FilesSource(path, self._on_change)

    def _on_change(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        self.faults = list(faults)
        if change is not None:
            self.pods.apply(change)
            self.policy.apply(change)

    def put(self, name: str, *manifests: Manifest) -> None:
        (self.path / name).write_text(text_of(manifests), encoding="utf-8")
        self._source.load()

    def remove(self, name: str) -> None:
        (self.path / name).unlink()
        self._source.load()

    def answer(self, who: str, port: int = 8080) -> Permit | Denial:
        pod = self.pods.pod(PodKey("demo/api"))
        assert pod is not None
        return authorize(PodPort(pod.key, port), client(who), self.policy.permits(pod, port))

    def asked(self, who: str, port: int = 8080) -> str:
        return verdict(self.answer(who, port))


MESH = manifest(
    "MeshTLSAuthentication demo/a", {"identities": ["*.demo.serviceaccount.identity.linkerd.cluster.local"]}
)
NETWORK = manifest("NetworkAuthentication demo/n", {"networks": [{"cidr": "10.0.0.0/8"}]})
POLICY = manifest(
    "AuthorizationPolicy demo/p",
    {
        "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "s"},
        "requiredAuthenticationRefs": [
            {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "a"},
            {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "n"},
        ],
    },
)
AUTHORIZATION = manifest(
    "ServerAuthorization demo/z",
    {"server": {"name": "s"}, "client": {"meshTLS": {"serviceAccounts": [{"name": "cart"}]}}},
)
NAMESPACE = manifest(
    "Namespace demo", {"metadata": {"annotations": {"config.linkerd.io/default-inbound-policy": "deny"}}}
)
EVERYTHING = (NAMESPACE, POD, SERVER, MESH, NETWORK, POLICY, AUTHORIZATION)
QUESTIONS = [
    (who, port)
    for who in ("web.demo", "cart.demo@192.168.0.1", "cart.demo@192.0.2.1", "web.other", "plain", "tls")
    for port in (8080, 8081)
]


def changed(sound: Manifest, **spec: Any) -> Manifest:
    return {**sound, "spec": {**sound["spec"], **spec}}


BROKEN = [
    changed(SERVER, accessPolicy="open"),
    changed(SERVER, port=0),
    changed(SERVER, surplus=1),
    changed(MESH, identities=["a..b"]),
    changed(MESH, identityRefs=[]),
    changed(NETWORK, networks=[{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]),
    changed(NETWORK, networks=[]),
    changed(POLICY, targetRef={"kind": "Namespace", "name": "other"}),
    changed(POLICY, requiredAuthenticationRefs=[{"kind": "Pod", "name": "a"}]),
    changed(AUTHORIZATION, client={"unauthenticated": True, "meshTLS": {"identities": ["*"]}}),
    changed(AUTHORIZATION, server={}),
    {**NAMESPACE, "metadata": {"name": "demo", "annotations": {"config.linkerd.io/default-inbound-policy": "open"}}},
    {**POD, "metadata": {**POD["metadata"], "annotations": {"config.linkerd.io/default-inbound-policy": "open"}}},
]


def title(broken: Manifest) -> str:
    return f"{broken['kind']} {json.dumps(broken.get('spec') or broken['metadata'])}"


@pytest.mark.parametrize("broken", BROKEN, ids=title)
def test_the_last_good_version_stays_in_force_until_the_object_is_mended_or_gone(
    tmp_path: Path, broken: Manifest
) -> None:
    directory = Directory(tmp_path)
    kind, name = broken["kind"], broken["metadata"]["name"]
    (sound,) = (each for each in EVERYTHING if each["kind"] == kind)
    directory.put("rest.yaml", *(each for each in EVERYTHING if each is not sound))
    directory.put("this.yaml", sound)
    assert directory.faults == []
    before = [directory.asked(*question) for question in QUESTIONS]
    assert set(before) == {"allow", "deny"}

    directory.put("this.yaml", broken)
    (fault,) = directory.faults
    assert fault.last_good
    assert "last good version stays in force" in str(fault)
    assert f"{kind} " in fault.object
    assert name in fault.object
    assert [directory.asked(*question) for question in QUESTIONS] == before

    directory.put("this.yaml", sound)
    assert directory.faults == []
    assert [directory.asked(*question) for question in QUESTIONS] == before


@pytest.mark.parametrize("broken", BROKEN, ids=title)
def test_what_was_never_good_lets_nobody_in_who_would_not_be_let_in_by_the_sound_one(
    tmp_path: Path, broken: Manifest
) -> None:
    sound, first = Directory(tmp_path / "sound"), Directory(tmp_path / "broken")
    for directory in (sound, first):
        directory.path.mkdir()
    sound.put("all.yaml", *EVERYTHING)
    first.put("all.yaml", *(broken if each["kind"] == broken["kind"] else each for each in EVERYTHING))
    (fault,) = first.faults
    assert not fault.last_good
    for question in QUESTIONS:
        if sound.asked(*question) == "deny":
            assert first.asked(*question) == "deny", question


def test_a_broken_server_is_closed_where_no_server_would_mean_open(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.put("pods.yaml", POD)
    assert directory.asked("plain") == "allow"
    directory.put("this.yaml", changed(SERVER, accessPolicy="all-authenticatd"))
    assert [directory.asked(who) for who in ("plain", "web.demo")] == ["deny", "deny"]
    (fault,) = directory.faults
    assert fault.closed
    directory.put("this.yaml", changed(SERVER, accessPolicy="all-authenticated"))
    assert [directory.asked(who) for who in ("plain", "web.demo")] == ["deny", "allow"]
    directory.remove("this.yaml")
    assert directory.asked("plain") == "allow"


@pytest.mark.parametrize("where", ["Namespace demo", "Pod demo/api"])
def test_an_invalid_default_is_reported_and_is_not_a_silent_fall_back(tmp_path: Path, where: str) -> None:
    directory = Directory(tmp_path)
    directory.put("pods.yaml", POD)
    annotated = manifest(
        where, {"metadata": {"annotations": {"config.linkerd.io/default-inbound-policy": "allow-all"}}}
    )
    if where.startswith("Pod"):
        annotated["status"] = POD["status"]
        directory.remove("pods.yaml")
    directory.put("annotated.yaml", annotated)
    (fault,) = directory.faults
    assert "allow-all" in fault.reason
    assert "config.linkerd.io/default-inbound-policy" in fault.reason
    assert fault.origin.line > 1
    assert [directory.asked(who) for who in ("plain", "web.demo")] == ["deny", "deny"]


def test_an_invalid_cluster_network_or_default_of_the_agent_is_no_policy_at_all() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        DefaultPolicy("nonsense")
    with pytest.raises(ValueError, match="ten"):
        PolicyIndex(Catalog(), PolicySettings(TRUST_DOMAIN, DefaultPolicy.DENY, ("ten",))).permits(
            World(text_of([POD])).pod("demo/api"), 80
        )


@pytest.mark.parametrize(
    "spec",
    [
        ("MeshTLSAuthentication", {"identities": []}),
        ("MeshTLSAuthentication", {"identityRefs": []}),
        ("ServerAuthorization", {"server": {"name": "s"}, "client": {}}),
        ("ServerAuthorization", {"server": {"name": "s"}, "client": {"meshTLS": {}}}),
        ("ServerAuthorization", {"server": {"name": "s"}, "client": {"meshTLS": {"identities": []}}}),
        ("ServerAuthorization", {"server": {"name": "s"}, "client": {"meshTLS": {"unauthenticatedTLS": False}}}),
        ("ServerAuthorization", {"server": {"name": "s"}, "client": {"unauthenticated": False}}),
    ],
    ids=str,
)
def test_what_names_no_client_lets_nobody_in(tmp_path: Path, spec: tuple[str, dict[str, Any]]) -> None:
    kind, body = spec
    directory = Directory(tmp_path)
    name = "a" if kind == "MeshTLSAuthentication" else "z"
    directory.put("all.yaml", POD, SERVER, NETWORK, POLICY, manifest(f"{kind} demo/{name}", body))
    for who in ("plain", "tls", "web.demo", "cart.demo"):
        answer = directory.answer(who)
        assert isinstance(answer, Denial)
        assert answer.outcome is Outcome.POLICY_INCOMPLETE, "it says that this is about the policy, not the client"


def many(*texts: str, suffix: str = "yaml") -> dict[str, str]:
    return {f"{number}.{suffix}": text for number, text in enumerate(texts)}


SHAPES = {
    "one file per object": many(*(text_of([each]) for each in EVERYTHING)),
    "another suffix": many(*(text_of([each]) for each in EVERYTHING), suffix="yml"),
    "several documents": many(text_of(EVERYTHING)),
    "documents with empty ones between": many(
        "---\n---\n" + "\n---\n# nothing\n---\n".join(text_of([each]) for each in EVERYTHING) + "---\n"
    ),
    "a List": many(text_of([{"apiVersion": "v1", "kind": "List", "items": list(EVERYTHING)}])),
    "a List of Lists": many(
        text_of(
            [{"kind": "List", "items": [{"kind": "List", "items": list(EVERYTHING)}, {"kind": "List", "items": []}]}]
        )
    ),
    "a List of JSON": many(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": EVERYTHING}, indent=4), suffix="json"
    ),
    "JSON files": many(*map(json.dumps, EVERYTHING), suffix="json"),
    "JSON documents in YAML": many("\n---\n".join(map(json.dumps, EVERYTHING))),
    "typed lists": many(
        *(
            text_of([{"apiVersion": each["apiVersion"], "kind": f"{each['kind']}List", "items": [each]}])
            for each in EVERYTHING
        )
    ),
    "flow style": many(yaml.safe_dump_all(EVERYTHING, default_flow_style=True, explicit_start=True)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_file_means_the_same(tmp_path: Path, shape: str) -> None:
    for name, text in SHAPES[shape].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    loaded, plain = load([tmp_path]), read(text_of(EVERYTHING))
    assert loaded.faults == plain.faults == ()
    assert loaded.objects == plain.objects
    assert len(loaded.objects) == len(EVERYTHING)


def test_what_kubectl_adds_to_an_object_changes_nothing(tmp_path: Path) -> None:
    added = {
        "uid": "9a0e9a0e-0000-0000-0000-000000000000",
        "resourceVersion": "4711",
        "generation": 3,
        "creationTimestamp": "2024-01-01T00:00:00Z",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "labels": {"app.kubernetes.io/part-of": "shop"},
        "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}],
        "finalizers": ["example.test/keep"],
    }
    status = {"conditions": [{"type": "Accepted", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}
    policies = [each for each in EVERYTHING if each["kind"] not in {"Pod", "Namespace"}]
    exported = [{**each, "metadata": {**each["metadata"], **added}, "status": status} for each in policies]
    directory = Directory(tmp_path)
    directory.put("rest.yaml", NAMESPACE, POD)
    directory.put("policy.yaml", *policies)
    before = [directory.asked(*question) for question in QUESTIONS]
    directory.put("policy.yaml", *exported)
    assert directory.faults == []
    assert [directory.asked(*question) for question in QUESTIONS] == before


@pytest.mark.parametrize(
    "foreign",
    [
        {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "spec": {"action": "DENY"}},
        {"apiVersion": "example.test/v1", "kind": "Server", "spec": {"size": "large"}},
        {"apiVersion": "example.test/v1", "kind": "NetworkAuthentication"},
        {"apiVersion": "networking.istio.io/v1", "kind": "HTTPRoute", "spec": {"hosts": ["a"]}},
    ],
    ids=lambda each: str(each["kind"]),
)
@pytest.mark.parametrize("first", [True, False], ids=["before ours", "behind ours"])
def test_kinds_of_other_groups_are_none_of_ours_whatever_they_are_called(
    tmp_path: Path, foreign: dict[str, Any], first: bool
) -> None:
    names = {"AuthorizationPolicy": "p", "Server": "s", "NetworkAuthentication": "n", "HTTPRoute": "r"}
    theirs = {**foreign, "metadata": {"namespace": "demo", "name": names[foreign["kind"]]}}
    route = manifest(
        "HTTPRoute demo/r", {"parentRefs": [{"group": "policy.linkerd.io", "kind": "Server", "name": "s"}]}
    )
    directory = Directory(tmp_path)
    directory.put("b.yaml", *EVERYTHING, route)
    before = [directory.asked(*question) for question in QUESTIONS]
    directory.put("a.yaml" if first else "c.yaml", theirs)
    assert directory.faults == []
    assert [directory.asked(*question) for question in QUESTIONS] == before


def test_the_two_kinds_of_http_route_may_have_one_name() -> None:
    spec = {"parentRefs": [{"group": "policy.linkerd.io", "kind": "Server", "name": "s"}]}
    ours = manifest("HTTPRoute demo/r", spec)
    gateways = manifest("HTTPRoute@gateway.networking.k8s.io/v1 demo/r", spec)
    loaded = read(text_of([ours, gateways]))
    assert loaded.faults == ()
    assert len(loaded.objects) == 2


@pytest.mark.parametrize(
    "title_of",
    [
        *(f"Server@{version} demo/x" for version in ("v1alpha1", "v1beta1", "v1beta2", "v1beta3")),
        *(f"ServerAuthorization@{version} demo/x" for version in ("v1alpha1", "v1beta1")),
        "AuthorizationPolicy@v1alpha1 demo/x",
        "MeshTLSAuthentication@v1alpha1 demo/x",
        "NetworkAuthentication@v1alpha1 demo/x",
        *(f"HTTPRoute@v1{version} demo/x" for version in ("alpha1", "beta1", "beta2", "beta3")),
        *(f"HTTPRoute@gateway.networking.k8s.io/{version} demo/x" for version in ("v1beta1", "v1")),
        "GRPCRoute@gateway.networking.k8s.io/v1 demo/x",
        "EgressNetwork@v1alpha1 demo/x",
        "HTTPLocalRateLimitPolicy@v1alpha1 demo/x",
    ],
)
def test_every_version_that_linkerd_serves_is_accepted(title_of: str) -> None:
    parents: dict[str, Any] = {"parentRefs": [{"group": "policy.linkerd.io", "kind": "Server", "name": "s"}]}
    specs: dict[str, dict[str, Any]] = {
        "Server": {"podSelector": {"matchLabels": {"app": "api"}}, "port": "http"},
        "ServerAuthorization": AUTHORIZATION["spec"],
        "AuthorizationPolicy": POLICY["spec"],
        "MeshTLSAuthentication": MESH["spec"],
        "NetworkAuthentication": NETWORK["spec"],
        "HTTPRoute": parents,
        "GRPCRoute": parents,
        "EgressNetwork": {"trafficPolicy": "Allow"},
        "HTTPLocalRateLimitPolicy": {"targetRef": POLICY["spec"]["targetRef"], "total": {"requestsPerSecond": 1}},
    }
    made = manifest(title_of, specs[title_of.partition("@")[0]])
    loaded = read(text_of([made]))
    assert loaded.faults == ()
    assert len(loaded.objects) == 1


SOUND_MATCHES: dict[str, list[dict[str, Any]]] = {
    "HTTPRoute": [
        {},
        {"path": {"value": "/a"}},
        {"path": {"type": "PathPrefix"}},
        {"path": {"type": "Exact", "value": "/"}},
        {"path": {"type": "RegularExpression", "value": "a.*"}},
        {"method": "GET", "headers": [{"name": "x-a", "value": "1"}, {"name": "b", "type": "Exact", "value": ""}]},
        {"headers": [{"name": "x", "type": "RegularExpression", "value": ".*"}]},
        {"queryParams": [{"name": "a b", "value": "1"}]},
    ],
    "GRPCRoute": [
        {},
        {"method": {"service": "a.B"}},
        {"method": {"method": "C"}},
        {"method": {"type": "Exact", "service": "a.B", "method": "C"}},
        {"headers": [{"name": "x", "value": "1"}]},
    ],
}


@pytest.mark.parametrize(
    ("kind", "match"), [(kind, match) for kind, matches in SOUND_MATCHES.items() for match in matches]
)
def test_what_linkerd_takes_as_a_match_is_taken(kind: str, match: dict[str, Any]) -> None:
    backends = [{"name": "cart", "port": 80}, {"group": "example.test", "kind": "Other", "name": "x"}]
    rules = [{"matches": [match], "filters": [{"type": "RequestHeaderModifier"}], "backendRefs": backends}]
    parents = [{"group": "policy.linkerd.io", "kind": "Server", "name": "s"}, {"name": "a-gateway"}]
    group = "gateway.networking.k8s.io/v1"
    loaded = read(text_of([manifest(f"{kind}@{group} demo/r", {"parentRefs": parents, "rules": rules})]))
    assert loaded.faults == ()
    (route,) = loaded.objects.values()
    assert isinstance(route, Route)
    assert (route.servers, route.group) == (("s",), "gateway.networking.k8s.io")


@pytest.mark.parametrize("backend", [{"name": "cart"}, {"group": "core", "kind": "Service", "name": "cart"}])
def test_a_backend_of_the_gateway_apis_route_needs_a_port_where_it_is_a_service(backend: dict[str, Any]) -> None:
    rules = [{"backendRefs": [{"kind": "Other", "name": "x"}, backend]}]
    (fault,) = read(text_of([manifest("HTTPRoute@gateway.networking.k8s.io/v1 demo/r", {"rules": rules})])).faults
    assert fault.reason == "spec.rules[0].backendRefs[1]: a backendRef to a Service needs a port"
    assert read(text_of([manifest("HTTPRoute demo/r", {"rules": rules})])).faults == (), "Linkerd's own asks for none"


LABELLED = {**SERVER, "metadata": {**SERVER["metadata"], "labels": {"open": "yes"}}}
SELECTING = manifest(
    "ServerAuthorization demo/z",
    {"server": {"selector": {"matchLabels": {"open": "yes"}}}, "client": {"unauthenticated": True}},
)
NOWHERE = changed(NETWORK, networks=[{"cidr": "192.0.2.0/24"}])
OTHERS = changed(MESH, identities=["*.other.serviceaccount.identity.linkerd.cluster.local"])
RELABELLED = {**POD, "metadata": {**POD["metadata"], "labels": {"app": "other"}}}
AUDITED = {
    **NAMESPACE,
    "metadata": {"name": "demo", "annotations": {"config.linkerd.io/default-inbound-policy": "audit"}},
}
TO_NAMESPACE = changed(POLICY, targetRef={"kind": "Namespace", "name": "demo"})
ELSEWHERE = changed(SERVER, port=8081)
CHANGES = {
    "a Server's labels": ((POD, SELECTING), SERVER, LABELLED, "plain", "deny", "allow"),
    "a Server comes that an authorization selects": ((POD, SELECTING), NAMESPACE, LABELLED, "plain", "deny", "allow"),
    "a Server's port": ((POD, POLICY, MESH, NETWORK), SERVER, ELSEWHERE, "plain", "deny", "allow"),
    "a Server's access policy": ((POD,), SERVER, changed(SERVER, accessPolicy="audit"), "plain", "deny", "audit"),
    "identities": ((POD, SERVER, POLICY, NETWORK), MESH, OTHERS, "web.demo", "allow", "deny"),
    "networks": ((POD, SERVER, POLICY, MESH), NETWORK, NOWHERE, "web.demo", "allow", "deny"),
    "identities come": ((POD, SERVER, POLICY, NETWORK), NAMESPACE, MESH, "web.demo", "deny", "allow"),
    "networks come": ((POD, SERVER, POLICY, MESH), NAMESPACE, NETWORK, "web.demo", "deny", "allow"),
    "identities go": ((POD, SERVER, POLICY, NETWORK), MESH, NAMESPACE, "web.demo", "allow", "deny"),
    "a policy comes": ((POD, SERVER, MESH, NETWORK), NAMESPACE, POLICY, "web.demo", "deny", "allow"),
    "a policy goes": ((POD, SERVER, MESH, NETWORK), POLICY, NAMESPACE, "web.demo", "allow", "deny"),
    "a policy's target": (
        (POD, LABELLED, MESH, NETWORK),
        changed(POLICY, targetRef={**POLICY["spec"]["targetRef"], "name": "t"}),
        TO_NAMESPACE,
        "web.demo",
        "deny",
        "allow",
    ),
    "an authorization's clients": (
        (POD, SERVER),
        AUTHORIZATION,
        changed(AUTHORIZATION, client={"unauthenticated": True}),
        "plain",
        "deny",
        "allow",
    ),
    "a pod's labels": ((SERVER,), POD, RELABELLED, "plain", "deny", "allow"),
    "a namespace's default": ((POD,), NAMESPACE, AUDITED, "plain", "deny", "audit"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_one_object_is_in_force_at_once_and_so_is_its_taking_back(tmp_path: Path, what: str) -> None:
    rest, before, after, who, first, then = CHANGES[what]
    directory = Directory(tmp_path)
    directory.put("rest.yaml", *rest)
    for this, expected in ((before, first), (after, then), (before, first)):
        directory.put("this.yaml", this)
        assert directory.faults == []
        assert directory.asked(who) == expected


# what nobody knows is refused, wherever it stands: it may have been meant to keep somebody out

_REF = {"group": "policy.linkerd.io", "kind": "Server", "name": "s"}
WHOLE = [
    manifest(
        "Server demo/s",
        {
            "podSelector": {
                "matchLabels": {"app": "api"},
                "matchExpressions": [{"key": "app", "operator": "In", "values": ["api"]}],
            },
            "port": 8080,
            "proxyProtocol": "opaque",
            "accessPolicy": "deny",
        },
    ),
    manifest(
        "ServerAuthorization demo/z",
        {
            "server": {"selector": {"matchLabels": {"open": "yes"}}},
            "client": {
                "networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}],
                "meshTLS": {"serviceAccounts": [{"name": "web", "namespace": "demo"}]},
            },
        },
    ),
    POLICY,
    manifest("MeshTLSAuthentication demo/a", {"identityRefs": [{"kind": "ServiceAccount", "name": "web"}]}),
    manifest("NetworkAuthentication demo/n", {"networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}),
    manifest("EgressNetwork demo/e", {"trafficPolicy": "Deny", "networks": [{"cidr": "0.0.0.0/0"}]}),
    manifest(
        "HTTPLocalRateLimitPolicy demo/l",
        {
            "targetRef": {**_REF, "namespace": "demo"},
            "total": {"requestsPerSecond": 10},
            "identity": {"requestsPerSecond": 5},
            "overrides": [
                {
                    "requestsPerSecond": 10,
                    "clientRefs": [{"group": "core", "kind": "ServiceAccount", "name": "web", "namespace": "demo"}],
                }
            ],
        },
    ),
]
FREE = ("metadata", "matchLabels")
"""Mappings whose keys are anybody's."""


def places(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every mapping in which a field that nobody knows could stand."""
    if isinstance(tree, list):
        return [each for at, inside in enumerate(tree) for each in places(inside, (*path, at))]
    if not isinstance(tree, dict):
        return []
    return [
        path,
        *(each for name, inside in tree.items() if name not in FREE for each in places(inside, (*path, name))),
    ]


@pytest.mark.parametrize(
    ("sound", "path"),
    [pytest.param(each, path, id=f"{each['kind']} {path}") for each in WHOLE for path in places(each)],
)
def test_a_field_that_nobody_knows_is_refused_wherever_it_stands(sound: Manifest, path: tuple[str | int, ...]) -> None:
    assert read(text_of([sound])).faults == ()
    odd = copy.deepcopy(sound)
    here: Any = odd
    for step in path:
        here = here[step]
    here["unheardOf"] = "10.2.0.0/16"
    loaded = read(text_of([odd]))
    (fault,) = loaded.faults
    assert "unheardOf" in fault.reason
    assert fault.object.endswith(sound["metadata"]["name"])
    assert fault.closed is (sound["kind"] == "Server")
    if sound["kind"] == "Server":
        assert (
            verdict(World(text_of([POD, odd]), default="all-unauthenticated").answer(client("plain"), "demo/api", 8080))
            == "deny"
        )
    else:
        assert loaded.objects == {}, "what authorizes and cannot be read authorizes nobody"


@pytest.mark.parametrize("slip", ["label", "lables", "Labels", "annotation", "Annotations"])
@pytest.mark.parametrize("kind", ["Pod demo/api", "Namespace demo", "Server demo/s"])
def test_a_slip_of_labels_or_annotations_is_refused_and_closes(slip: str, kind: str) -> None:
    spec = {"podSelector": {}, "port": 8080, "accessPolicy": "all-unauthenticated"} if kind.startswith("Server") else {}
    objects: dict[str, Any] = {"Pod demo/api": {"metadata": {}}}
    objects[kind] = {"metadata": {slip: {"app": "api"}, "finalizers": ["x"]}, "spec": spec}
    world = World(text_of(manifest(title, body) for title, body in objects.items()), default="all-unauthenticated")
    (fault,) = world.faults
    assert fault.closed
    assert f"unknown field {slip!r}" in fault.reason
    assert verdict(world.answer(client("plain"), "demo/api", 8080)) == "deny"


def test_the_former_name_of_a_pods_service_account_is_taken_for_it() -> None:
    accounts = {}
    for name, spec in {
        "former": {"serviceAccount": "web"},
        "both": {"serviceAccountName": "new", "serviceAccount": "web"},
        "empty": {"serviceAccountName": "", "serviceAccount": "web"},
        "none": {"serviceAccountName": ""},
    }.items():
        accounts[name] = World(text_of([manifest(f"Pod demo/{name}", {"spec": spec})])).pod(f"demo/{name}")
    found = {name: pod.service_account for name, pod in accounts.items()}
    assert found == {"former": "web", "both": "new", "empty": "web", "none": "default"}


def odd_server(**fields: Any) -> Manifest:
    spec = {"podSelector": {"matchLabels": {"app": "api"}}, "port": 8080, "proxyProtocol": "XX", **fields}
    metadata = {"name": "s", "namespace": "demo", "labels": {"open": "yes"}}
    return {**SERVER, "metadata": metadata, "spec": {name: value for name, value in spec.items() if value is not None}}


@pytest.mark.parametrize(
    ("odd", "closed", "server"),
    [
        (odd_server(), {8080}, "Server demo/s"),
        (odd_server(podSelector={"matchLabels": {"app": "other"}}), set[int](), ""),
        (odd_server(podSelector=None, externalWorkloadSelector={}), set[int](), ""),
        (odd_server(port="none"), set[int](), ""),
        (odd_server(port=0), {8080, 8081}, "Server demo/s"),
        (odd_server(podSelector=None), {8080, 8081}, "Server demo/s"),
        (odd_server(podSelector={"matchLabel": {"app": "api"}}), {8080, 8081}, "Server demo/s"),
    ],
)
def test_a_server_with_a_fault_closes_what_it_may_be_about_and_nothing_else(
    odd: Manifest, closed: set[int], server: str
) -> None:
    world = World(text_of([POD, odd]), default="all-unauthenticated")
    (fault,) = world.faults
    assert fault.object == "Server demo/s"
    for port in (8080, 8081):
        answer = world.answer(client("plain"), "demo/api", port)
        assert verdict(answer) == ("deny" if port in closed else "allow"), port
        assert answer.decided_by == (server if port in closed else "default:all-unauthenticated")


def test_what_authorizes_for_a_server_with_a_fault_still_does() -> None:
    world = World(text_of([POD, odd_server(), SELECTING]), default="deny")
    assert verdict(world.answer(client("plain"), "demo/api", 8080)) == "allow"
    assert verdict(world.answer(client("plain"), "demo/api", 8081)) == "deny"
