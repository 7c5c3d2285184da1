"""Services, and who serves them: Service, EndpointSlice and Endpoints, with the defaults that the API would fill in."""

import ipaddress
from enum import StrEnum
from functools import partial

from msgspec import Struct

from agent.objects import decode_policy
from agent.objects.field import FaultError, Field, readable
from agent.objects.key import ObjectKey

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MIRRORING = "endpointslicemirroring-controller"
"""How `MANAGED_BY_LABEL` begins on a slice that repeats an Endpoints object."""
SKIP_MIRROR_LABEL = "endpointslice.kubernetes.io/skip-mirror"
LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
"""Of an Endpoints object that nobody serves: who leads is written into it."""

AFFINITY_SECONDS = 10800
"""Default of `sessionAffinityConfig.clientIP.timeoutSeconds`."""
MAX_AFFINITY_SECONDS = 86400


class RawServicePort(Struct, frozen=True):
    """A service's port; `target` is a number or a container port's name, `node_port` 0 where there is none."""

    name: str
    port: int
    target: int | str
    node_port: int = 0


class RawService(Struct, frozen=True, tag=True):
    """A service before endpoints are joined to it. One that is `closed` has a fault, and is served by nobody."""

    namespace: str
    name: str
    cluster_ips: tuple[str, ...]
    ports: tuple[RawServicePort, ...] = ()
    selector: dict[str, str] = {}
    external_ips: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()
    """Of load balancers that hand connections on as they are (ipMode VIP)."""
    source_ranges: tuple[str, ...] = ()
    local: bool = False
    """internalTrafficPolicy: Local."""
    affinity_seconds: int = 0
    """0 without sessionAffinity."""
    publishes_unready: bool = False
    prefers_own_node: bool = False
    """trafficDistribution: PreferSameNode."""
    created: float | None = None
    closed: bool = False


class RawEndpoint(Struct, frozen=True):
    """One endpoint of a slice, its addresses and conditions; `zones` and `nodes` are its hints."""

    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class Subset(Struct, frozen=True):
    """Endpoints, and the ports (name and number) that each of them serves."""

    ports: tuple[tuple[str, int], ...]
    endpoints: tuple[RawEndpoint, ...]


class Author(StrEnum):
    """Who wrote a `RawSlice`, which decides whether it counts."""

    SLICE = "slice"
    MIRRORED = "mirrored"
    """An EndpointSlice that repeats the service's Endpoints."""
    ENDPOINTS = "endpoints"
    UNMIRRORED = "unmirrored"
    """Endpoints that say that no slice shall repeat them."""


class RawSlice(Struct, frozen=True, tag=True, rename={"author": "origin"}):
    """What an EndpointSlice or an Endpoints object says of a service.

    On disk (`agent/catalog/memory.py`) its author is called `origin`.
    """

    namespace: str
    service: str
    subsets: tuple[Subset, ...] = ()
    author: Author = Author.SLICE


def address(field: Field) -> str:
    """An IP address in canonical form. Raises FaultError."""
    text = field.text()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise FaultError(field, f"{text!r} is no IP address") from None


def optional_port(field: Field) -> int:
    """A port number; 0 where there is none, which Kubernetes writes as 0 too. Raises FaultError."""
    return 0 if field.value in {None, 0} and not isinstance(field.value, bool) else field.port()


def is_tcp(port: Field) -> bool:
    """Whether a port of whatever object is one of TCP, which is what is meant where nothing is said."""
    return (port.get("protocol").text(default="") or "TCP") == "TCP"


def decode_service(key: ObjectKey, document: Field) -> RawService | None:
    """A service; None for one that is a DNS name only (ExternalName). Raises FaultError."""
    spec = document.get("spec")
    if spec.get("type").text(default="") == "ExternalName":
        return None
    ips = [address(entry) for entry in spec.get("clusterIPs").items() if entry.value not in {"None", ""}]
    single = spec.get("clusterIP")
    if single.text(default="") not in {"", "None"} and (first := address(single)) not in ips:
        ips.insert(0, first)
    try:
        return RawService(
            key.namespace,
            key.name,
            tuple(ips),
            tuple(_service_port(port) for port in spec.get("ports").items() if is_tcp(port)),
            spec.get("selector").texts(),
            external_ips=tuple(dict.fromkeys(address(entry) for entry in spec.get("externalIPs").items())),
            balancer_ips=_balancer_ips(document),
            source_ranges=tuple(_network(entry) for entry in spec.get("loadBalancerSourceRanges").items()),
            local=_one_of(spec.get("internalTrafficPolicy"), "Cluster", "Local") == "Local",
            affinity_seconds=_affinity(spec),
            publishes_unready=spec.get("publishNotReadyAddresses").flag(default=False),
            prefers_own_node=_one_of(
                spec.get("trafficDistribution"), "", "PreferClose", "PreferSameZone", "PreferSameNode"
            )
            == "PreferSameNode",
            created=decode_policy.created(document.get("metadata", "creationTimestamp")),
        )
    except FaultError as fault:  # an address that nobody knows would be dialled in plaintext
        raise fault.with_stand_in(_closed(key, document, tuple(ips))) from fault


def _tcp_port(port: Field) -> tuple[RawServicePort, ...]:
    return (_service_port(port),) if is_tcp(port) else ()


