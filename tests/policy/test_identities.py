"""Whom an identity is meant by: its SPIFFE ID, its names, its service account, its namespace; and who is nobody's."""

import pytest

from agent.identity.spiffe import SpiffeId
from agent.policy.identities import IdentityMatch, names_of, whose_own

TD = "example.test"
WEB = SpiffeId.for_service_account(TD, "demo", "web")
AGENT = SpiffeId.for_agent(TD, "node-a")
AUTHORITY = SpiffeId(TD, "/authority")
OTHER = SpiffeId(TD, "/something/else")


@pytest.mark.parametrize("own", [AGENT, AUTHORITY])
def test_the_meshs_own_certificates_are_meant_only_where_their_very_id_is_written(own: SpiffeId) -> None:
    """They lie on nodes' disks: whoever stole one is no workload."""
    assert not IdentityMatch(everyone=True, suffixes=(".",)).includes(own)
    assert IdentityMatch(ids=frozenset({own})).includes(own)


def test_whose_own_it_is_is_said() -> None:
    assert [whose_own(each) for each in (AGENT, AUTHORITY, WEB, OTHER)] == ["an agent", "the authority", "", ""]
    assert whose_own(SpiffeId(TD, "/authority/else")) == ""


def test_an_identity_that_is_no_service_accounts_is_meant_by_its_id_or_as_anybody() -> None:
    assert names_of(OTHER) == (None, ())
    assert IdentityMatch(everyone=True).includes(OTHER)
    assert IdentityMatch(ids=frozenset({OTHER})).includes(OTHER)
    assert not IdentityMatch(suffixes=("",), namespaces=frozenset({"something", "else"})).includes(OTHER)


def test_a_workload_has_both_forms_of_its_name() -> None:
    assert names_of(WEB) == (
        ("demo", "web"),
        (
            "web.demo.serviceaccount.identity.example.test",
            "web.demo.serviceaccount.identity.linkerd.example.test",
        ),
    )


def test_the_namespace_of_another_is_not_meant() -> None:
    mine = IdentityMatch(namespaces=frozenset({"demo"}), accounts=frozenset({("shop", "cart")}))
    assert mine.includes(WEB)
    assert mine.includes(SpiffeId.for_service_account(TD, "shop", "cart"))
    assert not mine.includes(SpiffeId.for_service_account(TD, "shop", "web"))
    assert not mine.includes(SpiffeId.for_service_account(TD, "web", "demo"))
