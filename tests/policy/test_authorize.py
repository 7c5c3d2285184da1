"""The one decision, as a table, and against an implementation as naive as possible."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.snapshot import Catalog
from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.objects.model import MeshSettings, Pod
from agent.objects.policy import (
    DEFAULT_CLUSTER_NETWORKS,
    DefaultPolicy,
    LabelSelector,
    NetworkRange,
    Server,
    ServerAuthorization,
)
from agent.outcome import Outcome
from agent.policy.authorize import authorize, could_permit_unauthenticated
from agent.policy.identities import IdentityMatch
from agent.policy.index import PolicyIndex, PolicySettings, cluster_matches, default_permits
from agent.policy.model import Authorization, Client, Denial, Permit, Permits, PodPort, Requirement
from agent.policy.networks import NetworkMatch

WEB = SpiffeId.for_service_account("example.test", "demo", "web")
SERVER = PodPort(PodKey("demo/api"), 8080)
INSIDE, OUTSIDE = "10.1.2.3", "192.0.2.7"
ALLOW, AUDIT = "allow", "audit"


def client(address: str, kind: str) -> Client:
    return Client(ipaddress.ip_address(address), WEB if kind == "mesh" else None, tls=kind != "plain")


# policy, (inside: mesh, tls, plain), (outside: mesh, tls, plain)
TABLE = [
    ("all-unauthenticated", (ALLOW, ALLOW, ALLOW), (ALLOW, ALLOW, ALLOW)),
    (
        "all-authenticated",
        (ALLOW, Outcome.UNAUTHENTICATED, Outcome.UNAUTHENTICATED),
        (ALLOW, Outcome.UNAUTHENTICATED, Outcome.UNAUTHENTICATED),
    ),
    (
        "cluster-authenticated",
        (ALLOW, Outcome.UNAUTHENTICATED, Outcome.UNAUTHENTICATED),
        (Outcome.NETWORK_NOT_PERMITTED,) * 3,
    ),
    ("cluster-unauthenticated", (ALLOW, ALLOW, ALLOW), (Outcome.NETWORK_NOT_PERMITTED,) * 3),
    ("deny", (Outcome.DENIED_BY_DEFAULT,) * 3, (Outcome.DENIED_BY_DEFAULT,) * 3),
    ("audit", (AUDIT, AUDIT, AUDIT), (AUDIT, AUDIT, AUDIT)),
]
ROWS = [
    (policy, address, kind, expected)
    for policy, inside, outside in TABLE
    for address, row in (
        (INSIDE, inside),
        (OUTSIDE, outside),
        ("::ffff:10.1.2.3", inside),
        ("fd00::1", inside),
        ("2001:db8::1", outside),
    )
    for kind, expected in zip(("mesh", "tls", "plain"), row, strict=True)
]


def verdict(answer: Permit | Denial) -> str | Outcome:
    if isinstance(answer, Denial):
        return answer.outcome
    return AUDIT if answer.audit else ALLOW


@pytest.mark.parametrize(("policy", "address", "kind", "expected"), ROWS)
def test_every_default_for_every_client(policy: str, address: str, kind: str, expected: str | Outcome) -> None:
    permits = default_permits(DefaultPolicy(policy), DEFAULT_CLUSTER_NETWORKS)
    assert verdict(authorize(SERVER, client(address, kind), permits)) == expected


def naive(policy: str, address: str, *, identity: bool) -> bool:
    """Linkerd's sentences, one by one."""
    parsed = ipaddress.ip_address(address)
    inside = any(
        parsed in ipaddress.ip_network(each)
        for each in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
    )
    if policy in {"all-unauthenticated", "audit"}:
        return True
    if policy == "all-authenticated":
        return identity
    if policy == "cluster-authenticated":
        return identity and inside
    if policy == "cluster-unauthenticated":
        return inside
    return False


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(st.sampled_from(list(DefaultPolicy)), ADDRESSES, st.sampled_from(["mesh", "tls", "plain"]))
def test_both_implementations_agree(policy: DefaultPolicy, address: str, kind: str) -> None:
    if ipaddress.ip_address(address).version == 6 and ipaddress.IPv6Address(address).ipv4_mapped is not None:
        return
    permits = default_permits(policy, DEFAULT_CLUSTER_NETWORKS)
    answer = authorize(SERVER, client(address, kind), permits)
    assert isinstance(answer, Permit) is naive(policy, address, identity=kind == "mesh")
    # Detection may never rule out what the decision would allow, nor the reverse.
    plain = authorize(SERVER, client(address, "plain"), permits)
    assert could_permit_unauthenticated(permits, ipaddress.ip_address(address)) is isinstance(plain, Permit)


def test_a_denial_names_what_decided_what_was_considered_and_what_to_do() -> None:
    answer = authorize(SERVER, client(INSIDE, "plain"), default_permits(DefaultPolicy.ALL_AUTHENTICATED, ()))
    assert isinstance(answer, Denial)
    assert answer.decided_by == "default:all-authenticated"
    assert [each.authorization for each in answer.considered] == ["default:all-authenticated"]
    assert "no mesh identity" in answer.considered[0].lacked
    assert "demo/api:8080" in answer.message
    assert "Enrol the client's pod" in answer.message


