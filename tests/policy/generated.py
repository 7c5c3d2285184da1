"""Strategies for worlds of policy: few names, few labels and few networks, so that things meet."""

from typing import Any

from hypothesis import strategies as st

from tests.policy.naive import Asker
from tests.policy.world import Manifest, manifest

NAMESPACES = ("demo", "other")
PORTS = (8080, 8081, 8082)
NODE = "10.9.0.1"
DEFAULTS = (
    "all-unauthenticated",
    "all-authenticated",
    "cluster-authenticated",
    "cluster-unauthenticated",
    "deny",
    "audit",
)
ADDRESSES = (
    "10.1.0.9",
    "::ffff:10.1.0.9",
    NODE,
    "192.0.2.1",
    "192.0.2.65",
    "::ffff:192.0.2.65",
    "203.0.113.5",
    "fd00::9",
    "2001:db8::1",
    "2001:db8:bad::1",
)
SPIFFE_IDS = (
    "spiffe://cluster.local/ns/demo/sa/web",
    "spiffe://cluster.local/ns/demo/sa/cart",
    "spiffe://cluster.local/ns/other/sa/web",
    "spiffe://cluster.local/elsewhere",
)
ASKERS = [
    asker
    for address in ADDRESSES
    for asker in (
        Asker(address, None, tls=False),
        Asker(address, None, tls=True),
        *(Asker(address, spiffe_id, tls=True) for spiffe_id in SPIFFE_IDS),
    )
]

_namespace = st.sampled_from(NAMESPACES)
_account = st.sampled_from(("web", "cart"))
_labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("a", "b")), max_size=2)
_policy_name = st.sampled_from(("p", "q", "r"))


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


_expression = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(("app", "tier")),
            "operator": st.sampled_from(("In", "NotIn")),
            "values": st.lists(st.sampled_from(("a", "b")), min_size=1, max_size=2, unique=True),
        }
    ),
    st.fixed_dictionaries(
        {"key": st.sampled_from(("app", "tier")), "operator": st.sampled_from(("Exists", "DoesNotExist"))}
    ),
)
_selector = st.one_of(st.just({}), _optional(matchLabels=_labels, matchExpressions=st.lists(_expression, max_size=2)))
_networks = st.lists(
    st.sampled_from(
        (
            {"cidr": "192.0.2.0/24", "except": ["192.0.2.64/26"]},
            {"cidr": "192.0.2.0/24"},
            {"cidr": "10.0.0.0/8", "except": [NODE]},
            {"cidr": "203.0.113.5"},
            {"cidr": "0.0.0.0/0", "except": ["192.0.2.0/24"]},
            {"cidr": "2001:db8::/32", "except": ["2001:db8:bad::/48"]},
            {"cidr": "::/0"},
        )
    ),
    min_size=1,
    max_size=2,
)
_identities = st.lists(
    st.sampled_from(
        (
            "*",
            "*.demo.serviceaccount.identity.linkerd.cluster.local",
            "*.other.serviceaccount.identity.cluster.local",
            "*.cluster.local",
            "web.demo.serviceaccount.identity.linkerd.cluster.local",
            "cart.demo.serviceaccount.identity.cluster.local",
            "spiffe://cluster.local/ns/other/sa/web",
            "spiffe://cluster.local/elsewhere",
            "web.demo.serviceaccount.identity.linkerd.example.test",
        )
    ),
    min_size=1,
    max_size=2,
)
_account_ref = st.fixed_dictionaries({"name": _account}, optional={"namespace": _namespace})


