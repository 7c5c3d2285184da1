"""What makes a certificate an X.509-SVID: every MUST of the SPIFFE X.509-SVID standard, sections 2 to 5. Pure.

The path itself (signatures, validity, path lengths, name constraints: section 5.1, RFC 5280) is OpenSSL's to verify.
What SHOULD be is not asked for, but for one thing: who signs leaves is of their trust domain (section 3.2).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.identity.spiffe import SpiffeId, SpiffeIdError

T = TypeVar("T", bound=x509.ExtensionType)

BOTH_ROLES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
UNREADABLE = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises over a certificate, or a part of it, that it cannot read."""


class Rule(StrEnum):
    """A rule that a certificate broke, and the standard's section."""

    UNREADABLE = "unreadable"
    NO_URI_SAN = "2: an SVID has a URI SAN"
    SEVERAL_URI_SANS = "2: an SVID has one URI SAN, and no more"
    MALFORMED_ID = "2, 5.2: the URI SAN is a SPIFFE ID"
    NO_PATH = "3.1, 5.2: a leaf's SPIFFE ID has a path"
    SAN_NOT_CRITICAL = "3.1: the SAN is critical where there is no subject"
    LEAF_IS_CA = "4.1, 5.2: a leaf is no CA"
    NO_KEY_USAGE = "4.3: the key usage is there"
    KEY_USAGE_NOT_CRITICAL = "4.3: the key usage is critical"
    NO_DIGITAL_SIGNATURE = "4.3: a leaf's key signs digitally"
    SIGNS_CERTIFICATES = "4.3, 5.2: a leaf's key signs no certificates"
    SIGNS_CRLS = "4.3, 5.2: a leaf's key signs no CRLs"
    EXTENDED_KEY_USAGE = "4.4: an extended key usage names servers and clients"
    SIGNER_IS_NO_CA = "4.1: a signing certificate is a CA"
    SIGNER_SIGNS_NOTHING = "4.3: a signing certificate signs certificates"
    SIGNER_HAS_PATH = "3.2: a signing certificate's SPIFFE ID has no path"
    SIGNER_IS_FOREIGN = "3.2: who signs leaves is of their trust domain"


class NotAnSvid(ValueError):
    """A certificate that breaks a rule; `detail` says how, and what would mend it."""

    def __init__(self, rule: Rule, detail: str) -> None:
        super().__init__(rule, detail)
        self.rule = rule
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


def leaf_id(certificate: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID of a leaf that may serve to identify somebody. Raises NotAnSvid."""
    try:
        extensions = certificate.extensions
        names = _extension(extensions, x509.SubjectAlternativeName)
        constraints = _extension(extensions, x509.BasicConstraints)
        usage = _extension(extensions, x509.KeyUsage)
        purposes = _extension(extensions, x509.ExtendedKeyUsage)
        has_subject = bool(certificate.subject.rdns)
    except UNREADABLE as error:
        raise NotAnSvid(Rule.UNREADABLE, f"the certificate cannot be parsed: {error}") from error
    if names is None:
        raise NotAnSvid(Rule.NO_URI_SAN, "the certificate has no subject alternative name, so no SPIFFE ID")
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        raise NotAnSvid(Rule.NO_URI_SAN, "the certificate has no URI SAN, so no SPIFFE ID")
    spiffe_id = _spiffe_id(uris, "the certificate")
    if spiffe_id.path in {"", "/"}:
        raise NotAnSvid(Rule.NO_PATH, f"{spiffe_id} has no path: it names a trust domain, and nobody in it")
    if constraints is not None and constraints.value.ca:  # none is no CA: RFC 5280, section 4.2.1.9
        raise NotAnSvid(Rule.LEAF_IS_CA, f"{spiffe_id} came with a CA certificate as its leaf")
    if usage is None:
        raise NotAnSvid(Rule.NO_KEY_USAGE, f"the certificate of {spiffe_id} has no key usage extension")
    if usage.value.key_cert_sign:
        raise NotAnSvid(Rule.SIGNS_CERTIFICATES, f"the key usage of {spiffe_id} has keyCertSign, and no leaf may")
    if usage.value.crl_sign:
        raise NotAnSvid(Rule.SIGNS_CRLS, f"the key usage of {spiffe_id} has cRLSign, and no leaf may")
    if not usage.value.digital_signature:
        raise NotAnSvid(Rule.NO_DIGITAL_SIGNATURE, f"the key usage of {spiffe_id} lacks digitalSignature")
    if not usage.critical:
        raise NotAnSvid(Rule.KEY_USAGE_NOT_CRITICAL, f"the key usage of {spiffe_id} is not marked critical")
    if not has_subject and not names.critical:
        raise NotAnSvid(
            Rule.SAN_NOT_CRITICAL, f"the certificate of {spiffe_id} has no subject, and its SAN is not marked critical"
        )
    if purposes is not None and not set(purposes.value) >= BOTH_ROLES:
        raise NotAnSvid(
            Rule.EXTENDED_KEY_USAGE,
            f"the extended key usage of {spiffe_id} lacks serverAuth or clientAuth, and needs both",
        )
    return spiffe_id


def check_signing(certificate: x509.Certificate, *, signs_for: str | None = None) -> None:
    """Whether a certificate may stand above leaves; `signs_for` is the trust domain of those it signs itself.

    One without a SPIFFE ID is no SVID and may stand there all the same: it is only a CA. Raises NotAnSvid.
    """
    try:
        extensions = certificate.extensions
        names = _extension(extensions, x509.SubjectAlternativeName)
        constraints = _extension(extensions, x509.BasicConstraints)
        usage = _extension(extensions, x509.KeyUsage)
        name = certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
    except UNREADABLE as error:
        raise NotAnSvid(Rule.UNREADABLE, f"a signing certificate cannot be parsed: {error}") from error
    if constraints is None or not constraints.value.ca:
        raise NotAnSvid(Rule.SIGNER_IS_NO_CA, f"{name} is no CA certificate")
    if usage is None:
        raise NotAnSvid(Rule.NO_KEY_USAGE, f"{name} has no key usage extension, and a CA needs one")
    if not usage.value.key_cert_sign:
        raise NotAnSvid(Rule.SIGNER_SIGNS_NOTHING, f"{name} may not sign certificates: its key usage says so")
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if not any(uri.lower().startswith("spiffe:") for uri in uris):
        return
    spiffe_id = _spiffe_id(uris, name)
    if spiffe_id.path:
        raise NotAnSvid(
            Rule.SIGNER_HAS_PATH, f"{name} is {spiffe_id}: a signing certificate's SPIFFE ID may have no path"
        )
    if signs_for is not None and spiffe_id.trust_domain != signs_for:
        raise NotAnSvid(Rule.SIGNER_IS_FOREIGN, f"{name} is {spiffe_id}, and not of trust domain {signs_for}")
    if not usage.critical:
        raise NotAnSvid(Rule.KEY_USAGE_NOT_CRITICAL, f"the key usage of {name} ({spiffe_id}) is not marked critical")


def _extension(extensions: x509.Extensions, kind: type[T]) -> x509.Extension[T] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _spiffe_id(uris: Sequence[str], what: str) -> SpiffeId:
    if len(uris) > 1:
        raise NotAnSvid(
            Rule.SEVERAL_URI_SANS,
            f"{what} has {len(uris)} URI SANs, and an X.509-SVID has exactly one: {', '.join(uris)[:200]}",
        )
    try:
        return SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        raise NotAnSvid(Rule.MALFORMED_ID, str(error)) from error
