"""What a denial says to an operator: who, where, by what, and the next step."""

import ipaddress

import pytest

from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.policy.advice import message
from agent.policy.model import Client, Permits, PodPort

TD, ADDRESS = "example.test", ipaddress.ip_address("192.0.2.1")
PORT = PodPort(PodKey("demo/api"), 80)
PLAIN = Client(ADDRESS, None, tls=False)
BY_SERVER, BY_DEFAULT = Permits("Server demo/api", ()), Permits("default:deny", ())


@pytest.mark.parametrize(
    ("permits", "outcome", "step"),
    [
        (BY_SERVER, Outcome.UNAUTHENTICATED, "Enrol the client's pod, or allow it by an AuthorizationPolicy"),
        (Permits("default:x", (), demanded=True), Outcome.UNAUTHENTICATED, "take the port out of the annotation"),
        (BY_SERVER, Outcome.NETWORK_NOT_PERMITTED, "Is --cluster-networks right?"),
        (BY_SERVER, Outcome.DENIED_BY_DEFAULT, "Write an AuthorizationPolicy for it"),
        (BY_DEFAULT, Outcome.DENIED_BY_DEFAULT, "the default policy is deny, and nothing allows anybody"),
        (Permits("a Server", (), broken=True), Outcome.DENIED_BY_DEFAULT, "quietwire authz check"),
        (Permits("a Server", (), only_routes=("AP a", "AP b")), Outcome.ROUTE_LEVEL_ONLY, "(AP a, AP b)"),
        (BY_SERVER, Outcome.POLICY_INCOMPLETE, "something that they refer to does not exist, or is empty"),
    ],
)
def test_each_denial_says_who_by_what_and_what_to_do(permits: Permits, outcome: Outcome, step: str) -> None:
    said = message(PORT, PLAIN, permits, outcome)
    assert said.startswith(f"demo/api:80: 192.0.2.1 is not permitted by {permits.decided_by}: ")
    assert step in said


def test_an_address_that_is_not_known_is_not_said_to_be_outside() -> None:
    said = message(PORT, Client(None, None, tls=False), BY_SERVER, Outcome.NETWORK_NOT_PERMITTED)
    assert said.endswith("its address is not known, and decides")


def test_the_meshs_own_identity_where_it_has_no_business_is_a_reason_to_revoke_it() -> None:
    for identity, step in (
        (SpiffeId.for_agent(TD, "node-a"), "that is an agent's own identity"),
        (SpiffeId(TD, "/authority"), "that is the authority's own identity"),
        (SpiffeId.for_service_account(TD, "demo", "web"), "no authorization names this identity"),
    ):
        said = message(PORT, Client(ADDRESS, identity, tls=True), BY_SERVER, Outcome.IDENTITY_NOT_PERMITTED)
        assert step in said
        assert ("quietwire authority revoke" in said) is ("own identity" in said)
