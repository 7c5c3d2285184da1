"""An SVID is shown to a peer before it replaces one that works."""

import time

import pytest
from msgspec.structs import replace

from agent.identity.provider import Unacceptable
from agent.identity.svid import Svid
from agent.outcome import Outcome
from agent.tls import trial
from tests.tls.pki import Pki
from tests.tls.wrong import RIGHT, WRONG

PKI = Pki()


def problem(svid: Svid) -> Unacceptable:
    with pytest.raises(Unacceptable) as caught:
        trial.check(svid, PKI.bundle(), now=time.time())
    assert str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", RIGHT)
def test_what_peers_take_passes(name: str) -> None:
    trial.check(RIGHT[name](PKI), PKI.bundle(), now=time.time())


@pytest.mark.parametrize("name", WRONG)
def test_what_a_peer_would_refuse_in_one_role_does_not(name: str) -> None:
    wrong = WRONG[name]
    assert problem(wrong.make(PKI)).outcome in {wrong.outcome, wrong.counts(server=True)}


@pytest.mark.parametrize(
    ("svid", "outcome"),
    [
        (Pki().svid("web"), Outcome.CERTIFICATE_UNTRUSTED),
        (PKI.svid("web", begins=-7200, ends=-3600), Outcome.CERTIFICATE_EXPIRED),
        (PKI.svid("web", begins=3600, ends=7200), Outcome.CERTIFICATE_EXPIRED),
        (PKI.certificate(["spiffe://other.test/ns/demo/sa/web"]), Outcome.FOREIGN_TRUST_DOMAIN),
        (replace(PKI.svid("web"), spiffe_id=PKI.svid("api").spiffe_id), Outcome.WRONG_SERVER_IDENTITY),
        (replace(PKI.svid("web"), key_pem=PKI.svid("web").key_pem), Outcome.HANDSHAKE_FAILED),
        (replace(PKI.svid("web"), chain_pem=b"nonsense"), Outcome.HANDSHAKE_FAILED),
        (replace(PKI.svid("web"), key_pem=b""), Outcome.HANDSHAKE_FAILED),
    ],
)
def test_what_is_wrong_is_told_by_how_it_would_count(svid: Svid, outcome: Outcome) -> None:
    assert problem(svid).outcome is outcome


def test_validity_is_judged_at_the_moment_that_is_given_too() -> None:
    svid = PKI.svid("web", ends=100)
    with pytest.raises(Unacceptable, match="expired"):
        trial.check(svid, PKI.bundle(), now=svid.not_after)


def test_a_handshake_that_does_not_end_is_taken_for_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MAX_TURNS", 1)
    found = problem(PKI.svid("web"))
    assert (found.outcome, found.detail) == (Outcome.HANDSHAKE_FAILED, "a handshake under it does not end")
