"""What each field of Kubernetes' objects means here: one table, which docs/fields.md repeats.

Nothing is dropped without a word: a field is honoured, or decides nothing about who reaches what, or is named by a
warning with file and line. `meanings` does the same for annotations.
"""

import difflib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct

from agent.objects.field import FaultError, Field


class Bearing(StrEnum):
    """What becomes of a field."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    """It bears on who reaches what, and nobody carries it out: said as a warning."""
    NONE = "no bearing"
    """It decides nothing about who reaches what, or what it decides is seen elsewhere."""


class What(Struct, frozen=True):
    """One field's bearing, and how it is honoured or why it is not; `said` is a value that is worth a warning."""

    bearing: Bearing
    why: str
    said: str = ""


Table = Mapping[str, What]
"""By path: names, dots, and `[]` for each element of a list. A field that holds others is known by these."""


def _fields(prefix: str, bearing: Bearing, why: str, names: str) -> dict[str, What]:
    return {f"{prefix}{name}": What(bearing, why) for name in names.split()}


def _honoured(prefix: str, **fields: str) -> dict[str, What]:
    return {prefix + name.replace("__", "."): What(Bearing.HONOURED, why) for name, why in fields.items()}


_HTTP = "every connection is relayed as the bytes that come"
_CLOUD = "it is for whoever makes the load balancer or gives addresses; what came of it is in clusterIPs and in status"
_DNS = "it is for names, and connections are known by their addresses"
_KUBELET = "it is the kubelet's and the scheduler's: what runs, where, and with what"
_REQUESTS = "checked, and without effect: it is about requests, and this version relays connections"

_SERVICE: Table = {
    **_honoured(
        "spec.",
        clusterIP="where the service is; None: nowhere, its pods are dialled themselves",
        clusterIPs="the same, for both families",
        externalIPs="more addresses of the service; a pod's address and a cluster IP stay what they are",
        internalTrafficPolicy="Local: by its cluster IPs only endpoints of the client's node, or nobody",
        loadBalancerSourceRanges="who reaches it by its load balancer's addresses, pods of the cluster too",
        publishNotReadyAddresses="pods that are not ready serve too",
        selector="which pods serve it, where no EndpointSlice says it",
        sessionAffinity="ClientIP: a pod goes on to the endpoint where it went before, whichever worker takes it",
        trafficDistribution="by the hints of slices; PreferSameNode without slices too",
        type="ExternalName: it has no address, and what its name leads to is dialled as it is",
    ),
    **_honoured("spec.sessionAffinityConfig.clientIP.", timeoutSeconds="since the pod's last connection; 10800"),
    **_honoured(
        "spec.ports[].",
        name="which port of the slices it is",
        nodePort="at every address of every node it is the service",
        port="the port of the service",
        protocol="TCP; all others pass as they are",
        targetPort="the endpoints' port, or its name in the pod; without it the service's own",
    ),
    **_honoured(
        "status.loadBalancer.ingress[].",
        ip="one more address of the service",
    ),
    "status.loadBalancer.ingress[].ipMode": What(
        Bearing.HONOURED,
        "Proxy: the load balancer changes what it hands on, so that it is dialled itself, in plaintext; VIP: it is not",
        said="Proxy",
    ),
    "status.loadBalancer.ingress[].hostname": What(
        Bearing.IGNORED,
        "whoever dials the load balancer by this name goes to it in plaintext: dial the service's own name",
    ),
    "spec.externalTrafficPolicy": What(
        Bearing.NONE,
        "as with kube-proxy, what a pod of the cluster sends to an address outside is subject to neither traffic "
        "policy: it reaches the endpoints of all nodes",
    ),
    **_fields("spec.ports[].", Bearing.NONE, _HTTP, "appProtocol"),
    **_fields("spec.", Bearing.NONE, _DNS, "externalName"),
    **_fields(
        "spec.",
        Bearing.NONE,
        _CLOUD,
        "allocateLoadBalancerNodePorts healthCheckNodePort ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP",
    ),
    **_fields("status.", Bearing.NONE, _CLOUD, "conditions loadBalancer.ingress[].ports"),
}

_TARGET = "which pod an address is of is known by the address"

_SLICE: Table = {
    **_honoured("", addressType="IPv4 and IPv6; FQDN: nobody is dialled by it"),
    **_honoured(
        "endpoints[].",
        addresses="who serves",
        nodeName="which are local to a node",
        conditions__ready="may get new connections; without it, yes",
        conditions__serving="and terminating: serves when no endpoint is ready; without it, as ready",
        conditions__terminating="gets no new connection as long as another is ready",
    ),
    **_honoured(
        "endpoints[].hints.",
        **{
            "forNodes[].name": "whose clients prefer it, if all ready ones say it",
            "forZones[].name": "the same by zone, if the zone of this node is known by its Node",
        },
    ),
    **_honoured("ports[].", name="which port of the service it is", port="its number", protocol="as of a service"),
    **_fields("endpoints[].", Bearing.NONE, _DNS, "hostname"),
    **_fields("endpoints[].", Bearing.NONE, _TARGET, "targetRef"),
    **_fields("endpoints[].", Bearing.NONE, "hints say who prefers it", "zone deprecatedTopology"),
    **_fields("ports[].", Bearing.NONE, _HTTP, "appProtocol"),
}

