"""CAs of the webhooks' own: replicas agree by the CAs' times, and nobody shows what is not trusted yet."""

import ssl
import time

import pytest
from cryptography import x509

from agent.identity import memfd
from agent.webhook import certificates
from agent.webhook.certificates import (
    CA_SECONDS,
    SERVING_SECONDS,
    SETTLE_SECONDS,
    Authority,
    CertificateError,
    bundle,
    dump,
    is_due,
    living,
    load,
    new_authority,
    serving,
    signer,
    wants_another,
)

NOW = 1_900_000_000.0
HALF = CA_SECONDS / 2
NAMES = ["quietwire-webhook.quietwire.svc", "localhost"]


@pytest.fixture(scope="module")
def first() -> Authority:
    return new_authority(NOW)


@pytest.fixture(scope="module")
def second() -> Authority:
    return new_authority(NOW + HALF)


def test_another_is_made_when_the_youngest_has_lived_for_half_its_life(first: Authority, second: Authority) -> None:
    assert wants_another([], NOW)
    assert not wants_another([first], NOW + HALF - 1)
    assert wants_another([first], NOW + HALF)
    assert not wants_another([second, first], NOW + HALF)
    assert wants_another([second, first], NOW + 2 * HALF)


def test_a_new_one_signs_once_everybody_has_had_time_to_trust_it(first: Authority, second: Authority) -> None:
    assert signer([first], NOW) is first, "there is no other"
    assert signer([second, first], NOW + HALF + SETTLE_SECONDS - 1) is first
    assert signer([second, first], NOW + HALF + SETTLE_SECONDS) is second


def test_both_are_trusted_until_the_old_one_expires_in_the_same_order_whoever_asks(
    first: Authority, second: Authority
) -> None:
    both = bundle([second, first], NOW + HALF)
    assert both == bundle([first, second], NOW + HALF)
    assert x509.load_pem_x509_certificates(both) == [first.certificate, second.certificate]
    assert living([first, second], first.ends) == (second,)
    with pytest.raises(CertificateError, match="every CA of the webhooks has expired"):
        signer([first], first.ends)


def test_what_is_shown_is_renewed_at_half_its_life_and_when_another_ca_signs(
    first: Authority, second: Authority
) -> None:
    shown = serving(first, NAMES, NOW)
    assert is_due(None, [first], NOW)
    assert not is_due(shown, [first], NOW + SERVING_SECONDS / 2 - 1)
    assert is_due(shown, [first], NOW + SERVING_SECONDS / 2)
    late = serving(first, NAMES, NOW + HALF)
    assert not is_due(late, [first, second], NOW + HALF)
    assert is_due(late, [first, second], NOW + HALF + SETTLE_SECONDS)


def test_no_certificate_outlives_its_ca(first: Authority) -> None:
    shown = serving(first, NAMES, first.ends - 60)
    (leaf,) = x509.load_pem_x509_certificates(shown.chain_pem)
    assert leaf.not_valid_after_utc == first.certificate.not_valid_after_utc
    assert shown.due < first.ends


def test_what_is_kept_comes_back(first: Authority, second: Authority) -> None:
    assert [each.certificate for each in load(dump([first, second]))] == [first.certificate, second.certificate]
    assert load(b"") == ()


def test_what_cannot_be_used_is_said(first: Authority, second: Authority) -> None:
    mixed = (
        dump([first]).partition(b"-----BEGIN PRIVATE")[0] + dump([second]).partition(b"-----END CERTIFICATE-----\n")[2]
    )
    for data in (
        dump([first])[:-200],
        mixed,
        dump([first]).replace(b"MI", b"!!"),
        dump([first] * (certificates.MAX_CAS + 1)),
    ):
        with pytest.raises(CertificateError):
            load(data)


def test_keys_are_in_no_words(first: Authority) -> None:
    assert "PRIVATE" not in f"{first!r} {serving(first, NAMES, NOW)!r}"


def _shakes_hands(ca: Authority, trusted: bytes, name: str, now: float) -> None:
    """A TLS handshake in memory with a client that verifies as Go's does. Raises ssl.SSLError."""
    shown = serving(ca, NAMES, now)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    memfd.load_cert_chain(server_context, shown.chain_pem, shown.key_pem)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    client_context.load_verify_locations(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_bundle_takes_it_by_its_names(name: str) -> None:
    now = time.time()
    old, new = new_authority(now), new_authority(now)
    _shakes_hands(new, bundle([old, new], now), name, now)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _shakes_hands(new, bundle([new], now), "elsewhere.svc", now)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shakes_hands(new, bundle([old], now), name, now)
