"""The SPIFFE bundle document, read by a parser other than ours."""

import base64
import datetime
import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwcrypto.jwk import JWKSet
from msgspec.structs import replace

from agent.authority import ca
from agent.identity import bundle_document
from agent.identity.bundle_document import BundleError, decode, encode
from agent.identity.svid import Bundle
from tests.identity.odd_roots import ODD
from tests.tls.pki import Pki, key_usage


def test_what_was_written_is_read() -> None:
    bundle = Pki().bundle(sequence=7)
    assert decode(encode(bundle), bundle.trust_domain) == bundle


def test_the_document_is_a_jwk_set_whose_keys_are_those_of_the_certificates(tmp_path: Path) -> None:
    bundle = Pki().bundle(sequence=7)
    document = json.loads(encode(bundle))
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (7, 300)
    (key,) = document["keys"]
    assert (key["kty"], key["use"], key["crv"]) == ("EC", "x509-svid", "P-256")
    (tmp_path / "anchor.der").write_bytes(base64.b64decode(key["x5c"][0]))
    shown = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-in", str(tmp_path / "anchor.der"), "-noout", "-subject", "-purpose"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "SSL client CA : Yes" in shown
    x, y = (int.from_bytes(base64.urlsafe_b64decode(key[part] + "=="), "big") for part in "xy")
    public = x509.load_pem_x509_certificate(bundle.anchors_pem).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert (x, y) == (public.public_numbers().x, public.public_numbers().y)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "P-521", "RSA"],
)
def test_another_parser_reads_the_same_keys(key: ca.PrivateKey) -> None:
    """jwcrypto knows JWK Sets (RFC 7517) and nothing of SPIFFE: our own members are no hindrance to it."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anchor")])
    now = datetime.datetime.now(datetime.UTC)
    anchor = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    bundle = Bundle(
        "example.test",
        ca.pem(anchor),
        3,
        60,
        "aa",
        9.0,
        frozenset({"spiffe://x/y"}),
        frozenset({"1"}),
        frozenset({"ab"}),
    )
    theirs = JWKSet.from_json(encode(bundle).decode())
    (read,) = theirs["keys"]
    assert read.export_to_pem() == key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert decode(encode(bundle), "example.test") == bundle
    document = json.loads(encode(bundle))
    assert document["quietwire_issuer"] == {"key_id": "aa", "not_after": 9.0}
    assert document["quietwire_revoked"] == {"spiffe_ids": ["spiffe://x/y"], "serials": ["1"]}
    assert document["quietwire_retired"] == ["ab"]


@pytest.mark.parametrize(
    ("public", "crv", "size"),
    [(ec.SECP256R1(), "P-256", 32), (ec.SECP384R1(), "P-384", 48), (ec.SECP521R1(), "P-521", 66)],
)
def test_a_coordinate_has_all_its_bytes_though_some_are_zero(public: ec.EllipticCurve, crv: str, size: int) -> None:
    """RFC 7518, section 6.2.1.2: the full size of a coordinate, and no padding of base64."""
    x, y = SMALL[crv]
    key = ec.EllipticCurvePublicNumbers(x, y, public).public_key()
    found = bundle_document._key(key)
    assert found == {"kty": "EC", "crv": crv, "x": _text(x.to_bytes(size, "big")), "y": _text(y.to_bytes(size, "big"))}


def test_a_number_of_rsa_has_as_few_bytes_as_it_can() -> None:
    """RFC 7518, section 2: no leading zero octets (Base64urlUInt)."""
    key = rsa.generate_private_key(65537, 2048).public_key()
    found = bundle_document._key(key)
    modulus = key.public_numbers().n
    assert found == {"kty": "RSA", "n": _text(modulus.to_bytes(256, "big")), "e": "AQAB"}


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())])
def test_an_anchor_with_a_key_of_another_kind_cannot_be_published(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    with pytest.raises(BundleError, match="neither ECDSA on P-256, P-384 or P-521, nor RSA"):
        bundle_document._key(key.public_key())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _small(public: ec.EllipticCurve) -> tuple[int, int]:
    """A point whose first coordinate begins with zeros."""
    while True:
        numbers = ec.generate_private_key(public).public_key().public_numbers()
        if numbers.x.bit_length() <= public.key_size - 8:
            return numbers.x, numbers.y


SMALL = {
    name: _small(curve)
    for name, curve in (("P-256", ec.SECP256R1()), ("P-384", ec.SECP384R1()), ("P-521", ec.SECP521R1()))
}


def test_a_document_without_our_own_members_is_a_bundle() -> None:
    """As another issuer's is: nothing is revoked, and who signs is not said."""
    bundle = Pki().bundle()
    keys = json.loads(encode(bundle))["keys"]
    found = decode(json.dumps({"keys": keys}).encode(), "example.test")
    assert found == Bundle("example.test", bundle.anchors_pem, 0)
    assert found.refresh_hint == 300


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"quietwire_issuer": {"key_id": "aa"}}, {"issuer_key_id": "aa"}),
        ({"quietwire_issuer": {"not_after": 7}}, {"issuer_expires": 7.0}),
        ({"quietwire_revoked": {"spiffe_ids": ["x"]}}, {"revoked_ids": frozenset({"x"})}),
        ({"quietwire_revoked": {"serials": ["1"]}}, {"revoked_serials": frozenset({"1"})}),
        ({"quietwire_retired": ["AB"]}, {"retired": frozenset({"ab"})}),
        ({"spiffe_refresh_hint": 7, "spiffe_sequence": "9"}, {"refresh_hint": 7, "sequence": 9}),
    ],
)
def test_each_member_may_be_there_without_the_others(members: dict[str, object], expected: dict[str, object]) -> None:
    bundle = Pki().bundle()
    keys = json.loads(encode(bundle))["keys"]
    wanted = msgspec.structs.replace(Bundle("example.test", bundle.anchors_pem, 0), **expected)
    assert decode(json.dumps({"keys": keys} | members).encode(), "example.test") == wanted


