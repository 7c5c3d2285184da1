"""Who vouches for the webhooks' server, and the certificate that it shows. Pure but for the keys' randomness.

Small CAs of the webhooks' own, in one Secret that every replica reads: the mesh's cannot be used, because its leaves
are X.509-SVIDs with a SPIFFE ID, and because whoever is in a webhook's caBundle may speak for the API server's
admission. A new one is made when the youngest has lived for half its life, and signs when everybody has had time to
trust it. Which one does what follows of their times alone, so that replicas agree without a word.
"""

import datetime
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

CA_SECONDS = 365 * 86400.0
SERVING_SECONDS = 7 * 86400.0
SETTLE_SECONDS = 3600.0
"""After which a new CA is in every webhook's caBundle, and signs."""
BACKDATE_SECONDS = 300.0
MAX_CAS = 8
"""More are not made by us: a Secret that says more is refused."""
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----\n?", re.DOTALL)


class CertificateError(Exception):
    """What is kept cannot be used; `str` says why."""


class Authority(Struct, frozen=True):
    """One CA with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def begins(self) -> float:
        """POSIX seconds, when it was made."""
        return self.certificate.not_valid_before_utc.timestamp() + BACKDATE_SECONDS

    @property
    def ends(self) -> float:
        """POSIX seconds."""
        return self.certificate.not_valid_after_utc.timestamp()

    def __repr__(self) -> str:
        return f"Authority({self.certificate.serial_number:x})"


class Serving(Struct, frozen=True):
    """What the server shows, and until when it is to be renewed."""

    chain_pem: bytes
    key_pem: bytes
    due: float
    issuer: int
    """Serial number of who signed it."""

    def __repr__(self) -> str:
        return f"Serving(due={self.due})"


def living(cas: Sequence[Authority], now: float) -> tuple[Authority, ...]:
    """Those that have not expired, the oldest first."""
    return tuple(sorted((each for each in cas if now < each.ends), key=lambda each: each.begins))


def wants_another(cas: Sequence[Authority], now: float) -> bool:
    """Whether a new CA is due."""
    youngest = living(cas, now)[-1:]
    return not youngest or now >= (youngest[0].begins + youngest[0].ends) / 2


def signer(cas: Sequence[Authority], now: float) -> Authority:
    """The youngest that everybody has had time to trust, or else the oldest. Raises CertificateError for none."""
    there = living(cas, now)
    if not there:
        raise CertificateError("every CA of the webhooks has expired")
    settled = [each for each in there if now - each.begins >= SETTLE_SECONDS]
    return settled[-1] if settled else there[0]


def bundle(cas: Sequence[Authority], now: float) -> bytes:
    """A webhook's caBundle: PEM, always in the same order."""
    return b"".join(_pem(each.certificate) for each in living(cas, now))


def new_authority(now: float) -> Authority:
    """Another CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quietwire webhooks")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(_time(now - BACKDATE_SECONDS))
        .not_valid_after(_time(now + CA_SECONDS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def serving(ca: Authority, names: Sequence[str], now: float) -> Serving:
    """A certificate for a server of these DNS names, with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + SERVING_SECONDS, ca.ends)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    certificate = (
        x509.CertificateBuilder(ca.certificate.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
        .not_valid_before(max(_time(now - BACKDATE_SECONDS), ca.certificate.not_valid_before_utc))
        .not_valid_after(_time(ends))
        # Critical, because the subject is empty: RFC 5280, section 4.2.1.6.
        .add_extension(alternatives, critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return Serving(_pem(certificate), _key_pem(key), now + (ends - now) / 2, ca.certificate.serial_number)


def is_due(shown: Serving | None, cas: Sequence[Authority], now: float) -> bool:
    """Whether another certificate is to be shown: for its age, or because another CA signs."""
    return shown is None or now >= shown.due or shown.issuer != signer(cas, now).certificate.serial_number


def dump(cas: Sequence[Authority]) -> bytes:
    """CAs as they are kept: certificate and key in turn, PEM."""
    return b"".join(_pem(each.certificate) + _key_pem(each.key) for each in cas)


def load(data: bytes) -> tuple[Authority, ...]:
    """The same back. Raises CertificateError."""
    blocks = [match[0] for match in _BLOCK.finditer(data)]
    if len(blocks) % 2 or len(blocks) > 2 * MAX_CAS:
        raise CertificateError("certificates and keys are expected in turn")
    return tuple(_loaded(*pair) for pair in zip(blocks[::2], blocks[1::2], strict=True))


def _loaded(certificate: bytes, key: bytes) -> Authority:
    try:
        read, private = x509.load_pem_x509_certificate(certificate), serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"a certificate or its key cannot be read: {error}") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != read.public_key():
        raise CertificateError("a key is not its certificate's")
    return Authority(read, private)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _time(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(at), tz=datetime.UTC)
