"""A request for one identity, as OpenSSL and the standard read it."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace

from agent.identity.csr import new_request, public_key
from agent.identity.spiffe import SpiffeId

WEB = SpiffeId.for_service_account("example.test", "demo", "web")


def test_a_request_names_one_identity_and_nothing_else_and_is_signed_by_a_fresh_p_256_key() -> None:
    request = new_request(WEB)
    csr = x509.load_pem_x509_csr(request.csr_pem)
    assert csr.is_signature_valid
    assert isinstance(csr.signature_hash_algorithm, hashes.SHA256)
    assert not csr.subject.rdns
    (extension,) = csr.extensions
    assert extension.critical, "there is no subject"
    assert extension.value == x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(WEB))])
    key = serialization.load_pem_private_key(request.key_pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert request.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----"), "PKCS #8, and in the clear: it stays in memory"
    assert csr.public_key() == key.public_key() == public_key(request)
    assert new_request(WEB).public_der != request.public_der


def test_a_key_of_another_kind_was_not_requested_by_us() -> None:
    other = rsa.generate_private_key(65537, 2048).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    with pytest.raises(TypeError, match="ECDSA"):
        public_key(replace(new_request(WEB), public_der=other))


def test_the_key_of_a_request_does_not_show_in_logs() -> None:
    request = new_request(WEB)
    assert repr(request) == str(request) == "SigningRequest(…)"
