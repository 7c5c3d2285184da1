"""Keys come into a context by way of memory, whatever their size, and nothing of it stays open."""

import os
import ssl

import pytest

from agent.identity.memfd import load_cert_chain
from tests.tls.pki import Pki


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def test_a_chain_and_its_key_are_loaded_though_the_one_ends_without_a_line_end() -> None:
    svid = Pki().svid()
    before = os.listdir("/proc/self/fd")
    load_cert_chain(context(), svid.chain_pem.rstrip(b"\n"), svid.key_pem)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_key_that_is_anothers_is_refused_and_nothing_stays_open() -> None:
    pki = Pki()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ssl.SSLError, match=r"KEY_VALUES_MISMATCH|key values mismatch"):
        load_cert_chain(context(), pki.svid().chain_pem, pki.svid().key_pem)
    assert len(os.listdir("/proc/self/fd")) == len(before)
