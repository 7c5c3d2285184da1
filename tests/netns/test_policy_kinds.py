"""Every kind of policy object, enforced on real connections over both address families.

One pod, `server`, has a port for each case; the clients differ in all that policy can tell apart.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from agent.lab.stage import Player
from tests.netns.policies import (
    DEFAULT_POLICY,
    GROUP,
    VERSIONS,
    account,
    by_mesh,
    by_network,
    decisions,
    explain,
    mesh_tls,
    network,
    policy,
    reaches,
    reaches_by_tls,
    server,
    server_authorization,
)
from tests.netns.test_certificates import context
from tests.netns.world import Echo, Manifest, World
from tests.tls.pki import Pki

SUFFIX = "serviceaccount.identity.example.test"
NEAR = ("10.77.0.0/29", "fd77::/125")
"""The cluster's networks in this world: the first six pods are inside, `far` and `outsider` are not."""
MESHED = frozenset({"web", "cart", "alien", "far"})
EVERYONE = MESHED | {"stranger", "outsider", "anonymous"}
"""`alien` is service account web of another namespace; `stranger` and `outsider` speak plaintext; `anonymous` is the
stranger's address, and TLS without a certificate."""
INSIDE = frozenset({"web", "cart", "alien", "stranger", "anonymous"})
NOBODY: frozenset[str] = frozenset()
DEFAULTS = {
    "all-unauthenticated": EVERYONE,
    "all-authenticated": MESHED,
    "cluster-authenticated": MESHED & INSIDE,
    "cluster-unauthenticated": INSIDE,
    "deny": NOBODY,
    "audit": EVERYONE,
}


class Place(NamedTuple):
    world: World
    players: Mapping[str, Player]

    def tries(self, who: str, target: str, port: int, version: int) -> bool:
        """Whether one of the clients reaches a port of a pod."""
        pod = self.players[target]
        address = pod.address(version)
        if who != "anonymous":
            return reaches(self.world, self.players[who], address, port)
        namespace = "rooms" if target == "spacious" else "demo"
        name = f"{target}.{namespace}.{SUFFIX}"
        return reaches_by_tls(self.world, self.players["stranger"], address, port, context(None), name)

    def who_reaches(self, target: str, port: int, version: int) -> frozenset[str]:
        """Those of the clients that do."""
        return frozenset(who for who in EVERYONE if self.tries(who, target, port, version))


Objects = Callable[[str, int], list[Manifest]]
"""Made from the case's name, which is its Server's, and its port."""


class Case(NamedTuple):
    """Objects for one port, whom they let in, and how each of the others is refused."""

    name: str
    allowed: frozenset[str]
    objects: Objects
    refused: str | Mapping[str, str] = MappingProxyType({})
    """Outcomes by client, or one for all; where it says nothing: unauthenticated, identity_not_permitted."""
    decides: str = ""
    """What decides, if not the Server that is called as the case is."""

    def outcome(self, who: str) -> str:
        plain = who in {"stranger", "outsider", "anonymous"}
        usual = "unauthenticated" if plain else "identity_not_permitted"
        return self.refused if isinstance(self.refused, str) else self.refused.get(who, usual)

    @property
    def decider(self) -> str:
        return self.decides or f"Server demo/{self.name}"


def by_identity(*identities: str, version: str = "v1beta3") -> Objects:
    return lambda name, port: [
        server(name, port, version=version),
        mesh_tls(name, *identities),
        policy(name, name, by_mesh(name)),
    ]


def by_refs(*refs: dict[str, str], version: str = "v1beta3") -> Objects:
    return lambda name, port: [
        server(name, port, version=version),
        mesh_tls(name, refs=list(refs)),
        policy(name, name, by_mesh(name)),
    ]


def by_networks(*networks: str | dict[str, Any]) -> Objects:
    return lambda name, port: [
        server(name, port),
        network(name, *networks),
        policy(name, name, by_network(name)),
    ]


def for_account(*more: Manifest, **fields: Any) -> Objects:
    """Service account web alone, on a Server with some fields more."""
    return lambda name, port: [server(name, port, **fields), policy(name, name, account("web")), *more]


