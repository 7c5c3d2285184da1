"""The SVID that came back must be the one that was asked for."""

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.authority import ca
from agent.identity.authority_client import AuthorityClient
from agent.identity.csr import new_request, public_key
from agent.identity.http import Answer
from agent.identity.provider import ProviderError
from agent.identity.received import UnexpectedSvidError, accept
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
    assert got.issuer == ca.key_id(PKI.issuer.certificate)


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
