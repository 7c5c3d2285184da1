"""Every field of Kubernetes' objects is honoured, named, or of no bearing; table, code and document agree on it."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from agent.catalog.join import Assembly
from agent.catalog.snapshot import CatalogChange
from agent.objects.fields import TABLES, Bearing
from tests.catalog.services import MINE, Manifest, endpoint, endpoint_slice, endpoints, node, pod, service
from tests.policy.world import manifest, read, text_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "fields.md"

API: dict[str, str] = {
    "Service spec": """
        allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy
        healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP
        loadBalancerSourceRanges ports publishNotReadyAddresses selector sessionAffinity sessionAffinityConfig
        trafficDistribution type
        """,
    "Service spec.sessionAffinityConfig": "clientIP",
    "Service spec.sessionAffinityConfig.clientIP": "timeoutSeconds",
    "Service spec.ports[]": "appProtocol name nodePort port protocol targetPort",
    "Service status": "conditions loadBalancer",
    "Service status.loadBalancer": "ingress",
    "Service status.loadBalancer.ingress[]": "hostname ip ipMode ports",
    "EndpointSlice ": "addressType endpoints ports",
    "EndpointSlice endpoints[]": "addresses conditions deprecatedTopology hints hostname nodeName targetRef zone",
    "EndpointSlice endpoints[].conditions": "ready serving terminating",
    "EndpointSlice endpoints[].hints": "forNodes forZones",
    "EndpointSlice endpoints[].hints.forNodes[]": "name",
    "EndpointSlice endpoints[].hints.forZones[]": "name",
    "EndpointSlice ports[]": "appProtocol name port protocol",
    "Endpoints ": "subsets",
    "Endpoints subsets[]": "addresses notReadyAddresses ports",
    "Endpoints subsets[].addresses[]": "hostname ip nodeName targetRef",
    "Endpoints subsets[].notReadyAddresses[]": "hostname ip nodeName targetRef",
    "Endpoints subsets[].ports[]": "appProtocol name port protocol",
    "Pod spec": """
        activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks
        ephemeralContainers evictionResponders hostAliases hostIPC hostNetwork hostPID hostUsers hostname
        hostnameOverride imagePullSecrets initContainers nodeName nodeSelector os overhead preemptionPolicy priority
        priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName schedulerName
        schedulingGates schedulingGroup securityContext serviceAccount serviceAccountName setHostnameAsFQDN
        shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes
        """,
    **dict.fromkeys(
        ("Pod spec.containers[]", "Pod spec.initContainers[]"),
        """
        args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy
        resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath
        terminationMessagePolicy tty volumeDevices volumeMounts workingDir
        """,
    ),
    **dict.fromkeys(
        ("Pod spec.containers[].ports[]", "Pod spec.initContainers[].ports[]"),
        "containerPort hostIP hostPort name protocol",
    ),
    "Node status.addresses[]": "address type",
}
"""The fields of Kubernetes' API, of release 1.37, by kind and path."""


def has(kind: str, path: str) -> bool:
    """Whether the table knows a field, itself or by those that it holds."""
    return any(re.match(rf"{re.escape(path)}(\[\])*(\.|$)", each) for each in TABLES[kind])