@pytest.mark.parametrize(
    ("identities", "named"),
    [
        (IdentityMatch(everyone=True), True),
        (IdentityMatch(ids=frozenset({WEB})), True),
        (IdentityMatch(names=frozenset({"web.demo.serviceaccount.identity.example.test"})), True),
        (IdentityMatch(names=frozenset({"web.demo.serviceaccount.identity.linkerd.example.test"})), True),
        (IdentityMatch(suffixes=(".demo.serviceaccount.identity.example.test",)), True),
        (IdentityMatch(accounts=frozenset({("demo", "web")})), True),
        (IdentityMatch(namespaces=frozenset({"demo"})), True),
        (IdentityMatch(), False),
        (IdentityMatch(suffixes=(".other",), accounts=frozenset({("demo", "x")}), namespaces=frozenset({"x"})), False),
    ],
)
def test_what_is_said_to_be_lacking_is_lacking_and_nothing_else_is(identities: IdentityMatch, named: bool) -> None:
    only = Authorization(
        "a", Requirement.MESH_IDENTITY, (NetworkMatch(ipaddress.ip_network("192.0.2.0/24")),), identities
    )
    network = f"address {INSIDE} is in none of its networks"
    stranger = f"{WEB} is none of its identities"
    assert only.lacks(client(INSIDE, "mesh")) == (network if named else f"{network}; {stranger}")
    assert only.lacks(client(OUTSIDE, "mesh")) == (None if named else stranger)
    assert only.lacks(client(OUTSIDE, "plain")) == "no mesh identity: the client came without mTLS"


def test_a_client_whose_address_is_not_known_counts_as_one_of_the_clusters() -> None:
    nowhere = Client(None, WEB, tls=True)
    assert (str(nowhere), str(Client(None, None, tls=False))) == (str(WEB), "a client without identity or address")
    assert str(client(INSIDE, "plain")) == INSIDE
    assert str(client(INSIDE, "mesh")) == f"{WEB} at {INSIDE}"
    near = default_permits(DefaultPolicy.CLUSTER_AUTHENTICATED, ("10.0.0.0/8",)).authorizations[0]
    assert near.lacks(nowhere) is None
    assert near.lacks(client(OUTSIDE, "mesh")) == f"address {OUTSIDE} is in none of the cluster's networks"
    elsewhere = Authorization("a", Requirement.NOTHING, near.networks)
    assert elsewhere.lacks(nowhere) == "its address, which decides here, is not known"


CLUSTER = default_permits(DefaultPolicy.CLUSTER_AUTHENTICATED, ("10.0.0.0/8",)).authorizations[0].networks
AWAY = (NetworkMatch(ipaddress.ip_network("192.0.2.0/24")),)
NOBODY = Authorization("nobody", Requirement.NOTHING, nobody="it does not exist")
OTHER = IdentityMatch(ids=frozenset({SpiffeId.for_service_account("example.test", "demo", "other")}))


@pytest.mark.parametrize(
    ("authorizations", "expected"),
    [
        ((Authorization("a", Requirement.NOTHING, AWAY), Authorization("b", Requirement.NOTHING)), "b"),
        (
            (
                Authorization("a", Requirement.NOTHING, AWAY),
                Authorization("b", Requirement.MESH_IDENTITY, CLUSTER, in_cluster=True),
            ),
            "b",
        ),
        ((Authorization("a", Requirement.NOTHING, AWAY),), Outcome.NETWORK_NOT_PERMITTED),
        ((NOBODY, Authorization("a", Requirement.NOTHING, AWAY)), Outcome.NETWORK_NOT_PERMITTED),
        ((NOBODY, Authorization("a", Requirement.MESH_IDENTITY, (), OTHER)), Outcome.IDENTITY_NOT_PERMITTED),
        ((NOBODY,), Outcome.POLICY_INCOMPLETE),
    ],
)
def test_without_an_address_the_first_that_asks_for_none_or_for_the_clusters_decides(
    authorizations: tuple[Authorization, ...], expected: str | Outcome
) -> None:
    answer = authorize(SERVER, Client(None, WEB, tls=True), Permits("Server demo/api", authorizations))
    assert (answer.outcome if isinstance(answer, Denial) else answer.authorization) == expected


@pytest.mark.parametrize("given", [None, (NetworkRange("192.0.2.0/24", ("192.0.2.9/32",)),)])
@pytest.mark.parametrize(
    ("more", "requirement", "nobody"),
    [
        ({"unauthenticated": True}, Requirement.NOTHING, ""),
        ({"unauthenticated_tls": True}, Requirement.TLS, ""),
        ({"identities": ("*",)}, Requirement.MESH_IDENTITY, ""),
        ({}, Requirement.MESH_IDENTITY, "its client names nobody"),
    ],
)
def test_a_server_authorization_lets_in_from_its_networks_or_else_from_the_clusters(
    given: tuple[NetworkRange, ...] | None, more: dict[str, Any], requirement: Requirement, nobody: str
) -> None:
    server = Server("demo", "api", 8080, LabelSelector(()))
    allows = ServerAuthorization("demo", "one", "api", None, networks=given, **more)
    index = PolicyIndex(Catalog(1, (pod(None),), policies=(server, allows)), PolicySettings("example.test"))
    (found,) = (each for each in index.permits(pod(None), 8080).authorizations if "demo/one" in each.name)
    excepts = (ipaddress.ip_network("192.0.2.9/32"),)
    networks = (NetworkMatch(ipaddress.ip_network("192.0.2.0/24"), excepts),) if given else None
    assert found.networks == (networks or cluster_matches(DEFAULT_CLUSTER_NETWORKS))
    assert (found.requirement, found.in_cluster, found.nobody) == (requirement, given is None, nobody)


def pod(policy: str | None) -> Pod:
    return Pod("demo", "api", "api", "node-a", (INSIDE,), settings=MeshSettings(default_policy=policy))


def test_the_pods_annotation_goes_before_the_agents_flag() -> None:
    index = PolicyIndex(Catalog(), PolicySettings("example.test", DefaultPolicy.DENY))
    assert index.permits(pod(None), 80).decided_by == "default:deny"
    assert index.permits(pod("audit"), 80).decided_by == "default:audit"
