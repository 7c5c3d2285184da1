"""What a signing request may say: a public key and one SPIFFE ID. The authority decides all else."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from agent.authority.refusal import Code, Refusal
from agent.identity.spiffe import SpiffeId, SpiffeIdError
from agent.identity.x509_svid import UNREADABLE

MAX_CSR = 16384
CURVES = ("secp256r1", "secp384r1")


class Requested(Struct, frozen=True):
    """A request that passed every check of its form."""

    spiffe_id: SpiffeId
    public_key: ec.EllipticCurvePublicKey


def read(csr_pem: str, trust_domain: str) -> Requested:
    """Reads and checks a PKCS #10 request (RFC 2986). Raises Refusal."""
    if len(csr_pem) > MAX_CSR:
        raise Refusal(Code.TOO_LARGE, f"the request has {len(csr_pem)} bytes, over the limit of {MAX_CSR}")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        valid = csr.is_signature_valid
        key = csr.public_key()
        extensions = csr.extensions
    except (InvalidSignature, *UNREADABLE) as error:
        raise Refusal(Code.BAD_REQUEST, f"the CSR cannot be read: {error}") from None
    except UnsupportedAlgorithm as error:
        raise Refusal(Code.KEY_NOT_ALLOWED, f"the CSR's key or signature is of no known kind: {error}") from None
    if not valid:
        raise Refusal(Code.BAD_SIGNATURE, "the CSR's signature is not by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise Refusal(Code.KEY_NOT_ALLOWED, "the key must be ECDSA on P-256 or P-384")
    return Requested(_spiffe_id(extensions, trust_domain), key)


def _spiffe_id(extensions: x509.Extensions, trust_domain: str) -> SpiffeId:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise Refusal(Code.NO_URI_SAN, "the CSR asks for no URI SAN, so for no SPIFFE ID") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != len(list(names)):
        raise Refusal(Code.OTHER_SANS, "the CSR asks for SANs that are no URI; names are the authority's to give")
    if not uris:  # a SAN that is there and holds nothing: RFC 5280 has none such, and parsers take it
        raise Refusal(Code.NO_URI_SAN, "the CSR's SAN is empty, so it asks for no SPIFFE ID")
    if len(uris) > 1:
        raise Refusal(Code.SEVERAL_URI_SANS, f"the CSR asks for {len(uris)} URI SANs, and an SVID has exactly one")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        raise Refusal(Code.MALFORMED_ID, str(error)) from None
    if spiffe_id.trust_domain != trust_domain:
        raise Refusal(Code.FOREIGN_TRUST_DOMAIN, f"{spiffe_id} is not of trust domain {trust_domain}")
    return spiffe_id
