"""What the authority sent back, checked before it is used: it must be the SVID that was asked for."""

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.identity.csr import SigningRequest
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid


class UnexpectedSvidError(ValueError):
    """The answer is not what was asked for; `str` says how it differs."""


def accept(request: SigningRequest, wanted: SpiffeId, chain_pem: bytes, *, now: float) -> Svid:
    """The SVID of an answer: leaf first. Raises UnexpectedSvidError."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
    except (ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise UnexpectedSvidError(f"the authority's answer is no certificate chain: {error}") from error
    if uris != [str(wanted)]:
        raise UnexpectedSvidError(
            f"asked for {wanted}, and the certificate that came is for {', '.join(uris) or 'nobody'}"
        )
    public = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public != request.public_der:
        raise UnexpectedSvidError(f"the certificate that came for {wanted} is for another key")
    not_before, not_after = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if not not_before <= now < not_after:
        raise UnexpectedSvidError(
            f"the certificate that came for {wanted} is not valid now; do this clock and the authority's agree?"
        )
    return Svid(wanted, chain_pem, request.key_pem, not_before, not_after, f"{leaf.serial_number:x}", issuer_of(leaf))


def issuer_of(leaf: x509.Certificate) -> str:
    """The authority key identifier, hex (RFC 5280, section 4.2.1.1): whose key signed this; empty where it has none."""
    try:
        identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return "" if identifier is None else identifier.hex()
