"""Who the peer is: the leaf certificate as an X.509-SVID (SPIFFE X.509-SVID standard), and what is above it.

The chain was verified by OpenSSL in the full handshake. On a resumed session it was not verified again, so the
validity is checked here on every connection. What a certificate says is read once and remembered.
"""

from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509
from msgspec import Struct

from agent.identity import x509_svid
from agent.identity.spiffe import SpiffeId
from agent.identity.x509_svid import NotAnSvid, Rule
from agent.outcome import Outcome

MAX_PARSED = 4096
"""Leaf certificates whose parsed form is kept."""
MAX_SIGNING = 256
"""Signing certificates of which it is kept what they are."""
_OUTCOMES = {
    Rule.NO_URI_SAN: Outcome.NO_URI_SAN,
    Rule.SEVERAL_URI_SANS: Outcome.SEVERAL_URI_SANS,
    Rule.MALFORMED_ID: Outcome.SPIFFE_ID_MALFORMED,
}
"""Rules with an outcome of their own; the rest counts as NOT_AN_SVID."""


class PeerRefused(Exception):
    """The certificate is no acceptable SVID. `outcome` counts it, `detail` says why."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}"


class PeerIdentity(Struct, frozen=True):
    """What a leaf certificate says; times are POSIX seconds."""

    spiffe_id: SpiffeId
    not_before: float
    not_after: float
    serial: str


def identify(der: bytes, *, trust_domain: str, now: float) -> PeerIdentity:
    """The identity of a leaf certificate whose chain has been verified. Raises PeerRefused."""
    identity = _parse(der)
    if isinstance(identity, PeerRefused):
        raise PeerRefused(identity.outcome, identity.detail)
    if identity.spiffe_id.trust_domain != trust_domain:
        raise PeerRefused(
            Outcome.FOREIGN_TRUST_DOMAIN, f"{identity.spiffe_id} is not of this mesh's trust domain {trust_domain}"
        )
    if now >= identity.not_after:
        raise PeerRefused(
            Outcome.CERTIFICATE_EXPIRED,
            f"the certificate of {identity.spiffe_id} expired {now - identity.not_after:.0f} s ago; "
            f"does its agent reach the authority?",
        )
    if now < identity.not_before:
        raise PeerRefused(
            Outcome.CERTIFICATE_EXPIRED,
            f"the certificate of {identity.spiffe_id} is valid only in {identity.not_before - now:.0f} s; "
            f"do the nodes' clocks agree?",
        )
    return identity


def identify_chain(chain: Sequence[bytes], *, trust_domain: str, now: float) -> PeerIdentity:
    """The identity of a chain that was verified, DER, leaf first and anchor last. Raises PeerRefused."""
    identity = identify(chain[0], trust_domain=trust_domain, now=now)
    check_chain(chain, identity)
    return identity


def expect(identity: PeerIdentity, wanted: SpiffeId) -> None:
    """Raises PeerRefused unless the server is exactly whom the catalog names."""
    if identity.spiffe_id != wanted:
        raise PeerRefused(
            Outcome.WRONG_SERVER_IDENTITY,
            f"the server is {identity.spiffe_id}, and the catalog says {wanted}: "
            f"is the address another pod's now, or is the catalog old?",
        )


def check_chain(chain: Sequence[bytes], identity: PeerIdentity) -> None:
    """Checks what is above a leaf: a chain that was verified, DER, leaf first and anchor last. Raises PeerRefused."""
    for number, der in enumerate(chain[1:]):
        problem = _signing_problem(der, identity.spiffe_id.trust_domain if number == 0 else None)
        if problem is not None:
            raise PeerRefused(Outcome.NOT_AN_SVID, f"above the certificate of {identity.spiffe_id}: {problem}")


@lru_cache(maxsize=MAX_SIGNING)
def _signing_problem(der: bytes, signs_for: str | None) -> str | None:
    try:
        x509_svid.check_signing(x509.load_der_x509_certificate(der), signs_for=signs_for)
    except x509_svid.UNREADABLE as error:  # NotAnSvid among them
        return str(error)
    return None


@lru_cache(maxsize=MAX_PARSED)
def _parse(der: bytes) -> PeerIdentity | PeerRefused:
    try:
        certificate = x509.load_der_x509_certificate(der)
        spiffe_id = x509_svid.leaf_id(certificate)
        return PeerIdentity(
            spiffe_id,
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            f"{certificate.serial_number:x}",
        )
    except NotAnSvid as fault:
        return PeerRefused(_OUTCOMES.get(fault.rule, Outcome.NOT_AN_SVID), fault.detail)
    except x509_svid.UNREADABLE as error:
        return PeerRefused(Outcome.NOT_AN_SVID, f"the certificate cannot be parsed: {error}")
