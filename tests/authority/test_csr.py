"""Requests that are damaged, by the reader alone: refused with a code, and never a fault."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from hypothesis import given
from hypothesis import strategies as st

from agent.authority import csr
from agent.authority.refusal import Code, Refusal
from agent.identity.csr import new_request
from tests.authority.running import TD, WEB
from tests.authority.test_run import by_hand


def pem(der: bytes) -> str:
    return (
        "-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(der).decode()
        + "-----END CERTIFICATE REQUEST-----\n"
    )


def der(text: str) -> bytes:
    return x509.load_pem_x509_csr(text.encode()).public_bytes(serialization.Encoding.DER)


GOOD = der(new_request(WEB).csr_pem.decode())


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_request_is_refused_with_a_code(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOOD)
    for at, value in changes:
        damaged[at] = value
    if damaged == GOOD:
        assert csr.read(pem(bytes(damaged)), TD).spiffe_id == WEB
        return
    with pytest.raises(Refusal) as caught:
        csr.read(pem(bytes(damaged)), TD)
    assert caught.value.status in {400, 422}


@given(st.text())
def test_text_that_is_no_request_is_refused_with_a_code(text: str) -> None:
    with pytest.raises(Refusal):
        csr.read(text, TD)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (None, Code.NO_URI_SAN),
        ([], Code.NO_URI_SAN),
        ([x509.DNSName("web.example.test")], Code.OTHER_SANS),
        ([x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("web.example.test")], Code.OTHER_SANS),
        ([x509.UniformResourceIdentifier(str(WEB))] * 2, Code.SEVERAL_URI_SANS),
        ([x509.UniformResourceIdentifier("https://example.test/")], Code.MALFORMED_ID),
        ([x509.UniformResourceIdentifier("spiffe://other.test/ns/demo/sa/web")], Code.FOREIGN_TRUST_DOMAIN),
    ],
)
def test_a_request_for_anything_but_one_identity_of_the_mesh_is_refused(
    names: list[x509.GeneralName] | None, code: Code
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    request = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(Refusal) as caught:
        csr.read(request, TD)
    assert caught.value.code is code


def test_a_request_that_is_too_large_is_not_read() -> None:
    good = new_request(WEB).csr_pem.decode()
    assert csr.read(good + " " * (csr.MAX_CSR - len(good)), TD).spiffe_id == WEB
    with pytest.raises(Refusal) as caught:
        csr.read(good + " " * (csr.MAX_CSR - len(good) + 1), TD)
    assert caught.value.code is Code.TOO_LARGE


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_what_was_asked_for_comes_with_the_key_that_it_is_for(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    found = csr.read(by_hand([str(WEB)], key), TD)
    assert (found.spiffe_id, found.public_key) == (WEB, key.public_key())


def test_a_name_of_an_unknown_kind_is_refused() -> None:
    """cryptography has no words for an x400Address (RFC 5280, section 4.2.1.6), and raises what is no ValueError."""
    with_name = der(by_hand([str(WEB)]))
    tagged = with_name.replace(b"\x86" + bytes([len(str(WEB))]), b"\xa3" + bytes([len(str(WEB))]), 1)
    assert tagged != with_name
    with pytest.raises(Refusal) as caught:
        csr.read(pem(tagged), TD)
    assert caught.value.code in {Code.BAD_REQUEST, Code.BAD_SIGNATURE}


def test_keys_of_other_kinds_are_refused() -> None:
    for key in (dsa.generate_private_key(2048), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(Refusal) as caught:
            csr.read(by_hand([str(WEB)], key), TD)
        assert caught.value.code is Code.KEY_NOT_ALLOWED
