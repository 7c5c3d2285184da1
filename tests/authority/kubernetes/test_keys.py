"""Keys as rows of the copy: what is not there stops, and an authority that lost its state does not begin anew."""

import pytest

from agent.authority.kubernetes.copied import CopiedBook
from agent.authority.kubernetes.keys import CopiedKeys
from agent.authority.store import StoreError


@pytest.fixture
def keys() -> CopiedKeys:
    return CopiedKeys(CopiedBook(), "example.test", "authority quietwire/q")


def test_a_root_and_its_issuer_are_a_pair_and_the_key_goes_when_it_is_forgotten(keys: CopiedKeys) -> None:
    keys.create(1, keys.trust_domain(), 1_800_000_000.0)
    issuer = keys.issuer(1)
    assert issuer.key.public_key() == issuer.certificate.public_key()
    root = keys.root_certificate(1)
    keys.forget(1)
    assert keys.root_certificate(1) == root
    with pytest.raises(StoreError, match=r"root-1\.pem in authority quietwire/q has no key"):
        keys.root(1)


def test_a_key_that_is_not_there_is_named(keys: CopiedKeys) -> None:
    with pytest.raises(StoreError, match=r"authority quietwire/q has no root-2\.pem: restore its Secret"):
        keys.root(2)


def test_where_certificates_were_issued_and_no_state_is_there_nobody_begins_anew(keys: CopiedKeys) -> None:
    keys.check_new()
    keys.records = True
    with pytest.raises(StoreError, match="has no state, but records of what it issued"):
        keys.check_new()
