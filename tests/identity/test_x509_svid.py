"""Every MUST of X.509-SVID, by the rules alone: one certificate that breaks each."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st

from agent.identity.svid import Svid
from agent.identity.x509_svid import UNREADABLE, NotAnSvid, Rule, check_signing, leaf_id
from tests.tls.pki import TRUST_DOMAIN, Pki
from tests.tls.wrong import RIGHT, VICTIM, WRONG, Wrong

PKI = Pki()


def judged(svid: Svid) -> None:
    """All of a chain, as a peer sees it. Raises NotAnSvid."""
    leaf, issuer = x509.load_pem_x509_certificates(svid.chain_pem)
    spiffe_id = leaf_id(leaf)
    check_signing(issuer, signs_for=spiffe_id.trust_domain)
    check_signing(PKI.root.certificate)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_certificate_that_breaks_a_rule_is_refused_by_that_rule(wrong: Wrong) -> None:
    with pytest.raises(NotAnSvid) as caught:
        judged(wrong.make(PKI))
    assert caught.value.rule is wrong.rule
    assert str(caught.value) == caught.value.detail != ""


def test_every_rule_has_a_certificate_that_breaks_it() -> None:
    assert {wrong.rule for wrong in WRONG.values()} | {Rule.UNREADABLE} == set(Rule)


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_standard_allows_is_taken(name: str) -> None:
    judged(RIGHT[name](PKI))


def test_a_signing_certificate_above_the_issuer_may_be_of_another_trust_domain() -> None:
    foreign = Pki("other.test").root.certificate
    check_signing(foreign)
    with pytest.raises(NotAnSvid, match=r"is spiffe://other.test, and not of trust domain example.test"):
        check_signing(foreign, signs_for=TRUST_DOMAIN)


DER = x509.load_pem_x509_certificate(PKI.certificate([VICTIM]).chain_pem).public_bytes(serialization.Encoding.DER)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # cryptography takes negative ones so far, and says so
@example([(15, 128)])  # its serial number is negative then
@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_certificate_is_an_svid_or_a_refusal_and_never_a_fault(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(DER)
    for at, value in changes:
        damaged[at] = value
    try:
        certificate = x509.load_der_x509_certificate(bytes(damaged))
    except UNREADABLE:
        return
    for judge in (leaf_id, check_signing):
        try:
            assert judge(certificate) is None or judge is leaf_id
        except NotAnSvid as refused:
            assert refused.detail  # noqa: PT017 - either is right: what is shown is that nothing else comes


def test_an_extension_that_is_there_twice_is_unreadable() -> None:
    body = DER.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d23"), 1)  # its key identifier's type, again
    with pytest.raises(NotAnSvid, match="cannot be parsed") as caught:
        leaf_id(x509.load_der_x509_certificate(body))
    assert caught.value.rule is Rule.UNREADABLE


def test_a_signing_certificate_that_cannot_be_read_is_refused() -> None:
    body = DER.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d23"), 1)
    with pytest.raises(NotAnSvid, match="a signing certificate cannot be parsed"):
        check_signing(x509.load_der_x509_certificate(body))
