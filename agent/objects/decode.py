"""From one document to one object, in the shapes that kubectl prints: pods, services, policy."""

import re
from collections.abc import Callable

import msgspec
from msgspec import Struct

from agent.objects import annotations, decode_policy, meanings
from agent.objects.decode_services import (
    RawService,
    RawSlice,
    address,
    decode_endpoints,
    decode_service,
    decode_slice,
    is_tcp,
    optional_port,
)
from agent.objects.field import FaultError, Field, readable
from agent.objects.key import ObjectKey
from agent.objects.model import LINKERDS_PROXY, ContainerPort, MeshSettings, Node, Pod
from agent.objects.policy import GATEWAY_GROUP, POLICY_GROUP, DefaultPolicy, PolicyObject

ZONE_LABEL = "topology.kubernetes.io/zone"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
_FINISHED = ("Succeeded", "Failed")
MAX_NAME = 253
_GROUPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Pod", "Namespace", "Node", "Service", "Endpoints"), ("",)),
    "EndpointSlice": ("discovery.k8s.io",),
    "HTTPRoute": (POLICY_GROUP, GATEWAY_GROUP),
    "GRPCRoute": (GATEWAY_GROUP,),
    **dict.fromkeys(decode_policy.KINDS, (POLICY_GROUP,)),
}
"""The API groups of each kind that means something here; another group's kind of that name is another thing."""
_CORE = ("Pod", "Namespace", "Node", "Service", "Endpoints", "EndpointSlice")
"""Kinds whose apiVersion may be left out."""
_CLUSTER_WIDE = ("Namespace", "Node")

CLOSED = MeshSettings(default_policy=DefaultPolicy.DENY.value, egress_mode=annotations.MESHED_ONLY)
"""What holds for a pod whose annotations cannot be read: it is meshed, and nobody is let in or, unmeshed, out."""
_CLOSED_ANNOTATIONS = {
    annotations.DEFAULT_POLICY: DefaultPolicy.DENY.value,
    annotations.REQUIRE_IDENTITY: "1-65535",
    annotations.EGRESS_MODE: annotations.MESHED_ONLY,
    annotations.SKIP_INBOUND: "",
    annotations.SKIP_OUTBOUND: "",
    annotations.SKIP_SUBNETS: "",
}
"""The same, as the annotations of a pod or of a namespace: nothing that the other one says makes it wider."""


class RawPod(Struct, frozen=True, tag=True):
    """A pod before its namespace's annotations are inherited. One that is `terminating` has been deleted."""

    pod: Pod
    own: dict[str, str]
    ready: bool
    terminating: bool = False


class RawNamespace(Struct, frozen=True, tag=True):
    """A namespace's annotations, and whether Linkerd's injector is told to leave it alone."""

    name: str
    annotations: dict[str, str]
    left_by_linkerd: bool = False


RawObject = RawPod | RawNamespace | Node | RawService | RawSlice | PolicyObject


def concerns_mesh(document: Field) -> bool:
    """Whether a document is of a kind that means something to a mesh, or was surely meant to be.

    Raises FaultError where it has no usable kind.
    """
    kind = document.get("kind")
    if not isinstance(kind.value, str):
        raise FaultError(kind, "the document has no kind: is it a Kubernetes manifest?")
    if not _KIND.fullmatch(kind.value):
        raise FaultError(kind, f"{kind.value[:80]!r} is no kind")
    version = document.get("apiVersion").value
    group = version.rpartition("/")[0] if isinstance(version, str) else ""
    if kind.value not in _GROUPS:
        return group == POLICY_GROUP
    # Knative has Services, and games have Servers. A group without a dot, or one like Linkerd's, is a slip.
    return group in _GROUPS[kind.value] or "." not in group or "linkerd" in group.lower()


def may_forbid(document: Field) -> bool:
    """Whether a document that cannot be read could make anything less open than it is without it."""
    kind = document.get("kind").value if isinstance(document.value, dict) else None
    return not isinstance(kind, str) or kind in {"Server", "Namespace"} or kind not in _GROUPS


def key_of(document: Field) -> ObjectKey:
    """What a document of a usable kind is about. Raises FaultError where its name is none."""
    kind = document.get("kind").text()
    metadata = document.get("metadata")
    name = metadata.get("name")
    text = name.text(default="")
    if not text or len(text) > MAX_NAME or not _DNS_SUBDOMAIN.fullmatch(text):
        raise FaultError(name, f"metadata.name {text[:MAX_NAME]!r} is no DNS name (RFC 1123)")
    namespace = metadata.get("namespace")
    space = "" if kind in _CLUSTER_WIDE else namespace.text(default="") or "default"
    if space and not _DNS_LABEL.fullmatch(space):
        raise FaultError(namespace, f"metadata.namespace {space[:MAX_NAME]!r} is no DNS label (RFC 1123)")
    version = document.get("apiVersion").value
    routed = kind == "HTTPRoute" and isinstance(version, str) and version.startswith(f"{GATEWAY_GROUP}/")
    return ObjectKey(f"{kind}.{GATEWAY_GROUP}" if routed else kind, space, text)