def by_server_authorization(client: dict[str, Any], **fields: Any) -> Objects:
    return lambda name, port: [server(name, port, **fields), server_authorization(name, name, client)]


def selecting(*expressions: dict[str, Any], labels: dict[str, str] | None = None) -> Objects:
    selector = {"podSelector": {"matchExpressions": list(expressions), "matchLabels": labels or {}}}
    return for_account(selector=selector)


def route(kind: str, group: str, version: str) -> Objects:
    """A Server with a route, and an authorization for the route only."""
    return lambda name, port: [
        server(name, port),
        {
            "apiVersion": f"{group}/{version}",
            "kind": kind,
            "metadata": {"name": name, "namespace": "demo"},
            "spec": {"parentRefs": [{"group": GROUP, "kind": "Server", "name": name}], "rules": []},
        },
        policy(name, {"group": group, "kind": kind, "name": name}, account("web")),
    ]


WEB = frozenset({"web"})
GATEWAY = "gateway.networking.k8s.io"
BY_DEFAULT = "default:all-authenticated"
EVERYWHERE = [{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}]
FAR_AWAY = {"far": "identity_not_permitted", "outsider": "unauthenticated"}
OUTSIDE = dict.fromkeys(("far", "outsider"), "network_not_permitted")
"""Where networks count too: those outside lack at least that."""

