"""What a decision does, and what it leaves undone: no words, no walk through all authorizations, bounded memory.

How long it takes is told by `python -m bench.decision`; a clock has no place in a test.
"""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.policy import advice
from agent.policy.authorize import authorize, could_permit_unauthenticated
from agent.policy.identities import IdentityMatch
from agent.policy.matcher import MAX_REMEMBERED, Matcher
from agent.policy.model import Authorization, Client, Denial, Permit, Permits, PodPort, Requirement
from agent.policy.networks import AddressSet, NetworkMatch, number_of

SERVER = PodPort(PodKey("demo/api"), 8080)
TD = "example.test"


def account(name: str, namespace: str = "demo") -> SpiffeId:
    return SpiffeId.for_service_account(TD, namespace, name)


def client(identity: SpiffeId | None = None, address: str | None = "10.1.2.3", *, tls: bool = False) -> Client:
    where = None if address is None else ipaddress.ip_address(address)
    return Client(where, identity, tls=tls or identity is not None)


def names(name: str) -> Authorization:
    return Authorization(
        f"for {name}", Requirement.MESH_IDENTITY, identities=IdentityMatch(accounts=frozenset({("demo", name)}))
    )


def network(*texts: str) -> tuple[NetworkMatch, ...]:
    return tuple(NetworkMatch(ipaddress.ip_network(text)) for text in texts)


FIFTY = Permits("Server demo/api", tuple(names(f"reader-{at}") for at in range(50)))


def test_a_decision_makes_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(*_: object) -> str:
        raise AssertionError("words were made for a decision that nobody has read")

    with monkeypatch.context() as patched:
        for name in ("lacks", "lacks_identity", "_lacks_network"):
            patched.setattr(Authorization, name, words)
        patched.setattr(advice, "message", words)
        allowed = authorize(SERVER, client(account("reader-49")), FIFTY)
        denied = [authorize(SERVER, each, FIFTY) for each in (client(account("stranger")), client())]
    assert allowed == Permit("Server demo/api", "for reader-49")
    assert [isinstance(each, Denial) for each in denied] == [True, True]
    identity, plain = denied
    assert isinstance(identity, Denial)
    assert isinstance(plain, Denial)
    assert (identity.outcome, plain.outcome) == (Outcome.IDENTITY_NOT_PERMITTED, Outcome.UNAUTHENTICATED)
    assert [each.authorization for each in plain.considered] == [f"for reader-{at}" for at in range(50)]
    assert "is none of its identities" in identity.considered[7].lacked
    assert "demo/api:8080" in identity.message
    assert identity.message is identity.message, "they are made once"


def test_who_was_seen_is_looked_up_once_and_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    permits = Permits("Server demo/api", FIFTY.authorizations)
    asked: list[SpiffeId] = []
    remember = Matcher._remember

    def counted(self: Matcher, identity: SpiffeId) -> Any:
        asked.append(identity)
        return remember(self, identity)

    monkeypatch.setattr(Matcher, "_remember", counted)
    for _ in range(3):
        authorize(SERVER, client(account("reader-1")), permits)
    assert asked == [account("reader-1")]
    for at in range(MAX_REMEMBERED):
        authorize(SERVER, client(account(f"crowd-{at}")), permits)
    assert len(permits.matcher._by_identity) == MAX_REMEMBERED
    authorize(SERVER, client(account("reader-1")), permits)
    assert asked[-1] == account("reader-1"), "the longest known was forgotten"


def test_networks_that_many_authorizations_share_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = network("10.0.0.0/8", "fd00::/8")
    many = tuple(Authorization(f"a{at}", Requirement.NOTHING, shared, in_cluster=True) for at in range(50))
    permits = Permits("Server demo/api", many)
    looks: list[int] = []
    has = AddressSet.has

    def counted(self: AddressSet, number: int, *, six: bool) -> bool:
        looks.append(number)
        return has(self, number, six=six)

    monkeypatch.setattr(AddressSet, "has", counted)
    assert isinstance(authorize(SERVER, client(address="192.0.2.1"), permits), Denial)
    assert len(looks) == 2, "once for the decision, once to tell a network from an identity"


NETWORKS = st.lists(
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "fd00::/8", "::/0"]),
    max_size=2,
).map(lambda texts: network(*texts))
IDENTITIES = st.sampled_from(
    [account("web"), account("cart"), account("web", "other"), SpiffeId(TD, "/vm/7"), SpiffeId(TD, "/agent/n1"),
     SpiffeId(TD, "/authority")]
)  # fmt: skip
MATCHES = st.builds(
    IdentityMatch,
    everyone=st.booleans(),
    ids=st.frozensets(IDENTITIES, max_size=1),
    names=st.frozensets(st.sampled_from(["web.demo.serviceaccount.identity.example.test"]), max_size=1),
    suffixes=st.sampled_from([(), (".demo.serviceaccount.identity.example.test",), (".linkerd.example.test",)]),
    accounts=st.frozensets(st.sampled_from([("demo", "cart")]), max_size=1),
    namespaces=st.frozensets(st.sampled_from(["other"]), max_size=1),
)
AUTHORIZATIONS = st.builds(
    Authorization,
    name=st.just("-"),
    requirement=st.sampled_from(list(Requirement)),
    networks=NETWORKS,
    identities=st.none() | MATCHES,
    in_cluster=st.booleans(),
    nobody=st.sampled_from(["", "", "", "what it refers to does not exist"]),
)
CLIENTS = st.builds(
    client,
    st.none() | IDENTITIES,
    st.sampled_from([None, "10.1.2.3", "10.9.0.1", "192.0.2.1", "::ffff:10.1.2.3", "2001:db8::1", "fd00::1"]),
    tls=st.booleans(),
)