_ENDPOINTS: Table = {
    **_honoured(
        "subsets[].",
        **{
            "addresses[].ip": "who serves a service without a selector, unless slices repeat it (mirroring controller)",
            "addresses[].nodeName": "as of a slice",
            "notReadyAddresses[].ip": "who does not",
            "ports[].name": "as of a slice",
            "ports[].port": "as of a slice",
            "ports[].protocol": "as of a service",
        },
    ),
    **_fields("subsets[].notReadyAddresses[].", Bearing.NONE, "it does not serve", "nodeName hostname targetRef"),
    **_fields("subsets[].addresses[].", Bearing.NONE, _DNS, "hostname"),
    **_fields("subsets[].addresses[].", Bearing.NONE, _TARGET, "targetRef"),
    **_fields("subsets[].ports[].", Bearing.NONE, _HTTP, "appProtocol"),
}

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = ("httpGet", "tcpSocket", "grpc")


def _container(prefix: str) -> dict[str, What]:
    return {
        **_honoured(
            f"{prefix}.ports[].",
            containerPort="a port by number or by name; what is not declared is served all the same",
            hostIP="the node's address on which hostPort is",
            hostPort="at the node's addresses it is this pod",
            name="what Servers, services and probes call it",
            protocol="as of a service",
        ),
        **{
            f"{prefix}.{probe}": What(Bearing.HONOURED, "from the node's own addresses its port is reached")
            for probe in _PROBES
        },
        f"{prefix}.lifecycle": What(Bearing.HONOURED, "its hooks are the kubelet's, and count as probes"),
        **_fields(f"{prefix}.", Bearing.NONE, "`quietwire init check` names who could undo capture", "securityContext"),
        **_fields(
            f"{prefix}.",
            Bearing.NONE,
            _KUBELET,
            """
            args command env envFrom image imagePullPolicy name resizePolicy resources restartPolicyRules stdin
            stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir
            """,
        ),
    }


_POD: Table = {
    **_honoured(
        "",
        metadata__deletionTimestamp="the pod gets no new connection by its services, as long as another is ready",
    ),
    **_honoured(
        "spec.",
        hostNetwork="it is not meshed, and its addresses are the node's",
        nodeName="which agent enrols it, and for whom it is local",
        serviceAccountName="its identity; without it, default",
        serviceAccount="the former name of that, where it is not given",
    ),
    **_container("spec.containers[]"),
    **_container("spec.initContainers[]"),
    "spec.containers[].restartPolicy": What(Bearing.NONE, _KUBELET),
    "spec.initContainers[].restartPolicy": What(Bearing.HONOURED, "Always: its ports are the pod's (a sidecar)"),
    **_honoured(
        "status.",
        phase="Succeeded, Failed: the pod is not there",
        podIP="its address",
        podIPs="the same, for both families",
        hostIP="an address of its node: probes come from there, NodePorts and hostPorts are reached there",
        hostIPs="the same, for both families",
    ),
    "status.conditions": What(Bearing.HONOURED, "Ready: False: its services do not lead to it"),
    **_fields("spec.", Bearing.NONE, "it can declare no ports", "ephemeralContainers"),
    **_fields(
        "spec.",
        Bearing.NONE,
        _DNS,
        "dnsConfig dnsPolicy hostAliases hostname hostnameOverride setHostnameAsFQDN subdomain enableServiceLinks",
    ),
    **_fields(
        "spec.", Bearing.NONE, "`quietwire init check` names who could undo capture", "securityContext hostPID hostIPC"
    ),
    **_fields("spec.", Bearing.NONE, "they end in the condition Ready", "readinessGates"),
    **_fields(
        "spec.",
        Bearing.NONE,
        _KUBELET,
        """
        activeDeadlineSeconds affinity automountServiceAccountToken evictionResponders hostUsers imagePullSecrets
        nodeSelector os overhead preemptionPolicy priority priorityClassName resourceClaims resources restartPolicy
        runtimeClassName schedulerName schedulingGates schedulingGroup shareProcessNamespace
        terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes
        """,
    ),
}

_NODE: Table = {
    "metadata.labels.topology.kubernetes.io/zone": What(Bearing.HONOURED, "its zone, for the hints of slices"),
    **_honoured(
        "status.", **{"addresses[].address": "InternalIP, ExternalIP: NodePorts and hostPorts are reached there"}
    ),
    "status.addresses[].type": What(Bearing.HONOURED, "names are none"),
}

