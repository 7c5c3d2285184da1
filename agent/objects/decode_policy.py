"""From a manifest to a policy object, by the rules that Linkerd's schemas and its admission controller have.

What they refuse is refused here, with the line and the reason; so is a field that the schema does not know, because a
misspelt `except` would otherwise widen what a policy lets in.
"""

import datetime
import difflib
import ipaddress
import re
from collections.abc import Callable

from agent.identity.spiffe import SpiffeId, SpiffeIdError
from agent.objects import decode_routes
from agent.objects.field import FaultError, Field, readable
from agent.objects.key import ObjectKey
from agent.objects.policy import (
    GATEWAY_GROUP,
    POLICY_GROUP,
    AccountRef,
    AuthorizationPolicy,
    BrokenServer,
    DefaultPolicy,
    HttpLayer,
    LabelExpression,
    LabelSelector,
    MeshTLSAuthentication,
    NetworkAuthentication,
    NetworkRange,
    Operator,
    PolicyObject,
    Ref,
    Server,
    ServerAuthorization,
    Target,
    TargetKind,
)

PROTOCOLS = ("unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS")
MAX_PORT_NAME = 15
MAX_FIELD = 64
"""Characters of a field's name that are looked at."""
_MAPPINGS = ("labels", "annotations")
OLDEST: float | None = float("-inf")
"""The age of a broken Server that does not say its own: it goes before any other."""

