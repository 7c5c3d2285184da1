"""Who a leaf certificate says its holder is."""

import ssl
import time

import pytest

from agent.identity.peer import PeerRefused, expect, identify
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from agent.outcome import Outcome
from tests.tls.pki import TRUST_DOMAIN, Pki
from tests.tls.wrong import WRONG

PKI = Pki()


def leaf(svid: Svid) -> bytes:
    return ssl.PEM_cert_to_DER_cert(
        svid.chain_pem.decode().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )


def test_a_proper_svid_is_identified() -> None:
    svid = PKI.svid("web")
    identity = identify(leaf(svid), trust_domain=TRUST_DOMAIN, now=time.time())
    assert identity.spiffe_id == SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "web")
    assert identity.serial == svid.serial
    expect(identity, svid.spiffe_id)


@pytest.mark.parametrize(
    ("svid", "outcome"),
    [
        (PKI.certificate(["spiffe://other.test/a"]), Outcome.FOREIGN_TRUST_DOMAIN),
        (PKI.svid(begins=-90_000, ends=-3_600), Outcome.CERTIFICATE_EXPIRED),
        (PKI.svid(begins=86_400, ends=172_800), Outcome.CERTIFICATE_EXPIRED),
    ],
)
def test_each_wrong_certificate_has_its_own_reason(svid: Svid, outcome: Outcome) -> None:
    with pytest.raises(PeerRefused) as caught:
        identify(leaf(svid), trust_domain=TRUST_DOMAIN, now=time.time())
    assert caught.value.outcome is outcome


@pytest.mark.parametrize("name", [name for name, wrong in WRONG.items() if not wrong.above])
def test_a_leaf_that_breaks_a_rule_of_x509_svid_is_refused_whatever_openssl_said(name: str) -> None:
    with pytest.raises(PeerRefused) as caught:
        identify(leaf(WRONG[name].make(PKI)), trust_domain=TRUST_DOMAIN, now=time.time())
    assert caught.value.outcome in {WRONG[name].outcome, Outcome.NOT_AN_SVID}
    assert caught.value.detail


def test_validity_is_judged_each_time_though_parsing_is_remembered() -> None:
    svid = PKI.svid(ends=100)
    identify(leaf(svid), trust_domain=TRUST_DOMAIN, now=svid.not_after - 1)
    with pytest.raises(PeerRefused) as caught:
        identify(leaf(svid), trust_domain=TRUST_DOMAIN, now=svid.not_after)
    assert caught.value.outcome is Outcome.CERTIFICATE_EXPIRED


def test_a_certificate_is_valid_from_its_first_second_to_its_last_one() -> None:
    der = leaf(PKI.svid())
    found = identify(der, trust_domain=TRUST_DOMAIN, now=time.time())
    for now in (found.not_before, found.not_after - 1):
        assert identify(der, trust_domain=TRUST_DOMAIN, now=now) == found
    for now, words in (
        (found.not_before - 1, "valid only in 1 s; do the nodes' clocks agree"),
        (found.not_after, "expired 0 s ago; does its agent reach the authority"),
        (found.not_after + 60, "expired 60 s ago"),
    ):
        with pytest.raises(PeerRefused, match=words) as caught:
            identify(der, trust_domain=TRUST_DOMAIN, now=now)
        assert caught.value.outcome is Outcome.CERTIFICATE_EXPIRED


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(PeerRefused, match="cannot be parsed"):
        identify(b"nonsense", trust_domain=TRUST_DOMAIN, now=0.0)


def test_another_server_than_the_catalogs_is_refused() -> None:
    identity = identify(leaf(PKI.svid("web")), trust_domain=TRUST_DOMAIN, now=time.time())
    with pytest.raises(PeerRefused) as caught:
        expect(identity, SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "api"))
    assert caught.value.outcome is Outcome.WRONG_SERVER_IDENTITY