_PARENTS: Table = {
    **_honoured(
        "spec.parentRefs[].",
        group="on which Servers it hangs",
        kind="the same",
        name="the same",
        namespace="the same",
        port="an EgressNetwork needs it",
    ),
    **_fields("spec.parentRefs[].", Bearing.NONE, _REQUESTS, "sectionName"),
}
_COMMON_RULE = "name filters backendRefs timeouts retry sessionPersistence matches[].headers"

_HTTP_ROUTE: Table = {
    **_PARENTS,
    **_fields("spec.", Bearing.NONE, _REQUESTS, "hostnames useDefaultGateways"),
    **_fields(
        "spec.rules[].",
        Bearing.NONE,
        _REQUESTS,
        f"{_COMMON_RULE} matches[].method matches[].path.type matches[].path.value matches[].queryParams",
    ),
}
_GRPC_ROUTE: Table = {
    **_PARENTS,
    **_fields("spec.", Bearing.NONE, _REQUESTS, "hostnames useDefaultGateways"),
    **_fields(
        "spec.rules[].",
        Bearing.NONE,
        _REQUESTS,
        f"{_COMMON_RULE} matches[].method.type matches[].method.service matches[].method.method",
    ),
}

TABLES: dict[str, Table] = {
    "Service": _SERVICE,
    "EndpointSlice": _SLICE,
    "Endpoints": _ENDPOINTS,
    "Pod": _POD,
    "Node": _NODE,
    "HTTPRoute": _HTTP_ROUTE,
    "GRPCRoute": _GRPC_ROUTE,
}
"""By kind."""

_LOOKED_THROUGH: dict[str, tuple[str, ...]] = {
    "Service": ("spec", "status"),
    "EndpointSlice": ("endpoints", "ports"),
    "Endpoints": ("subsets",),
    "Pod": ("spec",),
    "HTTPRoute": ("spec",),
    "GRPCRoute": ("spec",),
}
"""Where in an object every field is known. The others are Kubernetes' own."""
_SLIPS_ONLY = ("Pod",)
"""Kinds that grow with every version of Kubernetes: an unknown field is said only where it is a slip of another."""

MAX_NAME = 64
"""Characters of a field's name that are looked at."""
SLIP = 0.8
"""How like a known name an unknown one must be to be taken for a slip of it (1: the same)."""


def remarks(kind: str, document: Field) -> Iterator[tuple[int, str]]:
    """What an object's fields ask for and do not get, and fields that nobody knows: lines and words.

    `kind` as in the object's key: a route's may have its group behind it.
    """
    kind = kind.partition(".")[0]
    for name in _LOOKED_THROUGH.get(kind, ()):
        try:
            found = document.get(name)
        except FaultError:
            continue  # which is said where it is read
        yield from _inside(kind, found, name)


def _inside(kind: str, field: Field, path: str) -> Iterator[tuple[int, str]]:
    """A field's own fields. Bounded by the depth of the tables, and by what a file may unfold into."""
    if isinstance(field.value, list):
        for each in field.value:
            yield from _inside(kind, each, f"{path}[]")
    elif isinstance(field.value, dict):
        for name, value in field.value.items():
            here = f"{path}.{name}"
            what = TABLES[kind].get(here)
            if what is None and here in _holding(kind):
                yield from _inside(kind, value, here)
            elif what is None:
                words = _unknown(kind, path, name[:MAX_NAME])
                if words:
                    yield value.line, words
            elif what.bearing is Bearing.IGNORED and value.value not in (None, "", [], {}):
                yield value.line, f"{value.path or here} is ignored: {what.why}"
            elif what.said and value.value == what.said:
                yield value.line, f"{value.path or here}: {what.why}"


@lru_cache(maxsize=16)
def _holding(kind: str) -> frozenset[str]:
    """Paths of fields that hold others which are known."""
    found = set()
    for path in TABLES[kind]:
        names = path.split(".")
        for at in range(1, len(names)):
            found.add(".".join(names[:at]).removesuffix("[]"))
    return frozenset(found)


@lru_cache(maxsize=1024)
def _unknown(kind: str, path: str, name: str) -> str:
    """What to say of an unknown field; empty where nothing is."""
    known = {
        each.removeprefix(f"{path}.").partition(".")[0].removesuffix("[]")
        for each, what in TABLES[kind].items()
        if each.startswith(f"{path}.") and (what.bearing is Bearing.HONOURED or kind not in _SLIPS_ONLY)
    }
    lower = {each.lower(): each for each in known}
    meant = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=SLIP)
    if not meant and kind in _SLIPS_ONLY:
        return ""
    nearest = f"; is {lower[meant[0]]} meant?" if meant else ""
    return f"{path}.{name} is not known, and is ignored{nearest}"