@st.composite
def _pods(draw: st.DrawFn) -> list[Manifest]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        namespace = draw(_namespace)
        container: dict[str, Any] = {"name": "c"}
        if draw(st.booleans()):
            container["ports"] = [{"name": "http", "containerPort": draw(st.sampled_from(PORTS))}]
        probe = draw(
            st.sampled_from(
                (
                    None,
                    {"httpGet": {"port": 8080}},
                    {"httpGet": {"port": "http"}},
                    {"tcpSocket": {"port": 8081}},
                    {"grpc": {"port": 8082}},
                )
            )
        )
        if probe is not None:
            container[draw(st.sampled_from(("livenessProbe", "readinessProbe", "startupProbe")))] = probe
        body: dict[str, Any] = {
            "metadata": {"labels": draw(_labels), "annotations": draw(_annotations)},
            "spec": {draw(st.sampled_from(("containers", "initContainers"))): [container]},
            "status": {"podIPs": [{"ip": f"10.1.{NAMESPACES.index(namespace)}.{number}"}]},
        }
        found.append(manifest(f"Pod {namespace}/pod-{number}", body))
    return found


_annotations: st.SearchStrategy[dict[str, str]] = st.fixed_dictionaries(
    {},
    optional={
        "config.linkerd.io/default-inbound-policy": st.sampled_from(DEFAULTS),
        "config.linkerd.io/proxy-require-identity-inbound-ports": st.sampled_from(("", "8080", "8081-9000", "1,8082")),
    },
)


@st.composite
def _server(draw: st.DrawFn) -> Manifest:
    spec = {
        draw(st.sampled_from(("podSelector", "podSelector", "podSelector", "externalWorkloadSelector"))): draw(
            _selector
        ),
        "port": draw(st.sampled_from((*PORTS, "http"))),
        **draw(_optional(accessPolicy=st.sampled_from(DEFAULTS))),
    }
    metadata = {
        "labels": draw(_labels),
        **draw(_optional(creationTimestamp=st.sampled_from(("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z")))),
    }
    name = draw(st.sampled_from(("s", "t", "u")))
    return manifest(f"Server {draw(_namespace)}/{name}", {"metadata": metadata, "spec": spec})


@st.composite
def _server_authorization(draw: st.DrawFn) -> Manifest:
    server = draw(
        st.one_of(
            st.fixed_dictionaries({"name": st.sampled_from(("s", "t", "u"))}),
            st.fixed_dictionaries({"selector": _selector}),
        )
    )
    client = draw(_optional(networks=_networks))
    client |= draw(
        st.one_of(
            st.just({"unauthenticated": True}),
            st.just({"meshTLS": {"unauthenticatedTLS": True}}),
            st.builds(lambda ids: {"meshTLS": {"identities": ids}}, _identities),
            st.builds(
                lambda refs: {"meshTLS": {"serviceAccounts": refs}}, st.lists(_account_ref, min_size=1, max_size=2)
            ),
        )
    )
    return manifest(
        f"ServerAuthorization {draw(_namespace)}/{draw(_policy_name)}", {"server": server, "client": client}
    )


@st.composite
def _authorization_policy(draw: st.DrawFn) -> Manifest:
    namespace = draw(_namespace)
    target = draw(
        st.sampled_from(
            (
                {"kind": "Namespace", "name": namespace},
                *({"group": "policy.linkerd.io", "kind": "Server", "name": name} for name in ("s", "t", "u")),
                {"group": "policy.linkerd.io", "kind": "HTTPRoute", "name": "r"},
            )
        )
    )
    refs: list[dict[str, Any]] = []
    mesh = draw(st.sampled_from((None, "MeshTLSAuthentication", "ServiceAccount")))
    if mesh == "ServiceAccount":
        refs.append({"kind": mesh, **draw(_account_ref)})
    elif mesh:
        refs.append({"group": "policy.linkerd.io", "kind": mesh, **draw(_authentication_ref)})
    if draw(st.booleans()):
        refs.append({"group": "policy.linkerd.io", "kind": "NetworkAuthentication", **draw(_authentication_ref)})
    spec = {"targetRef": target, "requiredAuthenticationRefs": draw(st.permutations(refs))}
    return manifest(f"AuthorizationPolicy {namespace}/{draw(_policy_name)}", spec)