def _closed(key: ObjectKey, document: Field, cluster_ips: tuple[str, ...]) -> RawService:
    """A service with a fault: every address and port that can be read, and nobody behind them."""
    spec = document.get("spec")
    nothing: tuple[RawServicePort, ...] = ()
    found = [
        readable(partial(_tcp_port, port), nothing)
        for port in readable(lambda: list(spec.get("ports").items()), list[Field]())
    ]
    return RawService(
        key.namespace,
        key.name,
        cluster_ips,
        tuple(port for each in found for port in each),
        external_ips=readable(
            lambda: tuple(address(entry) for entry in spec.get("externalIPs").items()), tuple[str, ...]()
        ),
        balancer_ips=readable(lambda: _balancer_ips(document), tuple[str, ...]()),
        closed=True,
    )


def _service_port(port: Field) -> RawServicePort:
    number = port.get("port").port()
    return RawServicePort(
        port.get("name").text(default=""),
        number,
        _target(port.get("targetPort")) or number,
        optional_port(port.get("nodePort")),
    )


def _target(field: Field) -> int | str:
    """A number, or a container port's name; 0 or nothing where the service's own number is meant."""
    if not isinstance(field.value, str):
        return optional_port(field)
    if field.value.isdigit():
        raise FaultError(field, f"{field.value!r} is a text, and no container port can be called so; write a number")
    return field.value


def _balancer_ips(document: Field) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for entry in document.get("status", "loadBalancer", "ingress").items():
        mode = _one_of(entry.get("ipMode"), "VIP", "Proxy")
        if mode == "VIP" and entry.get("ip").value not in {None, ""}:
            found[address(entry.get("ip"))] = None
    return tuple(found)


def _affinity(spec: Field) -> int:
    """Seconds; 0 without affinity."""
    if _one_of(spec.get("sessionAffinity"), "None", "ClientIP") == "None":
        return 0
    seconds = spec.get("sessionAffinityConfig", "clientIP", "timeoutSeconds")
    if seconds.value is None:
        return AFFINITY_SECONDS
    if type(seconds.value) is not int or not 0 < seconds.value <= MAX_AFFINITY_SECONDS:
        raise FaultError(seconds, f"{seconds.value!r} must be seconds from 1 to {MAX_AFFINITY_SECONDS}")
    return seconds.value


def _one_of(field: Field, default: str, *others: str) -> str:
    value = field.text(default="") or default
    if value not in {default, *others}:
        raise FaultError(field, f"{value!r} must be one of {', '.join(each for each in (default, *others) if each)}")
    return value


def _network(field: Field) -> str:
    text = field.text().strip()
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise FaultError(field, f"{text!r} is no network in CIDR form") from None


def decode_slice(key: ObjectKey, document: Field) -> RawSlice | None:
    """An EndpointSlice; None for one of DNS names. Raises FaultError."""
    labels = document.get("metadata", "labels")
    service = labels.get(SERVICE_NAME_LABEL)
    if service.value is None:
        raise FaultError(
            document.get("metadata"), f"the label {SERVICE_NAME_LABEL} is missing: whose endpoints are these?"
        )
    kind = document.get("addressType")
    if kind.text(default="IPv4") == "FQDN":
        return None
    name = service.text()
    try:
        mirrored = labels.texts().get(MANAGED_BY_LABEL, "").startswith(MIRRORING)
        endpoints = tuple(_endpoint(each) for each in document.get("endpoints").items())
        subset = Subset(_ports(document), endpoints)
        return RawSlice(key.namespace, name, (subset,), Author.MIRRORED if mirrored else Author.SLICE)
    except FaultError as fault:  # without any slice the service's selector would find endpoints of its own
        raise fault.with_stand_in(RawSlice(key.namespace, name)) from fault


def _endpoint(field: Field) -> RawEndpoint:
    conditions, hints = field.get("conditions"), field.get("hints")
    ready = conditions.get("ready").flag(default=True)
    return RawEndpoint(
        tuple(address(each) for each in field.get("addresses").items()),
        ready,
        serving=conditions.get("serving").flag(default=ready),
        terminating=conditions.get("terminating").flag(default=False),
        node=field.get("nodeName").text(default=""),
        zones=tuple(each.get("name").text() for each in hints.get("forZones").items()),
        nodes=tuple(each.get("name").text() for each in hints.get("forNodes").items()),
    )


def _ports(field: Field) -> tuple[tuple[str, int], ...]:
    """The TCP ports; one without a number means none that a service could have."""
    return tuple(
        (port.get("name").text(default=""), port.get("port").port())
        for port in field.get("ports").items()
        if is_tcp(port) and port.get("port").value is not None
    )


def decode_endpoints(key: ObjectKey, document: Field) -> RawSlice | None:
    """An Endpoints object of the core group; None for one that only says who leads. Raises FaultError."""
    metadata = document.get("metadata")
    if metadata.get("annotations", LEADER_ANNOTATION).value is not None:
        return None
    try:
        skipped = metadata.get("labels").texts().get(SKIP_MIRROR_LABEL) == "true"
        subsets = tuple(
            Subset(_ports(each), (*_addresses(each, "addresses", ready=True), *_addresses(each, "notReadyAddresses")))
            for each in document.get("subsets").items()
        )
        author = Author.UNMIRRORED if skipped else Author.ENDPOINTS
        return RawSlice(key.namespace, key.name, subsets, author)
    except FaultError as fault:
        stand_in = RawSlice(key.namespace, key.name, (), Author.ENDPOINTS)
        raise fault.with_stand_in(stand_in) from fault


def _addresses(subset: Field, name: str, *, ready: bool = False) -> tuple[RawEndpoint, ...]:
    return tuple(
        RawEndpoint((address(each.get("ip")),), ready, ready, node=each.get("nodeName").text(default=""))
        for each in subset.get(name).items()
    )