def decode(key: ObjectKey, document: Field) -> RawObject | None:
    """The object; None for kinds that mean nothing to a mesh, and for pods that have finished.

    Raises FaultError, with the line, for what cannot be used.
    """
    kind, version = key.kind.partition(".")[0], document.get("apiVersion")
    if kind in _GROUPS and kind not in decode_policy.KINDS and not (version.value is None and kind in _CORE):
        groups = _GROUPS[kind]
        if version.text(default="").rpartition("/")[0] not in groups:
            known = " or ".join(group or "the core group" for group in groups)
            raise FaultError(version, f"{version.value!r} is not known for {kind}, which is of {known}")
    decoder = _DECODERS.get(key.kind)
    return decode_policy.decode(key, document) if decoder is None else decoder(key, document)


def _pod(key: ObjectKey, document: Field) -> RawPod | None:
    status, spec = document.get("status"), document.get("spec")
    if status.get("phase").value in _FINISHED:
        return None
    account = spec.get("serviceAccountName")
    if account.value in {None, ""}:
        account = spec.get("serviceAccount")  # its former name, which Kubernetes takes for it as well
    service_account = account.text(default="default") or "default"
    if len(service_account) > MAX_NAME or not _DNS_SUBDOMAIN.fullmatch(service_account):
        raise FaultError(account, f"service account {service_account[:MAX_NAME]!r} is no DNS name (RFC 1123)")
    netns = document.get("metadata", "annotations", annotations.NETNS)
    bare = Pod(
        namespace=key.namespace,
        name=key.name,
        service_account=service_account,
        node=spec.get("nodeName").text(default=""),
        ips=_addresses(status, "podIPs", "podIP"),
        netns=None if netns.value is None else netns.text(),
        host_network=spec.get("hostNetwork").flag(default=False),
        is_linkerds=_is_linkerds(spec),
    )
    try:
        return _whole_pod(bare, document)
    except FaultError as fault:
        raise fault.with_stand_in(_closed_pod(bare, document)) from fault


def _whole_pod(bare: Pod, document: Field) -> RawPod:
    status, spec, metadata = document.get("status"), document.get("spec"), document.get("metadata")
    status.get("phase").text(default="")
    decode_policy.check_metadata(metadata)
    fields = metadata.get("annotations").mapping()
    meanings.check(fields)
    own = {name: field.text() for name, field in fields.items()}
    ports = _container_ports(spec)
    pod = msgspec.structs.replace(
        bare,
        uid=metadata.get("uid").text(default=""),
        labels=metadata.get("labels").texts(),
        annotations=own,
        container_ports=ports,
        probe_ports=_probe_ports(spec),
        host_ips=_addresses(status, "hostIPs", "hostIP"),
        settings=annotations.settings(fields, {}, ports, host_network=bare.host_network, is_linkerds=bare.is_linkerds),
    )
    return RawPod(pod, own, _is_ready(status), _is_terminating(metadata))


def _closed_pod(bare: Pod, document: Field) -> RawPod:
    """A pod with a fault, where one can tell which pod it is: with what can be read, and closed."""
    status, spec, metadata = document.get("status"), document.get("spec"), document.get("metadata")
    asked = _asked(metadata)
    asks = not bare.host_network and annotations.DISABLED not in asked.values()
    pod = msgspec.structs.replace(
        bare,
        uid=readable(lambda: metadata.get("uid").text(default=""), ""),
        labels=readable(lambda: metadata.get("labels").texts(), dict[str, str]()),
        container_ports=readable(lambda: _container_ports(spec), tuple[ContainerPort, ...]()),
        settings=msgspec.structs.replace(
            CLOSED, injected=asks and not bare.is_linkerds, left_to_linkerd=asks and bare.is_linkerds
        ),
    )
    own = {**_CLOSED_ANNOTATIONS, **asked}
    return RawPod(pod, own, readable(lambda: _is_ready(status), False), _is_terminating(metadata))