_authentication_name = st.sampled_from(("m", "n"))
_authentication_ref = st.fixed_dictionaries({"name": _authentication_name}, optional={"namespace": _namespace})


@st.composite
def _authentication(draw: st.DrawFn, kind: str) -> Manifest:
    place = f"{draw(_namespace)}/{draw(_authentication_name)}"
    if kind == "NetworkAuthentication":
        return manifest(f"{kind} {place}", {"networks": draw(_networks)})
    account = st.builds(lambda ref: {"kind": "ServiceAccount", **ref}, _account_ref)
    space = st.builds(lambda name: {"kind": "Namespace", "name": name}, _namespace)
    spec = draw(
        st.one_of(
            st.fixed_dictionaries({"identities": _identities}),
            st.fixed_dictionaries({"identityRefs": st.lists(st.one_of(account, space), min_size=1, max_size=2)}),
        )
    )
    return manifest(f"{kind} {place}", spec)


_authentications = st.sampled_from(("MeshTLSAuthentication", "NetworkAuthentication")).flatmap(_authentication)


@st.composite
def _route(draw: st.DrawFn) -> Manifest:
    parents = st.lists(st.sampled_from(("s", "t", "u")), min_size=1, max_size=2, unique=True)
    refs = [{"group": "policy.linkerd.io", "kind": "Server", "name": name} for name in draw(parents)]
    return manifest(f"HTTPRoute {draw(_namespace)}/r", {"parentRefs": refs})


@st.composite
def _namespace_object(draw: st.DrawFn) -> Manifest:
    return manifest(f"Namespace {draw(_namespace)}", {"metadata": {"annotations": draw(_annotations)}})


def key_of(each: Manifest) -> tuple[str, str, str]:
    """What a manifest is called."""
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


@st.composite
def worlds(draw: st.DrawFn) -> list[Manifest]:
    """Pods, their namespaces, and policy about them; every object once."""
    found = [
        *draw(_pods()),
        *draw(st.lists(_namespace_object(), max_size=2)),
        *draw(st.lists(_server(), min_size=1, max_size=4)),
        *draw(st.lists(st.one_of(_server_authorization(), _authorization_policy()), max_size=5)),
        *draw(st.lists(_authentications, max_size=4)),
        *draw(st.lists(_route(), max_size=2)),
    ]
    return list({key_of(each): each for each in found}.values())


_OF_KIND: dict[str, st.SearchStrategy[Manifest]] = {
    "Pod": _pods().map(lambda pods: pods[0]),
    "Namespace": _namespace_object(),
    "Server": _server(),
    "ServerAuthorization": _server_authorization(),
    "AuthorizationPolicy": _authorization_policy(),
    "MeshTLSAuthentication": _authentication("MeshTLSAuthentication"),
    "NetworkAuthentication": _authentication("NetworkAuthentication"),
    "HTTPRoute": _route(),
}


@st.composite
def histories(draw: st.DrawFn) -> list[list[Manifest]]:
    """A world, and what it is after each of some changes: one object that comes, or goes, or says something else."""
    now = {key_of(each): each for each in draw(worlds())}
    found = [list(now.values())]
    for _ in range(draw(st.integers(1, 8))):
        how = draw(st.sampled_from(("comes", "goes", "changes", "changes")))
        key = draw(st.sampled_from(sorted(now))) if now else None
        if how == "comes" or key is None:
            new = draw(st.one_of(*_OF_KIND.values()))
            now[key_of(new)] = new
        elif how == "goes":
            del now[key]
        else:
            former, new = now[key], draw(_OF_KIND[key[0]])
            new["metadata"] |= {
                name: former["metadata"][name] for name in ("name", "namespace") if name in former["metadata"]
            }
            if new.get("status"):
                new["status"] = former["status"]
            target = new.get("spec", {}).get("targetRef", {})
            if target.get("kind") == "Namespace":
                new["spec"]["targetRef"] = {**target, "name": key[1]}
            now[key] = new
        found.append(list(now.values()))
    return found
