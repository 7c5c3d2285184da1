"""The SVID that came back must be the one that was asked for."""

import datetime
import json
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from agent.authority import ca
from agent.authority.ca import Signer
from agent.identity.authority_client import AuthorityClient
from agent.identity.csr import new_request, public_key
from agent.identity.http import Answer
from agent.identity.provider import ProviderError
from agent.identity.received import UnexpectedSvidError, accept, is_under, issuer_of
from agent.identity.spiffe import SpiffeId
from tests.authority.running import TD, WEB
from tests.tls.pki import Pki

API = SpiffeId.for_service_account(TD, "demo", "api")
NOW = 2_000_000_000.0
DAY = 86400.0
PKI = Pki(TD, NOW)
OTHER = Pki(TD, NOW)
REQUEST = new_request(WEB)


def chain(
    spiffe_id: SpiffeId = WEB,
    *,
    pki: Pki = PKI,
    key: ec.EllipticCurvePublicKey | None = None,
    begins: float = NOW,
    seconds: float = 3600.0,
    above: bytes | None = None,
) -> bytes:
    leaf = ca.sign_leaf(
        pki.issuer, spiffe_id, key or public_key(REQUEST), now=begins, seconds=seconds, until=begins + seconds
    )
    return ca.pem(leaf) + (ca.pem(pki.issuer.certificate) if above is None else above)


def anchors(pki: Pki = PKI) -> bytes:
    return pki.bundle().anchors_pem


def test_what_was_asked_for_is_accepted_with_the_key_of_the_request() -> None:
    got = accept(REQUEST, WEB, chain(), anchors(OTHER) + anchors(), now=NOW)
    assert (got.spiffe_id, got.key_pem, got.not_after) == (WEB, REQUEST.key_pem, NOW + 3600)
    assert got.issuer_key_id == ca.key_id(PKI.issuer.certificate)


