"""Which certificates of a bundle are roots."""

import pytest
from cryptography import x509

from agent.authority import ca
from agent.identity import anchors
from tests.identity.odd_roots import ODD
from tests.tls.pki import Pki


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_root_is_left_out_with_its_reason_and_spoils_nothing(odd: str) -> None:
    pki, other = Pki(), Pki()
    certificate, words = ODD[odd](pki)
    found = anchors.sort([pki.root.certificate, certificate, other.root.certificate])
    assert found.roots == (pki.root.certificate, other.root.certificate)
    assert [each for each, _ in found.odd] == [certificate]
    (said,) = found.left_out
    assert said.startswith("a root is left out: ")
    assert words in said
    assert said.endswith("Take it out of the bundle")


def test_roots_are_printed_one_after_the_other_in_their_order() -> None:
    pki, other = Pki(), Pki()
    found = anchors.sort([other.root.certificate, pki.root.certificate])
    assert x509.load_pem_x509_certificates(found.pem) == [other.root.certificate, pki.root.certificate]
    assert found.pem == ca.pem(other.root.certificate) + ca.pem(pki.root.certificate)
    assert found.left_out == ()


def test_where_no_root_remains_there_is_nothing() -> None:
    found = anchors.sort([Pki().issuer.certificate])
    assert (found.roots, found.pem) == ((), b"")