def _asked(metadata: Field) -> dict[str, str]:
    """What an object with a fault says of being meshed, as an annotation; whatever cannot be understood: that it is."""
    value = readable(lambda: metadata.get("annotations", annotations.INJECT).value, object())
    if value is None:
        return {}
    return {annotations.INJECT: annotations.DISABLED if value == annotations.DISABLED else annotations.ENABLED}


def _container_ports(spec: Field) -> tuple[ContainerPort, ...]:
    return tuple(
        ContainerPort(
            port.get("name").text(default=""),
            port.get("containerPort").port(),
            optional_port(port.get("hostPort")),
            _host_ip(port.get("hostIP")),
        )
        for container in (*spec.get("containers").items(), *_sidecars(spec))
        for port in container.get("ports").items()
        if is_tcp(port)
    )


def _host_ip(field: Field) -> str:
    """Empty for every address of the node, which is the default."""
    found = "" if field.value in {None, ""} else address(field)
    return "" if found in {"0.0.0.0", "::"} else found


def _is_terminating(metadata: Field) -> bool:
    return metadata.get("deletionTimestamp").value is not None


def _is_ready(status: Field) -> bool:
    return all(
        condition.get("status").text() != "False"
        for condition in status.get("conditions").items()
        if condition.get("type").text() == "Ready"
    )


def _is_linkerds(spec: Field) -> bool:
    """Whether Linkerd's proxy is among the containers; where they cannot be read the pod is ours, and closed."""
    return readable(
        lambda: any(
            each.get("name").value == LINKERDS_PROXY
            for each in (*spec.get("containers").items(), *spec.get("initContainers").items())
        ),
        False,
    )


def _sidecars(spec: Field) -> list[Field]:
    """Init containers that stay: what they listen on is the pod's for its whole life."""
    return [each for each in spec.get("initContainers").items() if each.get("restartPolicy").value == "Always"]


_ASKED_BY_KUBELET = (
    ("livenessProbe",),
    ("readinessProbe",),
    ("startupProbe",),
    ("lifecycle", "postStart"),
    ("lifecycle", "preStop"),
)


def _probe_ports(spec: Field) -> tuple[int, ...]:
    """Ports of this pod that the kubelet dials, for probes and for `lifecycle` hooks; init containers' too."""
    found: set[int] = set()
    for container in (*spec.get("containers").items(), *spec.get("initContainers").items()):
        named = {
            port.get("name").text(default=""): port.get("containerPort").port()
            for port in container.get("ports").items()
        }
        for asked in _ASKED_BY_KUBELET:
            for how in ("httpGet", "tcpSocket", "grpc"):
                handler = container.get(*asked, how)
                port = handler.get("port")
                if port.value is None or handler.get("host").value is not None:  # a host: dialled, but not this pod
                    continue
                number = named.get(port.value) if isinstance(port.value, str) else port.port()
                if number is not None:
                    found.add(number)
    return tuple(sorted(found))


def _addresses(status: Field, several: str, one: str) -> tuple[str, ...]:
    found = [address(entry.get("ip")) for entry in status.get(several).items()]
    single = status.get(one)
    if single.value is not None and (first := address(single)) not in found:
        found.insert(0, first)
    return tuple(found)


def _node(key: ObjectKey, document: Field) -> Node:
    """A node's zone, and the addresses at which NodePorts and hostPorts are reached."""
    return Node(
        key.name,
        document.get("metadata", "labels").texts().get(ZONE_LABEL, ""),
        tuple(
            dict.fromkeys(
                address(entry.get("address"))
                for entry in document.get("status", "addresses").items()
                if entry.get("type").text() in {"InternalIP", "ExternalIP"}
            )
        ),
    )


def _namespace(key: ObjectKey, document: Field) -> RawNamespace:
    metadata = document.get("metadata")
    # Labels that cannot be read leave it to Linkerd, where that is there: who is captured twice is reached by nobody.
    left = readable(lambda: metadata.get("labels", annotations.LEFT_BY_LINKERD).value, None) == annotations.DISABLED
    try:
        decode_policy.check_metadata(metadata)
        fields = metadata.get("annotations").mapping()
        annotations.check(fields)
        meanings.check(fields)
        return RawNamespace(key.name, {name: field.text() for name, field in fields.items()}, left)
    except FaultError as fault:
        raise fault.with_stand_in(RawNamespace(key.name, {**_CLOSED_ANNOTATIONS, **_asked(metadata)}, left)) from fault


_DECODERS: dict[str, Callable[[ObjectKey, Field], RawObject | None]] = {
    "Pod": _pod,
    "Namespace": _namespace,
    "Node": _node,
    "Service": decode_service,
    "EndpointSlice": decode_slice,
    "Endpoints": decode_endpoints,
}