@pytest.mark.parametrize(
    ("made", "trusted", "now", "words"),
    [
        (lambda: chain(API), anchors(), NOW, f"asked for {WEB}, and the certificate that came is for {API}"),
        (
            lambda: chain(key=ec.generate_private_key(ec.SECP256R1()).public_key()),
            anchors(),
            NOW,
            "is for another key",
        ),
        (chain, anchors(), NOW + 3601, "is not valid now; do this clock and the authority's agree"),
        (chain, anchors(), NOW - 61, "is not valid now"),
        (lambda: chain(pki=OTHER), anchors(), NOW, "issuer,O=Quietwire does not chain to the bundle"),
        (lambda: chain(above=b""), anchors(), NOW, "does not chain to the bundle that this agent trusts"),
        (
            lambda: chain(above=ca.pem(OTHER.issuer.certificate)),
            anchors(),
            NOW,
            "is not signed by the next of its chain",
        ),
        (lambda: chain(begins=NOW + 366 * DAY), anchors(), NOW + 366 * DAY, "issuer,O=Quietwire, which is above it"),
        (lambda: b"nonsense", anchors(), NOW, "is no certificate chain"),
        (lambda: b"", anchors(), NOW, "is no certificate chain"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_how_it_differs(
    made: Callable[[], bytes], trusted: bytes, now: float, words: str
) -> None:
    with pytest.raises(UnexpectedSvidError) as caught:
        accept(REQUEST, WEB, made(), trusted, now=now)
    assert words in str(caught.value)


def _signs_by_root() -> Pki:
    made = Pki(TD, NOW)
    made.root = made.issuer = PKI.root
    return made


def test_a_root_that_has_expired_vouches_for_nothing() -> None:
    late = NOW + 3651 * DAY
    made = chain(pki=_signs_by_root(), above=b"", begins=late)
    with pytest.raises(UnexpectedSvidError, match=r"the root CN=example.test root,O=Quietwire is not valid now"):
        accept(REQUEST, WEB, made, anchors(), now=late)


def test_an_svid_that_is_there_is_under_a_bundle_while_a_root_of_it_vouches_for_it() -> None:
    got = accept(REQUEST, WEB, chain(), anchors(), now=NOW)
    assert is_under(got, anchors(), now=NOW)
    assert is_under(got, anchors(OTHER) + anchors(), now=NOW)
    assert not is_under(got, anchors(OTHER), now=NOW)
    assert not is_under(got, anchors(), now=NOW + 3660 * DAY), "the root has expired"
    assert not is_under(replace(got, chain_pem=b"nonsense"), anchors(), now=NOW)
    assert not is_under(got, b"nonsense", now=NOW)


def test_a_certificate_is_valid_from_its_first_second_until_right_before_its_last() -> None:
    made = chain(seconds=3600.0)
    assert accept(REQUEST, WEB, made, anchors(), now=NOW - 60).spiffe_id == WEB
    assert accept(REQUEST, WEB, made, anchors(), now=NOW + 3599).spiffe_id == WEB
    with pytest.raises(UnexpectedSvidError, match="is not valid now"):
        accept(REQUEST, WEB, made, anchors(), now=NOW + 3600)


def test_an_svid_that_came_is_told_by_its_serial_and_times() -> None:
    made = chain()
    got = accept(REQUEST, WEB, made, anchors(), now=NOW)
    leaf = ca.load_leaf(made)
    assert (got.chain_pem, got.serial) == (made, f"{leaf.serial_number:x}")
    assert (got.not_before, got.not_after) == (NOW - 60, NOW + 3600)


def test_what_stands_above_is_a_ca_of_the_same_trust_domain() -> None:
    """Peers would refuse it: see the rules of X.509-SVID, section 3.2."""
    foreign = Pki("other.test", NOW)
    foreign.root = PKI.root
    foreign.issuer = ca.new_issuer(PKI.root, "other.test", NOW)
    with pytest.raises(UnexpectedSvidError, match=r"is no SVID: .*not of trust domain example\.test"):
        accept(REQUEST, WEB, chain(pki=foreign), anchors(), now=NOW)
    between = ca.pem(PKI.issuer.certificate)
    with pytest.raises(UnexpectedSvidError, match=r"is no SVID: .*is no CA"):
        accept(REQUEST, WEB, chain(above=between + chain()), anchors(), now=NOW)


def test_above_who_signs_leaves_another_trust_domain_may_stand() -> None:
    other = Pki("other.test", NOW)
    under = Pki(TD, NOW)
    under.issuer = ca.new_issuer(other.root, TD, NOW)
    made = chain(pki=under) + ca.pem(other.root.certificate)
    assert accept(REQUEST, WEB, made, anchors(other), now=NOW).spiffe_id == WEB


def test_of_two_roots_with_one_key_the_one_that_lives_vouches() -> None:
    """A root that was renewed with its key: the former certificate has expired."""
    late = NOW + 3651 * DAY
    again = Pki(TD, late)
    again.root = Signer(_same_key(PKI.root, late), PKI.root.key)
    again.issuer = ca.new_issuer(again.root, TD, late)
    both = anchors() + ca.pem(again.root.certificate)
    made = chain(pki=again, begins=late)
    assert accept(REQUEST, WEB, made, both, now=late).spiffe_id == WEB
    with pytest.raises(UnexpectedSvidError, match=r"the root .* is not valid now"):
        accept(REQUEST, WEB, made, anchors(), now=late)


def _same_key(root: Signer, now: float) -> x509.Certificate:
    begins = datetime.datetime.fromtimestamp(now, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(root.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=10))
    )
    for extension in root.certificate.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(root.key, hashes.SHA256())


def test_an_issuer_is_told_by_its_key_identifier_where_the_certificate_says_one() -> None:
    leaf = ca.load_leaf(PKI.svid(authority_key_identifier=False).chain_pem)
    assert issuer_of(leaf) == ""
    unnamed = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(x509.Name([]))], 1)
    named = PKI.certificate([str(WEB)], authority_key_identifier=False, more=[(unnamed, False)])
    assert issuer_of(ca.load_leaf(named.chain_pem)) == ""


async def test_an_answer_that_is_for_somebody_else_is_an_error_and_never_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client as a whole: a wrong answer is told as a reason, and the agent has joined as nobody."""

    async def token() -> str:
        return "token"

    client = AuthorityClient(
        addresses=("127.0.0.1:1",),
        anchors_pem=anchors(),
        trust_domain=TD,
        node="node-a",
        tokens=token,
        clock=lambda: NOW,
    )

    async def answered(*_: object, **__: object) -> Answer:
        return Answer(200, json.dumps({"chain_pem": chain(API).decode()}).encode(), None)

    monkeypatch.setattr(client, "_request", answered)
    with pytest.raises(ProviderError) as caught:
        await client.issue(WEB)
    assert caught.value.code == "bad_answer"
    assert "the certificate that came is for" in caught.value.message
    assert client.agent is None
