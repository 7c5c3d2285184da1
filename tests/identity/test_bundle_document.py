"""The SPIFFE bundle document, read by a parser other than ours."""

import base64
import datetime
import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwcrypto.jwk import JWKSet

from agent.authority import ca
from agent.identity.bundle_document import BundleError, decode, encode
from agent.identity.svid import Bundle
from tests.tls.pki import Pki


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
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    bundle = Bundle("example.test", ca.pem(anchor), 3, 300, "aa", 9.0, frozenset({"spiffe://x/y"}), frozenset({"1"}))
    theirs = JWKSet.from_json(encode(bundle).decode())
    (read,) = theirs["keys"]
    assert read.export_to_pem() == key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert decode(encode(bundle), "example.test") == bundle


def test_keys_of_other_uses_are_ignored() -> None:
    bundle = Pki().bundle()
    document = json.loads(encode(bundle))
    document["keys"].append({"kty": "EC", "use": "jwt-svid", "kid": "x"})
    assert decode(json.dumps(document).encode(), bundle.trust_domain) == bundle


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"use": "x509-svid", "x5c": ["!"]}]}', b"\xff"]
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode(data, "example.test")
