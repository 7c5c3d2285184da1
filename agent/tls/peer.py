"""Who the peer is: the leaf certificate as an X.509-SVID (SPIFFE X.509-SVID standard, sections 2, 4 and 5).

The chain was verified by OpenSSL in the full handshake. On a resumed session it was not verified again, so the
validity is checked here on every connection.
"""

from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from msgspec import Struct

from agent.identity.spiffe import SpiffeId, SpiffeIdError
from agent.outcome import Outcome

MAX_PARSED = 4096
"""Leaf certificates whose parsed form is kept."""


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


def expect(identity: PeerIdentity, wanted: SpiffeId) -> None:
    """Raises PeerRefused unless the server is exactly whom the catalog names."""
    if identity.spiffe_id != wanted:
        raise PeerRefused(
            Outcome.WRONG_SERVER_IDENTITY,
            f"the server is {identity.spiffe_id}, and the catalog says {wanted}: "
            f"is the address another pod's now, or is the catalog old?",
        )


@lru_cache(maxsize=MAX_PARSED)
def _parse(der: bytes) -> PeerIdentity | PeerRefused:
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        names = extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        if not isinstance(names, x509.SubjectAlternativeName):
            return PeerRefused(Outcome.NO_URI_SAN, "the certificate has no readable subject alternative name")
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        return PeerRefused(Outcome.NO_URI_SAN, "the certificate has no subject alternative name, so no SPIFFE ID")
    except ValueError as error:
        return PeerRefused(Outcome.HANDSHAKE_FAILED, f"the certificate cannot be parsed: {error}")
    if not uris:
        return PeerRefused(Outcome.NO_URI_SAN, "the certificate has no URI SAN, so no SPIFFE ID")
    if len(uris) > 1:
        return PeerRefused(
            Outcome.SEVERAL_URI_SANS,
            f"the certificate has {len(uris)} URI SANs, and an X.509-SVID has exactly one: {', '.join(uris)[:200]}",
        )
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        return PeerRefused(Outcome.SPIFFE_ID_MALFORMED, str(error))
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        if constraints.ca:
            return PeerRefused(Outcome.CERTIFICATE_UNTRUSTED, f"{spiffe_id} came with a CA certificate as its leaf")
    except x509.ExtensionNotFound:
        pass  # not a CA then: RFC 5280, section 4.2.1.9
    return PeerIdentity(
        spiffe_id,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        f"{certificate.serial_number:x}",
    )
