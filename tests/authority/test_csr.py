"""Requests that are damaged, by the reader alone: refused with a code, and never a fault."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from hypothesis import given
from hypothesis import strategies as st

from agent.authority import csr
from agent.authority.refusal import Code, Refusal
from agent.identity.csr import new_request
from tests.authority.running import TD, WEB
from tests.authority.test_authority import by_hand


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
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # JSON cannot bring it here
    with pytest.raises(Refusal):
        csr.read(text, TD)


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