@pytest.mark.parametrize(("kind", "path"), [tuple(each.split(" ", 1)) for each in API])
def test_the_table_has_every_field_of_the_api_and_no_other(kind: str, path: str) -> None:
    stem = f"{path}." if path else ""
    names = API[f"{kind} {path}"].split()
    assert [name for name in names if not has(kind, f"{stem}{name}")] == []
    known = {re.split(r"[.\[]", each.removeprefix(stem))[0] for each in TABLES[kind] if each.startswith(stem)}
    assert known - {"metadata", "status"} <= set(names)


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """Verdict and words by kind and field, from the document's tables."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    kind = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            kind = line.split()[1]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and kind in TABLES:
            for path in re.findall(r"`([^`]+)`", cells[0]):
                assert (kind, path) not in found, f"{kind} {path} is there twice"
                found[kind, path] = (cells[1], cells[2])
    return found


def test_the_document_says_of_every_field_what_the_table_says() -> None:
    assert documented() == {
        (kind, path): (str(what.bearing), what.why) for kind, table in TABLES.items() for path, what in table.items()
    }


# -- each that is honoured changes something, and no other does --

SLICED = endpoint_slice(endpoint("192.0.2.1", nodeName=MINE), endpoint("192.0.2.2", ready=False))
BALANCED = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
CONTAINER = {"name": "c", "ports": [{"containerPort": 1}, {"containerPort": 80, "name": "http"}]}
SIDECAR = {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 2}]}
SERVED = service(selector={"app": "web"}, sessionAffinity="ClientIP", status=BALANCED)
POD = pod("a", "192.0.2.9", containers=[CONTAINER], initContainers=[SIDECAR])
SLICE_LESS = service(selector={})
TEXT = "something"

BASES: dict[str, list[Manifest]] = {
    "Service": [SERVED, POD, pod("b", "192.0.2.8", ready=False)],
    "EndpointSlice": [SLICED, SERVED],
    "Endpoints": [endpoints("192.0.2.1", notReadyAddresses=[{"ip": "192.0.2.2"}]), SLICE_LESS],
    "Pod": [POD, SERVED],
    "Node": [node(MINE, "203.0.113.1")],
}
"""By kind: an object with what a field needs to mean something, and others about it."""

CHANGES: dict[str, Any] = {
    "Service spec.clusterIP": "10.96.0.2",
    "Service spec.clusterIPs": ["10.96.0.1", "fd96::1"],
    "Service spec.externalIPs": ["198.51.100.2"],
    "Service spec.internalTrafficPolicy": "Local",
    "Service spec.loadBalancerSourceRanges": ["10.0.0.0/8"],
    "Service spec.publishNotReadyAddresses": True,
    "Service spec.selector": {"app": "other"},
    "Service spec.sessionAffinity": "None",
    "Service spec.sessionAffinityConfig.clientIP.timeoutSeconds": 5,
    "Service spec.trafficDistribution": "PreferSameNode",
    "Service spec.type": "ExternalName",
    "Service spec.ports[].name": "http",
    "Service spec.ports[].nodePort": 30080,
    "Service spec.ports[].port": 81,
    "Service spec.ports[].protocol": "UDP",
    "Service spec.ports[].targetPort": 8080,
    "Service status.loadBalancer.ingress[].ip": "198.51.100.3",
    "Service status.loadBalancer.ingress[].ipMode": "Proxy",
    "EndpointSlice addressType": "FQDN",
    "EndpointSlice endpoints[].addresses": ["192.0.2.7"],
    "EndpointSlice endpoints[].nodeName": "node-b",
    "EndpointSlice endpoints[].conditions.ready": False,
    "EndpointSlice endpoints[].conditions.terminating": True,
    "EndpointSlice endpoints[].hints.forNodes[].name": "node-b",
    "EndpointSlice endpoints[].hints.forZones[].name": "east",
    "EndpointSlice ports[].name": "http",
    "EndpointSlice ports[].port": 81,
    "EndpointSlice ports[].protocol": "UDP",
    "Endpoints subsets[].addresses[].ip": "192.0.2.7",
    "Endpoints subsets[].addresses[].nodeName": "node-b",
    "Endpoints subsets[].ports[].name": "http",
    "Endpoints subsets[].ports[].port": 81,
    "Endpoints subsets[].ports[].protocol": "UDP",
    "Pod metadata.deletionTimestamp": "2026-01-01T00:00:00Z",
    "Pod spec.hostNetwork": True,
    "Pod spec.nodeName": "node-b",
    "Pod spec.serviceAccountName": "web",
    "Pod spec.serviceAccount": "web",
    "Pod spec.initContainers[].restartPolicy": "OnFailure",
    "Pod status.phase": "Succeeded",
    "Pod status.podIP": "192.0.2.7",
    "Pod status.podIPs": [{"ip": "192.0.2.7"}],
    "Pod status.hostIP": "203.0.113.1",
    "Pod status.hostIPs": [{"ip": "203.0.113.1"}],
    "Pod status.conditions": [{"type": "Ready", "status": "False"}],
    "Node metadata.labels.topology.kubernetes.io/zone": "east",
    "Node status.addresses[].address": "203.0.113.2",
    "Node status.addresses[].type": "Hostname",
}
"""A value for each field that is honoured, and alone makes a difference to its base. Others are in `TOGETHER`."""
for _container in ("containers", "initContainers"):
    CHANGES |= {
        f"Pod spec.{_container}[].ports[].containerPort": 82,
        f"Pod spec.{_container}[].ports[].hostPort": 82,
        f"Pod spec.{_container}[].ports[].hostIP": "203.0.113.1",
        f"Pod spec.{_container}[].ports[].name": "web",
        f"Pod spec.{_container}[].ports[].protocol": "UDP",
    }
    for _probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        CHANGES[f"Pod spec.{_container}[].{_probe}"] = {"tcpSocket": {"port": 83}}
    CHANGES[f"Pod spec.{_container}[].lifecycle"] = {"preStop": {"httpGet": {"port": 84}}}

LEAVING = {"ready": False, "terminating": True}
TOGETHER: dict[str, tuple[Any, Any, str]] = {
    "EndpointSlice endpoints[].conditions.serving": (LEAVING, LEAVING | {"serving": True}, "endpoints[].conditions"),
    "Endpoints subsets[].notReadyAddresses[].ip": (
        [{"ip": "192.0.2.1"}], [{"ip": "192.0.2.7"}], "subsets[].addresses",
    ),
}  # fmt: skip
"""Fields that mean something beside another only: two values of what holds them."""


def put(there: Manifest, path: str, value: Any) -> Manifest:
    """The same with a value at a path; what is on the way is made."""
    changed = copy.deepcopy(there)
    here: Any = changed
    # A label's name has dots of its own.
    steps = re.findall(r"topology\.kubernetes\.io/zone|\w+(?:\[\])?", path)
    for at, step in enumerate(steps):
        name, last = step.removesuffix("[]"), at == len(steps) - 1
        if last:
            here[name] = value
        elif step.endswith("[]"):
            if not here.get(name):
                here[name] = [{}]
            here = here[name][0]
        else:
            if here.get(name) is None:
                here[name] = {}
            here = here[name]
    return changed


def catalog(*manifests: Manifest) -> CatalogChange | None:
    loaded = read(text_of(manifests))
    assert loaded.faults == ()
    return Assembly().apply(loaded.objects)


HONOURED = [
    f"{kind} {path}"
    for kind, table in TABLES.items()
    for path, what in table.items()
    if what.bearing is Bearing.HONOURED and kind in BASES
]


@pytest.mark.parametrize("field", HONOURED)
def test_a_field_that_is_honoured_makes_a_difference(field: str) -> None:
    kind, _, path = field.partition(" ")
    base, *others = BASES[kind]
    if field in TOGETHER:
        one, other, where = TOGETHER[field]
        assert catalog(put(base, where, one), *others) != catalog(put(base, where, other), *others)
    else:
        assert catalog(put(base, path, CHANGES[field]), *others) != catalog(base, *others)


UNHEARD = [
    f"{kind} {path}"
    for kind, table in TABLES.items()
    for path, what in table.items()
    if what.bearing is not Bearing.HONOURED and kind in BASES
]


@pytest.mark.parametrize("field", UNHEARD)
def test_any_other_field_makes_none(field: str) -> None:
    kind, _, path = field.partition(" ")
    base, *others = BASES[kind]
    assert catalog(put(base, path, TEXT), *others) == catalog(base, *others)


# -- what is said --


def said(*manifests: Manifest) -> list[str]:
    loaded = read(text_of(manifests))
    assert loaded.faults == ()
    return [each.message for each in loaded.remarks]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("Service status.loadBalancer.ingress[].hostname", "lb.example.test", "is ignored: whoever dials"),
        ("Service status.loadBalancer.ingress[].ipMode", "Proxy", "is dialled itself, in plaintext"),
        ("Service spec.internalTraficPolicy", "Local", "is not known, and is ignored; is internalTrafficPolicy meant?"),
        ("Service spec.ports[].targetport", 1, "is targetPort meant?"),
        ("Service spec.somethingNew", 1, "spec.somethingNew is not known, and is ignored"),
        ("EndpointSlice endpoints[].conditions.redy", False, "is ready meant?"),
        ("Endpoints subsets[].adresses", [], "is addresses meant?"),
        ("Pod spec.serviceAcountName", "web", "is serviceAccountName meant?"),
        ("Pod spec.containers[].ports[].hostport", 80, "is hostPort meant?"),
    ],
)
def test_what_nobody_carries_out_is_said(field: str, value: Any, words: str) -> None:
    kind, _, path = field.partition(" ")
    (found,) = said(put(BASES[kind][0], path, value))
    assert words in found


def test_nothing_is_said_of_what_is_honoured_and_of_fields_of_a_later_kubernetes_on_pods() -> None:
    for kind, (base, *_) in BASES.items():
        assert said(base) == [], kind
    assert said(put(POD, "spec.containers[].somethingNew", 1)) == []
    assert said(put(POD, "spec.volumes", [{"hostpath": {}}])) == []


@pytest.mark.parametrize("kind", ["HTTPRoute", "HTTPRoute@gateway.networking.k8s.io/v1", "GRPCRoute"])
def test_unknown_fields_of_routes_are_said(kind: str) -> None:
    spec = {
        "parentRefs": [{"name": "s", "kind": "Server", "group": "policy.linkerd.io", "sectionname": "a"}],
        "hostname": ["a"],
        "rules": [{"matches": [{"header": []}], "backendRefs": [{"name": "a", "port": 80}], "filter": []}],
    }
    found = said(manifest(f"{kind} demo/r", spec))
    assert sorted(each.rpartition("; is ")[2] for each in found) == [
        "filters meant?",
        "headers meant?",
        "hostnames meant?",
        "sectionName meant?",
    ]


def test_a_route_that_uses_everything_says_nothing() -> None:
    match = {"path": {"type": "Exact", "value": "/"}, "method": "GET", "headers": [], "queryParams": []}
    rule = {"name": "a", "matches": [match], "filters": [], "backendRefs": [], "timeouts": {}, "retry": {}}
    parent = {"name": "a", "namespace": "demo", "group": "g", "kind": "Gateway", "sectionName": "s", "port": 80}
    spec = {"parentRefs": [parent], "hostnames": [], "rules": [rule]}
    assert said(manifest("HTTPRoute@gateway.networking.k8s.io/v1 demo/r", spec)) == []
    calls = {"method": {"type": "Exact", "service": "a", "method": "b"}, "headers": []}
    assert said(manifest("GRPCRoute demo/r", {"parentRefs": [parent], "rules": [rule | {"matches": [calls]}]})) == []