CASES = [
    # MeshTLSAuthentication
    Case("an-exact-identity", WEB, by_identity(f"web.demo.{SUFFIX}")),
    Case("linkerds-own-name", WEB, by_identity("web.demo.serviceaccount.identity.linkerd.example.test")),
    Case("a-spiffe-id", WEB, by_identity("spiffe://example.test/ns/demo/sa/web", version="v1beta2")),
    Case("an-id-of-no-account", NOBODY, by_identity("spiffe://example.test/vm/builder")),
    Case("two-identities", frozenset({"web", "alien"}), by_identity(f"web.demo.{SUFFIX}", f"web.other.{SUFFIX}")),
    Case("any-identity", MESHED, by_identity("*", version="v1beta1")),
    Case("a-suffix", frozenset({"web", "cart", "far"}), by_identity(f"*.demo.{SUFFIX}", version="v1alpha1")),
    Case("a-suffix-of-nobody", NOBODY, by_identity(f"*.mo.{SUFFIX}")),
    Case("a-ref-to-an-account", WEB, by_refs(account("web"))),
    Case("a-ref-to-an-account-elsewhere", frozenset({"alien"}), by_refs(account("web", "other"))),
    Case("a-ref-to-a-namespace", frozenset({"alien"}), by_refs({"kind": "Namespace", "name": "other"})),
    # The other references
    Case("an-account", WEB, for_account()),
    Case(
        "an-account-elsewhere",
        frozenset({"alien"}),
        lambda n, p: [server(n, p), policy(n, n, account("web", "other"))],
    ),
    Case("no-references", EVERYONE, lambda n, p: [server(n, p), policy(n, n)]),
    Case("networks", INSIDE, by_networks(*NEAR), "network_not_permitted"),
    Case(
        "networks-with-exceptions",
        frozenset({"cart", "alien"}),
        by_networks(
            {"cidr": NEAR[0], "except": ["10.77.0.5", "10.77.0.2/32"]},
            {"cidr": NEAR[1], "except": ["fd77::5/128", "fd77::2"]},
        ),
        "network_not_permitted",
    ),
    Case("a-bare-address", frozenset({"outsider"}), by_networks("10.77.0.9", "fd77::9"), "network_not_permitted"),
    Case(
        "references-are-anded",
        frozenset({"far"}),
        lambda n, p: [
            *(server(n, p), mesh_tls(n, "*"), network(n, "10.77.0.8/31", "fd77::8/127")),
            policy(n, n, by_mesh(n), by_network(n)),
        ],
        dict.fromkeys(INSIDE, "network_not_permitted"),
    ),
    Case(
        "policies-are-ored",
        frozenset({"web", "alien"}),
        lambda n, p: [
            server(n, p),
            policy(f"{n}-1", n, account("web")),
            policy(f"{n}-2", n, account("web", "other")),
        ],
    ),
    # What allows nobody
    Case("no-authorization", NOBODY, lambda n, p: [server(n, p)], "denied_by_default"),
    Case("a-ref-to-nothing", NOBODY, lambda n, p: [server(n, p), policy(n, n, by_mesh(n))], "policy_incomplete"),
    Case(
        "half-of-the-refs-to-nothing",
        NOBODY,
        lambda n, p: [server(n, p), mesh_tls(n, "*"), policy(n, n, by_mesh(n), by_network(n))],
        "policy_incomplete",
    ),
    Case(
        "one-policy-of-two-refers-to-nothing",
        WEB,
        lambda n, p: [
            server(n, p),
            policy(f"{n}-1", n, by_network(n)),
            policy(f"{n}-2", n, account("web")),
        ],
    ),
    Case("a-route-only", NOBODY, route("HTTPRoute", GROUP, "v1beta3"), "route_level_only"),
    Case("a-gateway-route-only", NOBODY, route("HTTPRoute", GATEWAY, "v1"), "route_level_only"),
    Case("a-grpc-route-only", NOBODY, route("GRPCRoute", GATEWAY, "v1"), "route_level_only"),
    Case(
        "a-route-besides",
        frozenset({"cart"}),
        lambda n, p: [*route("HTTPRoute", GROUP, "v1beta1")(n, p), policy(f"{n}-server", n, account("cart"))],
    ),
    # ServerAuthorization
    Case(
        "accounts-of-a-server-authorization",
        frozenset({"web", "alien"}),
        by_server_authorization(
            {"meshTLS": {"serviceAccounts": [{"name": "web"}, {"name": "web", "namespace": "other"}]}}
        ),
        OUTSIDE,
    ),
    Case(
        "unauthenticated-in-the-cluster", INSIDE, by_server_authorization({"unauthenticated": True}), OUTSIDE
    ),
    Case(
        "unauthenticated-everywhere",
        EVERYONE,
        by_server_authorization({"unauthenticated": True, "networks": EVERYWHERE}),
    ),
    Case(
        "unauthenticated-tls",
        frozenset({"web", "cart", "alien", "anonymous"}),
        by_server_authorization({"meshTLS": {"unauthenticatedTLS": True}}),
        OUTSIDE,
    ),
    Case(
        "unauthenticated-tls-everywhere",
        MESHED | {"anonymous"},
        by_server_authorization({"meshTLS": {"unauthenticatedTLS": True}, "networks": EVERYWHERE}),
    ),
    Case(
        "identities-of-a-server-authorization-in-networks",
        frozenset({"web", "far"}),
        by_server_authorization(
            {
                "meshTLS": {"identities": [f"*.demo.{SUFFIX}"]},
                "networks": [
                    {"cidr": "10.77.0.0/24", "except": ["10.77.0.3"]},
                    {"cidr": "fd77::/64", "except": ["fd77::3"]},
                ],
            }
        ),
        {"cart": "network_not_permitted"},
    ),
    Case(
        "a-server-authorization-that-selects",
        frozenset({"cart"}),
        lambda n, p: [
            server(n, p, labels={"part-of": n}),
            server_authorization(
                n,
                {"selector": {"matchExpressions": [{"key": "part-of", "operator": "In", "values": [n]}]}},
                {"meshTLS": {"serviceAccounts": [{"name": "cart"}]}},
            ),
        ],
        OUTSIDE,
    ),
    Case(
        "both-forms",
        frozenset({"web", "cart"}),
        lambda n, p: [
            *(server(n, p), policy(n, n, account("web"))),
            server_authorization(n, n, {"meshTLS": {"identities": [f"cart.demo.{SUFFIX}"]}}),
        ],
    ),
    # What a Server selects
    Case("a-named-port", WEB, lambda n, _: [server(n, "named"), policy(n, n, account("web"))]),
    Case("in", WEB, selecting({"key": "app", "operator": "In", "values": ["x", "server"]})),
    Case("exists", WEB, selecting({"key": "tier", "operator": "Exists"})),
    Case("selects-all", WEB, for_account(selector={"podSelector": {}})),
    Case("not-in", MESHED, selecting({"key": "app", "operator": "NotIn", "values": ["server"]}), decides=BY_DEFAULT),
    Case("does-not-exist", MESHED, selecting({"key": "tier", "operator": "DoesNotExist"}), decides=BY_DEFAULT),
    Case(
        "expressions-and-labels",
        MESHED,
        selecting({"key": "tier", "operator": "Exists"}, labels={"app": "another"}),
        decides=BY_DEFAULT,
    ),
    Case(
        "external-workloads-only", MESHED, for_account(selector={"externalWorkloadSelector": {}}), decides=BY_DEFAULT
    ),
    Case("of-another-namespace", MESHED, lambda n, p: [server(n, p, namespace="other")], decides=BY_DEFAULT),
    # Several on one port
    Case(
        "the-oldest",
        WEB,
        lambda n, p: [
            *for_account(created="2020-01-01T00:00:00Z")(n, p),
            server(f"a-younger-than-{n}", p, created="2024-01-01T00:00:00Z"),
            policy(f"a-younger-than-{n}", f"a-younger-than-{n}"),
        ],
    ),
    Case(
        "the-first-by-name",
        WEB,
        lambda n, p: [
            *for_account(created="2020-01-01T00:00:00Z")(n, p),
            server(f"{n}-but-one", p, created="2020-01-01T00:00:00Z"),
            policy(f"{n}-but-one", f"{n}-but-one"),
        ],
    ),
    # accessPolicy
    *(
        Case(
            f"access-policy-{name}",
            allowed,
            lambda n, p: [server(n, p, access=n.removeprefix("access-policy-"))],
            "denied_by_default" if name == "deny" else OUTSIDE if name.startswith("cluster") else {},
        )
        for name, allowed in DEFAULTS.items()
    ),
    Case("an-access-policy-is-ored", WEB | INSIDE, for_account(access="cluster-unauthenticated")),
]  # fmt: skip
PORTS = {case.name: 7100 + number for number, case in enumerate(CASES)}
AUDITED, DEFAULT_PORT = 7050, 7000
LATER: list[Manifest] = [
    {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "EgressNetwork",
        "metadata": {"name": "later", "namespace": "demo"},
        "spec": {"trafficPolicy": "Deny", "networks": [{"cidr": "192.0.2.0/24"}]},
    },
    {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "HTTPLocalRateLimitPolicy",
        "metadata": {"name": "later", "namespace": "demo"},
        "spec": {
            "targetRef": {"group": GROUP, "kind": "Server", "name": "audited"},
            "total": {"requestsPerSecond": 100},
        },
    },
]
"""What bears on requests, and not on connections."""


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world("--cluster-networks", ",".join(NEAR))
    named = {"name": "named", "containerPort": PORTS["a-named-port"]}
    players = {
        "web": world.pod("web"),
        "cart": world.pod("cart"),
        "alien": world.pod("alien", namespace="other", service_account="web"),
        "stranger": world.stranger("stranger"),
        "server": world.pod(
            "server",
            labels={"tier": "inner"},
            spec={"containers": [{"name": "main", "ports": [named]}]},
        ),
        "spacious": world.pod("spacious", namespace="rooms"),
        "far": world.pod("far"),
        "outsider": world.stranger("outsider"),
    }
    assert [players[who].ipv4 for who in ("web", "stranger", "outsider")] == ["10.77.0.2", "10.77.0.5", "10.77.0.9"]
    echoes = []
    for name in DEFAULTS:
        players[name] = world.pod(name, annotations={DEFAULT_POLICY: name})
        echoes.append(Echo(world, players[name], DEFAULT_PORT, 6))
    for case in CASES:
        world.write(*case.objects(case.name, PORTS[case.name]))
        echoes.append(Echo(world, players["server"], PORTS[case.name], 6))
    world.write(
        *LATER,
        *(server("audited", AUDITED, access="audit"), policy("audited", "audited", account("web"))),
    )
    echoes.append(Echo(world, players["server"], AUDITED, 6))
    world.write(
        *(server(name, port, app="spacious", namespace="rooms") for name, port in (("front", 7001), ("back", 7002))),
        policy("rooms", {"kind": "Namespace", "name": "rooms"}, account("web", "demo"), namespace="rooms"),
    )
    echoes += [Echo(world, players["spacious"], port, 6) for port in (7001, 7002, 7003)]
    world.start()
    yield Place(world, players)
    for echo in echoes:
        echo.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_kind_lets_in_exactly_whom_it_names(place: Place, case: Case, version: int) -> None:
    before = decisions(place.world, case.decider)
    assert place.who_reaches("server", PORTS[case.name], version) == case.allowed
    after = decisions(place.world, case.decider)
    audits = "audit" in case.name
    expected = Counter({("audit" if audits else "allow", ""): len(case.allowed)})
    expected.update(("deny", case.outcome(who)) for who in EVERYONE - case.allowed)
    rise = {key: count - before.get(key, 0) for key, count in after.items()}
    assert {key: count for key, count in rise.items() if count} == {key: n for key, n in expected.items() if n}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_explain_says_of_each_kind_what_connections_get(place: Place, case: Case) -> None:
    for who in EVERYONE - {"anonymous"}:
        if who in MESHED:
            asked = [{"from_": f"{'other' if who == 'alien' else 'demo'}/{who}"}]
        else:
            asked = [{"from_ip": place.players[who].address(version)} for version in VERSIONS]
        for question in asked:
            answer = explain(place.world, **question, to="demo/server", port=PORTS[case.name])
            assert answer["server"] == case.decider
            if who in case.allowed:
                assert answer["verdict"] == ("audit" if "audit" in case.name else "allow"), answer
            else:
                assert answer["verdict"] == "deny"
                assert answer["reason"].startswith(f"{case.outcome(who)}: "), answer


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", DEFAULTS)
def test_each_default_policy_lets_in_whom_it_names_over_both_families(place: Place, name: str, version: int) -> None:
    assert place.who_reaches(name, DEFAULT_PORT, version) == DEFAULTS[name]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_policy_on_a_namespace_holds_for_all_its_servers_and_for_no_port_without_one(
    place: Place, version: int
) -> None:
    assert place.who_reaches("spacious", 7001, version) == WEB
    assert place.who_reaches("spacious", 7002, version) == WEB
    assert place.who_reaches("spacious", 7003, version) == MESHED


