"""HTTPRoute and GRPCRoute: validated as Linkerd's admission does; what they say of requests waits for the HTTP layer.

What counts for connections is on which Servers a route hangs: authorizations that exist on routes only let nobody in.
"""

import re

from agent.objects.field import FaultError, Field
from agent.objects.key import ObjectKey
from agent.objects.policy import GATEWAY_GROUP, POLICY_GROUP, Route, TargetKind

VERSIONS = {
    ("HTTPRoute", POLICY_GROUP): ("v1beta3", "v1beta2", "v1beta1", "v1alpha1"),
    ("HTTPRoute", GATEWAY_GROUP): ("v1", "v1beta1", "v1alpha2"),
    ("GRPCRoute", GATEWAY_GROUP): ("v1", "v1alpha2"),
}
_PATHS = ("Exact", "PathPrefix", "RegularExpression")
_VALUES = ("Exact", "RegularExpression")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def group_of(ref: Field, default: str = "") -> str:
    """The API group of a reference, in lower case as Linkerd compares it; the core group is the empty text."""
    group = ref.get("group").text(default=default).lower()
    return "" if group == "core" else group


def decode(key: ObjectKey, document: Field, group: str, version: str) -> Route | None:
    """The route of a document; None for other kinds. Raises FaultError with the line and the reason."""
    kind = key.kind.partition(".")[0]
    versions = VERSIONS.get((kind, group))
    if versions is None:
        return None
    if version not in versions:
        raise FaultError(
            document.get("apiVersion"),
            f"apiVersion {group}/{version} is not known for {kind}; these are: {', '.join(versions)}",
        )
    spec = document.get("spec")
    servers: list[str] = []
    for parent in spec.get("parentRefs").items():
        parent_group = group_of(parent, GATEWAY_GROUP)
        parent_kind, name = parent.get("kind").text(default="Gateway"), parent.get("name").text()
        if (parent_group, parent_kind) == (POLICY_GROUP, "EgressNetwork") and parent.get("port").value is None:
            raise FaultError(parent, "a parentRef to an EgressNetwork needs a port")
        near = parent.get("namespace").text(default=key.namespace) == key.namespace
        if (parent_group, parent_kind) == (POLICY_GROUP, "Server") and near:
            servers.append(name)
    for rule in spec.get("rules").items():
        _rule(rule, kind, group)
    return Route(
        key.namespace, key.name, route_kind=TargetKind(kind), group=group, servers=tuple(dict.fromkeys(servers))
    )


def _rule(rule: Field, kind: str, group: str) -> None:
    for match in rule.get("matches").items():
        if kind == "HTTPRoute":
            _http_match(match)
        else:
            _grpc_match(match)
        for header in match.get("headers").items():
            _value_match(header)
    for each in rule.get("filters").items():
        each.get("type").text()
    if group == GATEWAY_GROUP and kind == "HTTPRoute":
        for backend in rule.get("backendRefs").items():
            is_service = (group_of(backend), backend.get("kind").text(default="Service")) == ("", "Service")
            if is_service and backend.get("port").value is None:
                raise FaultError(backend, "a backendRef to a Service needs a port")


def _http_match(match: Field) -> None:
    path = match.get("path")
    kind, value = path.get("type"), path.get("value").text(default="/")
    if kind.text(default="PathPrefix") not in _PATHS:
        raise FaultError(kind, f"path type {kind.value!r} must be one of {', '.join(_PATHS)}")
    if kind.value != "RegularExpression" and not value.startswith("/"):  # its dialect is not Python's: not looked at
        raise FaultError(path, f"path {value!r} must begin with a slash")
    method = match.get("method")
    if method.value is not None and not _TOKEN.fullmatch(method.text()):
        raise FaultError(method, f"{method.value!r} is no HTTP method")
    for query in match.get("queryParams").items():
        _value_match(query, token=False)


def _grpc_match(match: Field) -> None:
    method = match.get("method")
    if method.value is None:
        return
    if not method.get("service").text(default="") and not method.get("method").text(default=""):
        raise FaultError(method, "a method match needs a service or a method")


def _value_match(field: Field, *, token: bool = True) -> None:
    kind, name, value = field.get("type"), field.get("name"), field.get("value")
    if kind.text(default="Exact") not in _VALUES:
        raise FaultError(kind, f"match type {kind.value!r} must be one of {', '.join(_VALUES)}")
    if not name.text() or (token and not _TOKEN.fullmatch(name.text())):
        raise FaultError(name, f"{name.value!r} is no header name")
    value.text()