_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""RFC 1123."""
_IDENTITY = re.compile(rf"(\*|{_LABEL})(\.{_LABEL})*")
_ONE_LABEL = re.compile(_LABEL)
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_CIDR = re.compile(r"[0-9a-fA-F:.]+(/\d{1,3})?")


def decode(key: ObjectKey, document: Field) -> PolicyObject | None:
    """The policy object of a document; None for kinds that are none. Raises FaultError with the line and the reason."""
    group, version = _group(document)
    if key.kind not in KINDS and (group != POLICY_GROUP or key.kind in {"HTTPRoute", "GRPCRoute"}):
        return decode_routes.decode(key, document, group, version)
    known = KINDS.get(key.kind)
    if known is None:
        raise FaultError(
            document.get("kind"),
            f"this version knows no {key.kind} of {POLICY_GROUP}: what it would forbid or allow is not in force",
        )
    versions, decoder = known
    spec = document.get("spec")
    try:
        if group != POLICY_GROUP or version not in versions:
            raise FaultError(
                document.get("apiVersion"),
                f"{group}/{version} is not known for {key.kind}; these are: {POLICY_GROUP}/{', '.join(versions)}",
            )
        if spec.value is None:
            raise FaultError(document, "spec is missing")
        only(document, "apiVersion", "kind", "metadata", "spec", "status")
        check_metadata(document.get("metadata"))
        return decoder(key, document, spec)
    except FaultError as fault:
        if key.kind != "Server":
            raise
        raise fault.with_stand_in(_closed(key, document)) from fault


def _closed(key: ObjectKey, document: Field) -> PolicyObject | None:
    """What is in force for a Server that cannot be used: its port, as far as one can tell, is closed."""
    try:
        spec = document.get("spec")
        pods = spec.get("podSelector")
        if pods.value is None and spec.get("externalWorkloadSelector").value is not None:
            return None
        port, selector = _port(spec.get("port")), label_selector(pods)
        labels = readable(lambda: document.get("metadata", "labels").texts(), dict[str, str]())
        age: float | None = readable(lambda: created(document.get("metadata", "creationTimestamp")), OLDEST)
    except FaultError:
        return BrokenServer(key.namespace, key.name)
    if pods.value is None:
        return BrokenServer(key.namespace, key.name)
    return Server(key.namespace, key.name, port=port, selector=selector, labels=labels, created=age)


def _group(document: Field) -> tuple[str, str]:
    version = document.get("apiVersion").value
    if not isinstance(version, str):
        return "", ""
    group, slash, rest = version.rpartition("/")
    return (group, rest) if slash else ("", version)


def only(field: Field, *known: str) -> None:
    """Raises FaultError where a mapping has a key that nobody would look at."""
    for name, value in field.mapping().items():
        if name not in known:
            raise FaultError(value, f"unknown field {name!r}; known here: {', '.join(known)}")


def check_metadata(field: Field) -> None:
    """Raises FaultError where a slip of labels or annotations stands: what goes by them would pass this object by.

    Other fields of metadata are Kubernetes' own, and mean nothing to a mesh.
    """
    for name, value in field.mapping().items():
        if name not in _MAPPINGS and (right := difflib.get_close_matches(name[:MAX_FIELD].lower(), _MAPPINGS, n=1)):
            raise FaultError(value, f"unknown field {name[:MAX_FIELD]!r}; {right[0]} is surely meant")


def _server(key: ObjectKey, document: Field, spec: Field) -> Server:
    only(spec, "podSelector", "externalWorkloadSelector", "port", "proxyProtocol", "accessPolicy")
    pods, workloads = spec.get("podSelector"), spec.get("externalWorkloadSelector")
    if (pods.value is None) == (workloads.value is None):
        raise FaultError(spec, "spec needs one of podSelector and externalWorkloadSelector, and not both")
    selector = label_selector(pods if workloads.value is None else workloads)
    protocol = spec.get("proxyProtocol")
    if protocol.text(default="unknown") not in PROTOCOLS:
        raise FaultError(protocol, f"proxyProtocol {protocol.value!r} must be one of {', '.join(PROTOCOLS)}")
    access = spec.get("accessPolicy")
    if access.value is not None and document.get("apiVersion").text() != f"{POLICY_GROUP}/v1beta3":
        raise FaultError(access, f"accessPolicy needs apiVersion {POLICY_GROUP}/v1beta3")
    if access.text(default=DefaultPolicy.DENY) not in set(DefaultPolicy):
        raise FaultError(access, f"accessPolicy {access.value!r} must be one of {', '.join(DefaultPolicy)}")
    metadata = document.get("metadata")
    return Server(
        key.namespace,
        key.name,
        port=_port(spec.get("port")),
        selector=selector if workloads.value is None else None,
        access_policy=DefaultPolicy(access.text(default=DefaultPolicy.DENY)),
        labels=metadata.get("labels").texts(),
        created=created(metadata.get("creationTimestamp")),
        protocol=protocol.text(default="unknown"),
    )


def created(field: Field) -> float | None:
    """A creationTimestamp (RFC 3339) as POSIX seconds; None where there is none. Raises FaultError."""
    value = field.value
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise FaultError(field, f"creationTimestamp {value!r} is no time (RFC 3339)") from None
    if value is None:
        return None
    if not isinstance(value, datetime.datetime):
        raise FaultError(field, f"creationTimestamp {value!r} is no time (RFC 3339)")
    return (value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)).timestamp()


def _port(field: Field) -> int | str:
    if field.value is None:
        raise FaultError(field, "spec.port is missing: the number or the name of a container port")
    if not isinstance(field.value, str):
        return field.port()
    name: str = field.value
    if name.isdigit():
        raise FaultError(field, f"port {name!r} is a text, and no container port can be called so; write {name}")
    if len(name) > MAX_PORT_NAME or not _PORT_NAME.fullmatch(name):
        raise FaultError(
            field, f"port {name!r} is no name of a container port: a-z 0-9 -, at most {MAX_PORT_NAME} characters"
        )
    return name


def label_selector(field: Field) -> LabelSelector:
    """A Kubernetes label selector. Raises FaultError."""
    only(field, "matchLabels", "matchExpressions")
    expressions = []
    for expression in field.get("matchExpressions").items():
        only(expression, "key", "operator", "values")
        operator = expression.get("operator")
        if operator.text() not in set(Operator):
            raise FaultError(operator, f"operator {operator.value!r} must be one of {', '.join(Operator)}")
        values = tuple(value.text() for value in expression.get("values").items())
        expressions.append(LabelExpression(expression.get("key").text(), Operator(operator.text()), values))
    return LabelSelector(tuple(sorted(field.get("matchLabels").texts().items())), tuple(expressions))


def _server_authorization(key: ObjectKey, document: Field, spec: Field) -> ServerAuthorization:
    del document
    only(spec, "server", "client")
    server, client = spec.get("server"), spec.get("client")
    only(server, "name", "selector")
    name, selector = server.get("name"), server.get("selector")
    if (name.value is None) == (selector.value is None):
        raise FaultError(server, "spec.server needs one of name and selector, and not both")
    if client.value is None:
        raise FaultError(spec, "spec.client is missing: whom does it authorize?")
    only(client, "networks", "unauthenticated", "meshTLS")
    mesh = client.get("meshTLS")
    only(mesh, "unauthenticatedTLS", "identities", "serviceAccounts")
    unauthenticated = client.get("unauthenticated").flag(default=False)
    if unauthenticated and mesh.value is not None:
        raise FaultError(client.get("unauthenticated"), "unauthenticated must be false where meshTLS is given")
    without = mesh.get("unauthenticatedTLS").flag(default=False)
    identities = _identities(mesh.get("identities"))
    accounts = tuple(_account(field, key.namespace) for field in mesh.get("serviceAccounts").items())
    if without and (identities or accounts):
        raise FaultError(
            mesh.get("unauthenticatedTLS"),
            "unauthenticatedTLS must be false where identities or serviceAccounts are given",
        )
    listed = tuple(network_range(field) for field in client.get("networks").items())
    return ServerAuthorization(
        key.namespace,
        key.name,
        server=None if name.value is None else _name(name),
        selector=None if selector.value is None else label_selector(selector),
        networks=listed or None,
        unauthenticated=unauthenticated,
        unauthenticated_tls=without,
        identities=identities,
        accounts=accounts,
    )


def _account(field: Field, namespace: str) -> AccountRef:
    only(field, "name", "namespace")
    return AccountRef(_namespace(field.get("namespace"), namespace), _name(field.get("name")))


def _namespace(field: Field, default: str) -> str:
    text = field.text(default=default) or default
    if len(text) > 63 or not _ONE_LABEL.fullmatch(text):
        raise FaultError(field, f"{text!r} is no namespace (RFC 1123)")
    return text


def _name(field: Field) -> str:
    text = field.text()
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise FaultError(field, f"{text!r} is no name of an object (RFC 1123)")
    return text


def _identities(field: Field) -> tuple[str, ...]:
    return tuple(_identity(each) for each in field.items())


def _identity(field: Field) -> str:
    text = field.text()
    if text.lower().startswith("spiffe://"):
        try:
            return str(SpiffeId.parse(text))
        except SpiffeIdError as error:
            raise FaultError(field, f"identity {error}") from None
    if not _IDENTITY.fullmatch(text):
        raise FaultError(
            field,
            f"identity {text!r} is none: write *, *.SUFFIX, a name as in web.shop.serviceaccount.identity."
            f"linkerd.cluster.local (lower case), or a spiffe:// ID",
        )
    return text


def network_range(field: Field) -> NetworkRange:
    """A network with its exceptions. Raises FaultError where an exception is outside, or leaves nothing."""
    only(field, "cidr", "except")
    cidr = field.get("cidr")
    network = _network(cidr)
    excepts = []
    for each in field.get("except").items():
        found = _network(each)
        if found.version != network.version or not (network.overlaps(found) and found.prefixlen >= network.prefixlen):
            if found.version == network.version and network.overlaps(found):
                raise FaultError(each, f"cidr {cidr.value} is completely negated by exception {each.value}")
            raise FaultError(each, f"cidr {cidr.value} does not include exception {each.value}")
        if found == network:
            raise FaultError(each, f"cidr {cidr.value} is completely negated by exception {each.value}")
        excepts.append(str(found))
    return NetworkRange(str(network), tuple(excepts))


def _network(field: Field) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    text = field.text()
    try:
        if not _CIDR.fullmatch(text):
            raise ValueError(f"{text!r} is neither an IP address nor a network in CIDR form")
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise FaultError(field, str(error)) from None


def _authorization_policy(key: ObjectKey, document: Field, spec: Field) -> AuthorizationPolicy:
    del document
    only(spec, "targetRef", "requiredAuthenticationRefs")
    target = _target(spec.get("targetRef"), key.namespace)
    refs = spec.get("requiredAuthenticationRefs")
    if refs.value is None:
        raise FaultError(spec, "spec.requiredAuthenticationRefs is missing; write [] where everyone is to be let in")
    mesh: Ref | None = None
    network: Ref | None = None
    for field in refs.items():
        ref = _authentication_ref(field, key.namespace)
        if ref.kind == "NetworkAuthentication":
            if network is not None:
                raise FaultError(field, "only a single NetworkAuthentication may be referred to")
            network = ref
        elif mesh is None:
            mesh = ref
        elif mesh.kind == ref.kind:
            raise FaultError(field, f"only a single {ref.kind} may be referred to")
        else:
            raise FaultError(field, "a MeshTLSAuthentication and a ServiceAccount may not be referred to together")
    return AuthorizationPolicy(key.namespace, key.name, target=target, mesh=mesh, network=network)


_TARGETS = {
    (POLICY_GROUP, "server"): TargetKind.SERVER,
    (POLICY_GROUP, "httproute"): TargetKind.HTTP_ROUTE,
    (GATEWAY_GROUP, "httproute"): TargetKind.HTTP_ROUTE,
    (GATEWAY_GROUP, "grpcroute"): TargetKind.GRPC_ROUTE,
    ("", "namespace"): TargetKind.NAMESPACE,
}


def _target(field: Field, namespace: str) -> Target:
    if field.value is None:
        raise FaultError(field, "spec.targetRef is missing")
    only(field, "group", "kind", "name", "namespace", "sectionName")
    group, kind = decode_routes.group_of(field), field.get("kind").text()
    found = _TARGETS.get((group, kind.lower()))
    if found is None:
        raise FaultError(
            field.get("kind"),
            f"targetRef {kind}{f' of {group}' if group else ''} cannot be targeted; these can: Server and HTTPRoute of "
            f"{POLICY_GROUP}, HTTPRoute and GRPCRoute of {GATEWAY_GROUP}, and Namespace",
        )
    name = _name(field.get("name"))
    if found is TargetKind.NAMESPACE and name != namespace:
        raise FaultError(field.get("name"), f"cannot target another namespace: {name}")
    elsewhere = field.get("namespace")
    if elsewhere.value is not None and elsewhere.text() != namespace:
        raise FaultError(elsewhere, f"cannot target an object of another namespace: {elsewhere.value}")
    return Target(found, group, name)


_AUTHENTICATIONS = {
    (POLICY_GROUP, "meshtlsauthentication"): "MeshTLSAuthentication",
    (POLICY_GROUP, "networkauthentication"): "NetworkAuthentication",
    ("", "serviceaccount"): "ServiceAccount",
}


def _authentication_ref(field: Field, namespace: str) -> Ref:
    only(field, "group", "kind", "name", "namespace")
    group, kind = decode_routes.group_of(field), field.get("kind").text()
    found = _AUTHENTICATIONS.get((group, kind.lower()))
    if found is None:
        raise FaultError(
            field,
            f"unsupported authentication kind {kind}{f' of {group}' if group else ''}; these are supported: "
            f"MeshTLSAuthentication and NetworkAuthentication of {POLICY_GROUP}, and ServiceAccount",
        )
    return Ref(found, _namespace(field.get("namespace"), namespace), _name(field.get("name")))


def _mesh_tls(key: ObjectKey, document: Field, spec: Field) -> MeshTLSAuthentication:
    del document
    only(spec, "identities", "identityRefs")
    identities, refs = spec.get("identities"), spec.get("identityRefs")
    if (identities.value is None) == (refs.value is None):
        raise FaultError(spec, "spec needs one of identities and identityRefs, and not both")
    accounts: list[AccountRef] = []
    namespaces: list[str] = []
    for field in refs.items():
        only(field, "group", "kind", "name", "namespace")
        group, kind, space = decode_routes.group_of(field), field.get("kind").text(), field.get("namespace")
        match (group, kind.lower()):
            case ("", "serviceaccount"):
                accounts.append(AccountRef(_namespace(space, key.namespace), _name(field.get("name"))))
            case ("", "namespace"):
                if space.value is not None:
                    raise FaultError(space, "a Namespace has no namespace: leave the field out")
                namespaces.append(_name(field.get("name")))
            case _:
                raise FaultError(
                    field, f"identityRefs may name ServiceAccount and Namespace, and not {kind} of {group or 'core'}"
                )
    return MeshTLSAuthentication(
        key.namespace,
        key.name,
        identities=_identities(identities),
        accounts=tuple(accounts),
        namespaces=tuple(namespaces),
    )


def _network_authentication(key: ObjectKey, document: Field, spec: Field) -> NetworkAuthentication:
    del document
    only(spec, "networks")
    networks = tuple(network_range(field) for field in spec.get("networks").items())
    if not networks:
        raise FaultError(spec, "spec.networks must have at least one network")
    return NetworkAuthentication(key.namespace, key.name, networks=networks)


def _egress_network(key: ObjectKey, document: Field, spec: Field) -> HttpLayer:
    del document
    only(spec, "trafficPolicy", "networks")
    traffic = spec.get("trafficPolicy")
    if traffic.text() not in {"Allow", "Deny"}:
        raise FaultError(traffic, f"trafficPolicy {traffic.value!r} must be Allow or Deny")
    networks = spec.get("networks")
    if networks.value is not None and not [network_range(field) for field in networks.items()]:
        raise FaultError(networks, "spec.networks must have at least one network, or be left out")
    return HttpLayer(key.namespace, key.name, what=key.kind)


def _rate_limit(key: ObjectKey, document: Field, spec: Field) -> HttpLayer:
    del document
    only(spec, "targetRef", "total", "identity", "overrides")
    target = spec.get("targetRef")
    only(target, "group", "kind", "name", "namespace")
    if (decode_routes.group_of(target), target.get("kind").text().lower()) != (POLICY_GROUP, "server"):
        raise FaultError(target, f"targetRef must be a Server of {POLICY_GROUP}")
    total = _rate(spec.get("total"), None, "total")
    only(spec.get("total"), "requestsPerSecond")
    only(spec.get("identity"), "requestsPerSecond")
    _rate(spec.get("identity"), total, "identity")
    for override in spec.get("overrides").items():
        only(override, "requestsPerSecond", "clientRefs")
        _rate(override, total, "overrides")
        for ref in override.get("clientRefs").items():
            only(ref, "group", "kind", "name", "namespace")
            if (decode_routes.group_of(ref), ref.get("kind").text().lower()) != ("", "serviceaccount"):
                raise FaultError(ref, "overrides.clientRefs must name ServiceAccounts")
            _name(ref.get("name"))
    return HttpLayer(key.namespace, key.name, what=key.kind, server=_name(target.get("name")))


def _rate(field: Field, limit: int | None, what: str) -> int | None:
    if field.value is None:
        return None
    rate = field.get("requestsPerSecond")
    if isinstance(rate.value, bool) or not isinstance(rate.value, int) or rate.value <= 0:
        raise FaultError(rate, f"{what}.requestsPerSecond must be a number greater than 0")
    found: int = rate.value
    if limit is not None and found > limit:
        raise FaultError(rate, f"{what}.requestsPerSecond must not be more than total.requestsPerSecond")
    return found


KINDS: dict[str, tuple[tuple[str, ...], Callable[[ObjectKey, Field, Field], PolicyObject]]] = {
    "Server": (("v1beta3", "v1beta2", "v1beta1", "v1alpha1"), _server),
    "ServerAuthorization": (("v1beta1", "v1alpha1"), _server_authorization),
    "AuthorizationPolicy": (("v1alpha1",), _authorization_policy),
    "MeshTLSAuthentication": (("v1alpha1",), _mesh_tls),
    "NetworkAuthentication": (("v1alpha1",), _network_authentication),
    "EgressNetwork": (("v1alpha1",), _egress_network),
    "HTTPLocalRateLimitPolicy": (("v1alpha1",), _rate_limit),
}