def is_of_audited(client_id: str, destination: str, line: dict[str, Any]) -> bool:
    """Whether the audited Server decided here, about this client and destination."""
    return (
        line.get("server") == "Server demo/audited"
        and line.get("client_id") == client_id
        and destination in str(line.get("destination"))
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_real_authorization_allows_is_never_counted_as_audit(place: Place, version: int) -> None:
    before = Counter(decisions(place.world, "Server demo/audited"))
    assert place.who_reaches("server", AUDITED, version) == EVERYONE
    after = Counter(decisions(place.world, "Server demo/audited"))
    assert after - before == {("allow", ""): 1, ("audit", ""): len(EVERYONE) - 1}
    destination = place.players["server"].address(version)
    for who, audit in (("web", None), ("cart", True)):
        client_id = f"spiffe://example.test/ns/demo/sa/{who}"
        record = place.world.mesh.wait_for_log(partial(is_of_audited, client_id, destination))
        assert record is not None
        assert record.get("audit") is audit
        assert record["authorization"] == ("audit" if audit else "AuthorizationPolicy demo/audited")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("case", "allowed"),
    [
        ("an-id-of-no-account", True),
        ("any-identity", True),
        ("no-references", True),
        ("an-exact-identity", False),
        ("a-ref-to-a-namespace", False),
    ],
)
def test_a_peer_that_has_a_spiffe_id_and_is_no_pod(place: Place, case: str, allowed: bool, version: int) -> None:
    svid = Pki.from_state(place.world.mesh.directory / "state" / "authority").certificate(
        ["spiffe://example.test/vm/builder"]
    )
    address, port = place.players["server"].address(version), PORTS[case]
    who, name = place.players["stranger"], f"server.demo.{SUFFIX}"
    assert reaches_by_tls(place.world, who, address, port, context(svid), name) is allowed
    answer = explain(
        place.world,
        from_ip=who.address(version),
        from_id="spiffe://example.test/vm/builder",
        to="demo/server",
        port=port,
    )
    assert answer["verdict"] == ("allow" if allowed else "deny")


