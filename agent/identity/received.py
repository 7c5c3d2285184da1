"""What the authority sent back, checked before it is used: it must be the SVID that was asked for."""

from collections.abc import Sequence
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from agent.identity import x509_svid
from agent.identity.csr import SigningRequest
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from agent.identity.x509_svid import NotAnSvid

WEAK_HASHES = frozenset({"md5", "sha1"})
"""Signatures by these are not verified any more (OpenSSL from its security level 1 on, and pyca/cryptography)."""


class UnexpectedSvidError(ValueError):
    """The answer is not what was asked for; `str` says how it differs."""


def accept(request: SigningRequest, wanted: SpiffeId, chain_pem: bytes, anchors_pem: bytes, *, now: float) -> Svid:
    """The SVID of an answer: leaf first. `anchors_pem` is the bundle in force. Raises UnexpectedSvidError.

    Peers verify the chain by OpenSSL, and more strictly: this keeps an SVID that nobody would take from replacing one
    that works.
    """
    try:
        leaf, *upper = x509.load_pem_x509_certificates(chain_pem)
    except x509_svid.UNREADABLE as error:
        raise UnexpectedSvidError(f"the authority's answer is no certificate chain: {error}") from error
    try:
        came = x509_svid.leaf_id(leaf)
        for number, above in enumerate(upper):
            x509_svid.check_signing(above, signs_for=wanted.trust_domain if number == 0 else None)
    except NotAnSvid as fault:
        raise UnexpectedSvidError(f"the certificate that came for {wanted} is no SVID: {fault}") from fault
    if came != wanted:
        raise UnexpectedSvidError(f"asked for {wanted}, and the certificate that came is for {came}")
    public = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public != request.public_der:
        raise UnexpectedSvidError(f"the certificate that came for {wanted} is for another key")
    if not _valid(leaf, now):
        raise UnexpectedSvidError(
            f"the certificate that came for {wanted} is not valid now; do this clock and the authority's agree?"
        )
    problem = _problem([leaf, *upper], x509.load_pem_x509_certificates(anchors_pem), now)
    if problem is not None:
        raise UnexpectedSvidError(f"the certificate that came for {wanted} does not verify: {problem}")
    return Svid(
        wanted,
        chain_pem,
        request.key_pem,
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        f"{leaf.serial_number:x}",
        issuer_of(leaf),
    )


def is_under(svid: Svid, anchors_pem: bytes, *, now: float) -> bool:
    """Whether an SVID that is there chains to these anchors."""
    try:
        chain = x509.load_pem_x509_certificates(svid.chain_pem)
        return _problem(chain, x509.load_pem_x509_certificates(anchors_pem), now) is None
    except x509_svid.UNREADABLE:
        return False  # then the agent asks for another one


def issuer_of(leaf: x509.Certificate) -> str:
    """The authority key identifier, hex (RFC 5280, section 4.2.1.1): whose key signed this; empty where it has none."""
    try:
        identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return "" if identifier is None else identifier.hex()


def _problem(chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: float) -> str | None:
    for child, parent in pairwise(chain):
        if not signed_by(child, parent):
            return f"{_name(child)} is not signed by the next of its chain"
        if not _valid(parent, now):
            return f"{_name(parent)}, which is above it, is not valid now"
    above = [anchor for anchor in anchors if signed_by(chain[-1], anchor)]
    if not above:
        return f"{_name(chain[-1])} does not chain to the bundle that this agent trusts"
    if not any(_valid(anchor, now) for anchor in above):
        return f"the root {_name(above[0])} is not valid now"
    return None


def signed_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    """Whether the parent's key signed the child, and its name is the issuer's (RFC 5280, section 6.1.3)."""
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, UnsupportedAlgorithm, *x509_svid.UNREADABLE):
        return False  # what cannot be verified is not signed
    return True


def weak_hash(certificate: x509.Certificate) -> str:
    """The hash of a certificate's signature, where it is one that nobody verifies any more; empty: it is none."""
    try:
        hashed = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""  # it has no name to tell, and verifies nowhere either
    return hashed.name if hashed is not None and hashed.name in WEAK_HASHES else ""


def _valid(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp()


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