@given(st.lists(AUTHORIZATIONS, max_size=6), st.none() | AUTHORIZATIONS, CLIENTS)
def test_the_first_that_lacks_nothing_decides_as_if_they_were_asked_in_turn(
    found: list[Authorization], probing: Authorization | None, who: Client
) -> None:
    named = tuple(
        Authorization(f"a{at}", each.requirement, each.networks, each.identities, each.in_cluster, each.nobody)
        for at, each in enumerate(found)
    )
    probe = None if probing is None else Authorization("probe", Requirement.NOTHING, probing.networks)
    permits = Permits("Server demo/api", named, probe=probe)
    in_turn = [each.name for each in (*named, *([probe] if probe else [])) if each.lacks(who) is None]
    for _ in range(2):  # when it was never asked for, and when it is remembered
        answer = authorize(SERVER, who, permits)
        if isinstance(answer, Permit):
            assert answer.authorization == in_turn[0]
            order = [each.name for each in (*named, *([probe] if probe else []))]
            before = order[: order.index(answer.authorization)]
            considered = permits.considered(who, until=answer.authorization)
            assert [each.authorization for each in considered] == before, "whoever came before it did not let in"
        else:
            assert in_turn == []
            assert len(answer.considered) == len(named) + (probe is not None)
    if who.address is not None:
        plain = authorize(SERVER, Client(who.address, None, tls=False), permits)
        assert could_permit_unauthenticated(permits, who.address) is isinstance(plain, Permit)


@given(
    st.lists(
        st.tuples(st.ip_addresses(v=4), st.integers(0, 32)) | st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
    ),
    st.lists(st.integers(0, 3), max_size=3),
    st.ip_addresses(),
)
def test_networks_as_numbers_mean_the_same_as_networks_as_written(
    parts: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    deeper: list[int],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    matches = []
    for base, length in [*parts, (address, 8), (address, 9)]:
        whole = ipaddress.ip_network(f"{base}/{length}", strict=False)
        excepts = tuple(
            ipaddress.ip_network(f"{base}/{min(length + 1 + more, whole.max_prefixlen)}", strict=False)
            for more in deeper
        )
        matches.append(NetworkMatch(whole, excepts))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    expected = any(
        address in each.network and not any(address in left_out for left_out in each.excepts) for each in matches
    )
    number, six = number_of(address)
    assert AddressSet(tuple(matches)).has(number, six=six) is expected


MESH_ITSELF = [(SpiffeId.for_agent(TD, "n1"), "an agent"), (SpiffeId(TD, "/authority"), "the authority")]
EVERYONE = [
    Authorization("all-authenticated", Requirement.MESH_IDENTITY),
    Authorization("*", Requirement.MESH_IDENTITY, identities=IdentityMatch(everyone=True)),
    Authorization("*.example.test", Requirement.MESH_IDENTITY, identities=IdentityMatch(suffixes=(".example.test",))),
    Authorization("agents", Requirement.MESH_IDENTITY, identities=IdentityMatch(namespaces=frozenset({"agent"}))),
    Authorization("a web", Requirement.MESH_IDENTITY, identities=IdentityMatch(ids=frozenset({account("web")}))),
]


@pytest.mark.parametrize(("identity", "owner"), MESH_ITSELF)
@pytest.mark.parametrize("authorization", EVERYONE, ids=lambda each: each.name)
def test_what_the_mesh_itself_runs_under_is_no_workload(
    authorization: Authorization, identity: SpiffeId, owner: str
) -> None:
    answer = authorize(SERVER, client(identity), Permits("Server demo/api", (authorization,)))
    assert isinstance(answer, Denial)
    assert answer.outcome is Outcome.IDENTITY_NOT_PERMITTED
    (considered,) = answer.considered
    assert f"{identity} is {owner}'s own identity, no workload's" in considered.lacked
    assert f"{owner}'s own identity" in answer.message


@pytest.mark.parametrize(("identity", "owner"), MESH_ITSELF)
def test_its_spiffe_id_written_out_names_it_and_what_asks_for_no_identity_lets_it_in(
    identity: SpiffeId, owner: str
) -> None:
    exact = Authorization("exact", Requirement.MESH_IDENTITY, identities=IdentityMatch(ids=frozenset({identity})))
    for each in (exact, Authorization("tls", Requirement.TLS), Authorization("anybody", Requirement.NOTHING)):
        answer = authorize(SERVER, client(identity), Permits("Server demo/api", (each,)))
        assert answer == Permit("Server demo/api", each.name)


def test_any_other_spiffe_id_without_service_account_is_a_mesh_identity_still() -> None:
    permits = Permits("default:all-authenticated", (EVERYONE[0],))
    for path in ("/vm/7", "/agents/n1", "/authority/x", "/agent"):
        assert isinstance(authorize(SERVER, client(SpiffeId(TD, path)), permits), Permit)
