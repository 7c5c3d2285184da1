"""A fresh key and a certificate signing request for one SPIFFE ID: RFC 2986; X.509-SVID standard, section 2."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from agent.identity.spiffe import SpiffeId


class SigningRequest(Struct, frozen=True):
    """A PKCS #10 request, PEM, and the key that it is for, PKCS #8 PEM. The key never leaves this process."""

    csr_pem: bytes
    key_pem: bytes
    public_der: bytes

    def __repr__(self) -> str:
        return "SigningRequest(…)"


def public_key(request: SigningRequest) -> ec.EllipticCurvePublicKey:
    """The key that a request of ours is for."""
    key = serialization.load_der_public_key(request.public_der)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("requests of ours are for ECDSA keys")
    return key


def new_request(spiffe_id: SpiffeId) -> SigningRequest:
    """A new ECDSA P-256 key and the request for one URI SAN; the authority decides all else."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return SigningRequest(
        csr.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
