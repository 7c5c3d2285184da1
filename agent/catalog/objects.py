"""From one document to one object, in the shapes that kubectl prints: pods, services, policy."""

import ipaddress
import re
from collections.abc import Callable

import msgspec
from msgspec import Struct

from agent.catalog import annotations
from agent.catalog.document import Field
from agent.catalog.fault import FaultError
from agent.catalog.key import ObjectKey
from agent.catalog.model import ContainerPort, Endpoint, MeshSettings, Pod
from agent.policy import manifests
from agent.policy.model import DefaultPolicy
from agent.policy.objects import GATEWAY_GROUP, POLICY_GROUP, PolicyObject

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
_FINISHED = ("Succeeded", "Failed")
MAX_NAME = 253
_GROUPS = {"Pod": "", "Namespace": "", "Service": "", "EndpointSlice": "discovery.k8s.io"} | dict.fromkeys(
    manifests.KINDS, POLICY_GROUP
)
"""The API group of each kind that means something here; another group's kind of that name is another thing."""

CLOSED = MeshSettings(default_policy=DefaultPolicy.DENY.value, egress_mode=annotations.MESHED_ONLY)
"""What holds for a pod whose annotations cannot be read: it is meshed, and nobody is let in or, unmeshed, out."""
_CLOSED_ANNOTATIONS = {
    annotations.DEFAULT_POLICY: DefaultPolicy.DENY.value,
    annotations.EGRESS_MODE: annotations.MESHED_ONLY,
}


class RawPod(Struct, frozen=True, tag=True):
    """A pod before its namespace's annotations are inherited."""

    pod: Pod
    own: dict[str, str]
    ready: bool


class RawNamespace(Struct, frozen=True, tag=True):
    """A namespace's annotations."""

    name: str
    annotations: dict[str, str]


class RawServicePort(Struct, frozen=True):
    """A service's port; `target` is a number or a container port's name."""

    name: str
    port: int
    target: int | str


class RawService(Struct, frozen=True, tag=True):
    """A service before endpoints are joined to it."""

    namespace: str
    name: str
    cluster_ips: tuple[str, ...]
    ports: tuple[RawServicePort, ...]
    selector: dict[str, str]


class RawSlice(Struct, frozen=True, tag=True):
    """An endpoint slice: (port name, port) and the addresses that are ready."""

    namespace: str
    service: str
    ports: tuple[tuple[str, int], ...]
    ready: tuple[str, ...]

    def endpoints(self, port_name: str) -> tuple[Endpoint, ...]:
        """The ready endpoints of one service port."""
        return tuple(
            Endpoint(address, port) for name, port in self.ports if name == port_name for address in self.ready
        )


RawObject = RawPod | RawNamespace | RawService | RawSlice | PolicyObject


def key_of(document: Field) -> ObjectKey:
    """What a document is about. Raises FaultError where it says nothing usable."""
    kind = document.get("kind")
    if not isinstance(kind.value, str):
        raise FaultError(kind, "the document has no kind: is it a Kubernetes manifest?")
    if not _KIND.fullmatch(kind.value):
        raise FaultError(kind, f"{kind.value[:80]!r} is no kind")
    version = document.get("apiVersion")
    group = version.text(default="").rpartition("/")[0]
    metadata = document.get("metadata")
    name = metadata.get("name")
    text = name.text(default="")
    if not text or len(text) > MAX_NAME or not _DNS_SUBDOMAIN.fullmatch(text):
        raise FaultError(name, f"metadata.name {text[:MAX_NAME]!r} is no DNS name (RFC 1123)")
    namespace = metadata.get("namespace")
    space = "" if kind.value == "Namespace" else namespace.text(default="default")
    if space and not _DNS_LABEL.fullmatch(space):
        raise FaultError(namespace, f"metadata.namespace {space[:MAX_NAME]!r} is no DNS label (RFC 1123)")
    known = _GROUPS.get(kind.value)
    if known == POLICY_GROUP and not group:
        raise FaultError(version, f"a {kind.value} is of {POLICY_GROUP}: write apiVersion: {POLICY_GROUP}/VERSION")
    routed = kind.value == "HTTPRoute" and group == GATEWAY_GROUP
    foreign = known is not None and group != known and version.value is not None
    return ObjectKey(f"{kind.value}.{group}" if routed or foreign else kind.value, space, text)


def decode(key: ObjectKey, document: Field) -> RawObject | None:
    """The object; None for kinds that mean nothing to a mesh, and for pods that have finished.

    Raises FaultError, with the line, for what cannot be used.
    """
    decoder = _DECODERS.get(key.kind)
    return manifests.decode(key, document) if decoder is None else decoder(key, document)