def test_what_waits_for_the_http_layer_is_loaded_and_said(place: Place) -> None:
    warnings = place.world.ready()["warnings"]
    for kind in ("EgressNetwork", "HTTPLocalRateLimitPolicy"):
        assert any(f"{kind} demo/later" in each and "not enforced" in each for each in warnings), warnings
    for route_kind in ("HTTPRoute", "GRPCRoute"):
        assert any(f"targets {route_kind} a-" in each and "not enforced" in each for each in warnings), warnings


def test_a_server_that_loses_to_an_older_one_is_reported(place: Place) -> None:
    warnings = place.world.ready()["warnings"]
    for loser, winner in (
        ("a-younger-than-the-oldest", "the-oldest"),
        ("the-first-by-name-but-one", "the-first-by-name"),
    ):
        assert any(loser in each and f"Server {winner} " in each for each in warnings), warnings
    assert place.world.count("quietwire_policy_warnings") == len(warnings)
    assert place.world.ready()["faults"] == []


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_a_pod_always_reaches_itself(place: Place, loopback: str) -> None:
    strict = place.players["deny"]
    assert reaches(place.world, strict, loopback, DEFAULT_PORT)
    assert reaches(place.world, strict, strict.address(6 if ":" in loopback else 4), DEFAULT_PORT)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("case", "who"),
    [
        ("an-exact-identity", "cart"),
        ("networks", "far"),
        ("a-route-only", "web"),
        ("half-of-the-refs-to-nothing", "web"),
        ("no-authorization", "web"),
        ("accounts-of-a-server-authorization", "far"),
        ("policies-are-ored", "cart"),
        ("the-oldest", "stranger"),
    ],
)
def test_a_denial_in_the_log_says_what_explain_says(place: Place, case: str, who: str, version: int) -> None:
    client, target = place.players[who], place.players["server"]
    (found,) = [each for each in CASES if each.name == case]
    identity = {} if who == "stranger" else {"from_id": f"{who}.demo.{SUFFIX}"}
    answer = explain(place.world, from_ip=client.address(version), **identity, to="demo/server", port=PORTS[case])
    assert answer["verdict"] == "deny"
    where = f"[{target.ipv6}]:{PORTS[case]}" if version == 6 else f"{target.ipv4}:{PORTS[case]}"

    def logged() -> dict[str, Any] | None:
        # Lines of one pod and reason are bounded per second: one that is left out comes at the next attempt.
        assert not place.tries(who, "server", PORTS[case], version)
        return place.world.mesh.wait_for_log(
            lambda line: (
                line.get("event") == "denied"
                and line.get("direction") == "inbound"
                and line.get("destination") == where
                and client.address(version) in str(line.get("client"))
                and line.get("security") == ("plain" if who == "stranger" else "mtls")
            ),
            1.0,
        )

    record = place.world.until(logged, "the denial is logged")
    assert record["outcome"] == found.outcome(who)
    assert record["server"] == answer["server"] == f"Server demo/{case}"
    assert record.get("considered", []) == answer["considered"]
    assert answer["reason"].partition(": ")[2] in record["reason"]


def test_explain_as_an_operator_types_it(place: Place) -> None:
    port = PORTS["an-exact-identity"]
    words = ("--from", "demo/cart", "--to", "demo/server", "--port", str(port), "--admin", place.world.mesh.admin)
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "authz", "explain", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"deny: demo/cart -> demo/server:{port}\n")
    assert "server: Server demo/an-exact-identity\n" in done.stdout
    assert "AuthorizationPolicy demo/an-exact-identity: " in done.stdout
    assert not reaches(place.world, place.players["cart"], place.players["server"].ipv4, port)
