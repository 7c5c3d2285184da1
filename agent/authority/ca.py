"""The CA's craft: root, issuer and leaves. Pure but for the keys' randomness; time is an argument.

RFC 5280 and the SPIFFE X.509-SVID standard govern the contents; a chain from here passes
`openssl verify -x509_strict`.
"""

import datetime
import re

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from agent.identity.spiffe import SpiffeId

ROOT_DAYS = 3650
ISSUER_DAYS = 365
BACKDATE_SECONDS = 60
"""NotBefore lies this far back, for nodes whose clocks lag."""

_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*"
)

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Signer(Struct, frozen=True):
    """A CA certificate with its key. Our own are ECDSA P-256; one that is given may be RSA."""

    certificate: x509.Certificate
    key: PrivateKey

    def __repr__(self) -> str:
        return f"Signer({self.certificate.subject.rfc4514_string()})"


def new_root(trust_domain: str, now: float) -> Signer:
    """A self-signed root for one trust domain."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{trust_domain} root")
    certificate = _ca_builder(name, name, key.public_key(), trust_domain, now, ROOT_DAYS, path_length=1).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return Signer(certificate.sign(key, hashes.SHA256()), key)


def new_issuer(root: Signer, trust_domain: str, now: float) -> Signer:
    """An intermediate that signs leaves, under the root; it never outlives it."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _ca_builder(
        _name(f"{trust_domain} issuer"),
        root.certificate.subject,
        key.public_key(),
        trust_domain,
        now,
        ISSUER_DAYS,
        path_length=0,
        until=root.certificate.not_valid_after_utc,
    ).add_extension(_authority_key(root), critical=False)
    return Signer(builder.sign(root.key, hashes.SHA256()), key)


def sign_leaf(
    issuer: Signer, spiffe_id: SpiffeId, public_key: PublicKey, *, now: float, seconds: float, until: float
) -> x509.Certificate:
    """An X.509-SVID: one URI SAN, and for a workload its DNS name where DNS can write it. Ends with `until`."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    name = spiffe_id.dns_name
    # Only one in the trust domain: an issuer with name constraints may sign no other.
    if name is not None and _DNS_NAME.fullmatch(name) and name.endswith(f".{spiffe_id.trust_domain}"):
        names.append(x509.DNSName(name))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(_time(now - BACKDATE_SECONDS), issuer.certificate.not_valid_before_utc))
        .not_valid_after(_time(min(now + seconds, until)))
        # Critical, because the subject is empty: RFC 5280, section 4.2.1.6.
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def key_id(certificate: x509.Certificate) -> str:
    """The subject key identifier, hex. Raises x509.ExtensionNotFound."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def load_leaf(chain_pem: bytes) -> x509.Certificate:
    """The first certificate of a chain. Raises ValueError."""
    return x509.load_pem_x509_certificate(chain_pem)


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    trust_domain: str,
    now: float,
    days: int,
    *,
    path_length: int,
    until: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    end = _time(now + days * 86400)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - BACKDATE_SECONDS))
        .not_valid_after(end if until is None else min(end, until))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        # A signing certificate may carry the trust domain's own ID: X.509-SVID, section 4.2.
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(signer: Signer) -> x509.AuthorityKeyIdentifier:
    own = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Quietwire"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _time(posix: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(posix), datetime.UTC)