def _pod(key: ObjectKey, document: Field) -> RawPod | None:
    status, spec, metadata = document.get("status"), document.get("spec"), document.get("metadata")
    if status.get("phase").text(default="Running") in _FINISHED:
        return None
    fields = metadata.get("annotations").mapping()
    own = {name: field.text() for name, field in fields.items()}
    ports = tuple(
        ContainerPort(port.get("name").text(default=""), port.get("containerPort").port())
        for container in (*spec.get("containers").items(), *_sidecars(spec))
        for port in container.get("ports").items()
        if port.get("protocol").text(default="TCP") == "TCP"
    )
    host_network = spec.get("hostNetwork").flag(default=False)
    account = spec.get("serviceAccountName")
    service_account = account.text(default="default")
    if len(service_account) > MAX_NAME or not _DNS_SUBDOMAIN.fullmatch(service_account):
        raise FaultError(account, f"spec.serviceAccountName {service_account[:MAX_NAME]!r} is no DNS name (RFC 1123)")
    ready = all(
        condition.get("status").text() != "False"
        for condition in status.get("conditions").items()
        if condition.get("type").text() == "Ready"
    )
    bare = Pod(
        namespace=key.namespace,
        name=key.name,
        service_account=service_account,
        node=spec.get("nodeName").text(default=""),
        ips=_addresses(status, "podIPs", "podIP"),
        uid=metadata.get("uid").text(default=""),
        labels=metadata.get("labels").texts(),
        annotations=own,
        container_ports=ports,
        netns=own.get(annotations.NETNS),
        probe_ports=_probe_ports(spec),
        host_ips=_addresses(status, "hostIPs", "hostIP"),
        host_network=host_network,
    )
    try:
        settings = annotations.settings(fields, {}, ports, host_network=host_network)
    except FaultError as fault:
        closed = msgspec.structs.replace(bare, settings=CLOSED, annotations={})
        raise FaultError(fault.line, fault.reason, RawPod(closed, _CLOSED_ANNOTATIONS, ready)) from fault
    return RawPod(msgspec.structs.replace(bare, settings=settings), own, ready)


def _sidecars(spec: Field) -> list[Field]:
    """Init containers that stay: what they listen on is the pod's for its whole life."""
    return [each for each in spec.get("initContainers").items() if each.get("restartPolicy").value == "Always"]


def _probe_ports(spec: Field) -> tuple[int, ...]:
    """Ports of this pod that the kubelet's probes dial: httpGet, tcpSocket and gRPC, init containers' too."""
    found: set[int] = set()
    for container in (*spec.get("containers").items(), *spec.get("initContainers").items()):
        named = {
            port.get("name").text(default=""): port.get("containerPort").port()
            for port in container.get("ports").items()
        }
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for how in ("httpGet", "tcpSocket", "grpc"):
                handler = container.get(probe, how)
                port = handler.get("port")
                if port.value is None or handler.get("host").value is not None:  # a host: dialled, but not this pod
                    continue
                number = named.get(port.value) if isinstance(port.value, str) else port.port()
                if number is not None:
                    found.add(number)
    return tuple(sorted(found))


def _addresses(status: Field, several: str, one: str) -> tuple[str, ...]:
    found = [_address(entry.get("ip")) for entry in status.get(several).items()]
    single = status.get(one)
    if single.value is not None and (address := _address(single)) not in found:
        found.insert(0, address)
    return tuple(found)


def _address(field: Field) -> str:
    text = field.text()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise FaultError(field, f"{text!r} is no IP address") from None


def _namespace(key: ObjectKey, document: Field) -> RawNamespace:
    fields = document.get("metadata", "annotations").mapping()
    try:
        annotations.check(fields)
    except FaultError as fault:
        raise FaultError(fault.line, fault.reason, RawNamespace(key.name, _CLOSED_ANNOTATIONS)) from fault
    return RawNamespace(key.name, {name: field.text() for name, field in fields.items()})


def _service(key: ObjectKey, document: Field) -> RawService | None:
    spec = document.get("spec")
    if spec.get("type").text(default="ClusterIP") == "ExternalName":
        return None
    ips = [_address(entry) for entry in spec.get("clusterIPs").items() if entry.value != "None"]
    single = spec.get("clusterIP")
    if single.value not in (None, "None", "") and (address := _address(single)) not in ips:
        ips.insert(0, address)
    ports = []
    for port in spec.get("ports").items():
        if port.get("protocol").text(default="TCP") != "TCP":
            continue
        number = port.get("port").port()
        target = port.get("targetPort")
        by_name = target.value if isinstance(target.value, str) else None
        ports.append(
            RawServicePort(
                port.get("name").text(default=""),
                number,
                by_name if by_name is not None else number if target.value is None else target.port(),
            )
        )
    return RawService(key.namespace, key.name, tuple(ips), tuple(ports), spec.get("selector").texts())


def _endpoint_slice(key: ObjectKey, document: Field) -> RawSlice | None:
    labels = document.get("metadata", "labels").texts()
    service = labels.get(SERVICE_NAME_LABEL)
    if service is None:
        raise FaultError(
            document.get("metadata"), f"the label {SERVICE_NAME_LABEL} is missing: whose endpoints are these?"
        )
    kind = document.get("addressType")
    if kind.text(default="IPv4") == "FQDN":
        return None
    ready = []
    for endpoint in document.get("endpoints").items():
        conditions = endpoint.get("conditions")
        addresses = [_address(address) for address in endpoint.get("addresses").items()]
        if conditions.get("ready").flag(default=True) and not conditions.get("terminating").flag(default=False):
            ready.extend(addresses)
    ports = tuple(
        (port.get("name").text(default=""), port.get("port").port())
        for port in document.get("ports").items()
        if port.get("protocol").text(default="TCP") == "TCP"
    )
    return RawSlice(key.namespace, service, ports, tuple(ready))


_DECODERS: dict[str, Callable[[ObjectKey, Field], RawObject | None]] = {
    "Pod": _pod,
    "Namespace": _namespace,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
}