def test_all_anchors_are_read_in_their_order() -> None:
    one, two = Pki().bundle(), Pki().bundle()
    both = msgspec.structs.replace(one, anchors_pem=one.anchors_pem + two.anchors_pem)
    assert decode(encode(both), "example.test") == both


@pytest.mark.parametrize(
    "member",
    [
        {"spiffe_sequence": "x"},
        {"spiffe_sequence": None},
        {"spiffe_refresh_hint": []},
        {"quietwire_issuer": []},
        {"quietwire_issuer": {"not_after": "soon"}},
        {"quietwire_revoked": []},
        {"quietwire_revoked": {"serials": 7}},
        {"quietwire_retired": 7},
        {"quietwire_retired": ["no hex"]},
        {"quietwire_retired": [7]},
        {"spiffe_sequence": float("inf")},
        {"keys": [{"use": "x509-svid"}]},
        {"keys": [{"use": "x509-svid", "x5c": []}]},
        {"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]},
        {"keys": [7]},
        {"keys": 7},
    ],
)
def test_a_member_that_cannot_be_read_is_no_news_that_could_be_missed(member: dict[str, object]) -> None:
    """What is revoked would be let in, if such a document were taken without it."""
    document = json.loads(encode(Pki().bundle())) | member
    with pytest.raises(BundleError, match="is no SPIFFE bundle"):
        decode(json.dumps(document).encode(), "example.test")


def test_an_anchor_with_a_certificate_too_many_or_with_what_is_no_base64_is_refused() -> None:
    """RFC 7517, section 4.7, has a chain there; a bundle's entry has exactly the anchor."""
    document = json.loads(encode(Pki().bundle()))
    (anchor,) = document["keys"][0]["x5c"]
    for wrong in ([anchor, anchor], [anchor[:-4] + "!" + anchor[-4:]]):
        document["keys"][0]["x5c"] = wrong
        with pytest.raises(BundleError, match="is no SPIFFE bundle"):
            decode(json.dumps(document).encode(), "example.test")


def test_keys_of_other_uses_are_ignored() -> None:
    bundle = Pki().bundle()
    document = json.loads(encode(bundle))
    other = {"kty": "EC", "use": "jwt-svid", "kid": "x"}
    document["keys"] = [other, *document["keys"], {"kty": "EC"}, other]
    assert decode(json.dumps(document).encode(), bundle.trust_domain) == bundle


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"use": "x509-svid", "x5c": ["!"]}]}', b"\xff"]
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode(data, "example.test")


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_root_is_left_out_with_the_reason_and_where_none_remains_there_is_no_bundle(kind: str) -> None:
    pki = Pki()
    odd, why = ODD[kind](pki)
    good = pki.bundle()
    found = decode(encode(replace(good, anchors_pem=ca.pem(odd) + good.anchors_pem)), good.trust_domain)
    assert found.anchors_pem == good.anchors_pem
    (words,) = found.left_out
    assert why in words
    assert "Take it out of the bundle" in words
    with pytest.raises(BundleError, match=f"no anchor .* could vouch for anybody.*{why}"):
        decode(encode(replace(good, anchors_pem=ca.pem(odd))), good.trust_domain)
