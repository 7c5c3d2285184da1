"""Keys and certificates of a cluster's parts, and the kubeconfigs by which they find the API server."""

import base64
import datetime
import ipaddress
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

VALID = datetime.timedelta(days=365)
BACKDATED = datetime.timedelta(minutes=5)
LEEWAY_SECONDS = 60.0
"""For so long after its end the API server still takes a token."""


class Issuer(Struct, frozen=True):
    """A CA of the cluster's, which signs until the process ends."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_issuer(directory: Path, name: str, now: datetime.datetime) -> Issuer:
    """A new CA; its certificate and key are in `<name>.crt` and `<name>.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory, name, certificate, key)
    return Issuer(certificate, key)


def issue(
    directory: Path,
    name: str,
    issuer: Issuer,
    now: datetime.datetime,
    *,
    user: str,
    groups: Sequence[str] = (),
    hosts: Iterable[str] = (),
) -> None:
    """Writes a certificate for a server and a client in one to `<name>.crt`, and its key to `<name>.key`.

    The API server takes its subject for a user and groups (Kubernetes, "Authenticating", X.509 client certificates).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
            x509.NameAttribute(NameOID.COMMON_NAME, user),
        ]
    )
    builder = _builder(subject, issuer.certificate.subject, key, now).add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    if names := [_general_name(host) for host in hosts]:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
    )
    _write(directory, name, builder.sign(issuer.key, hashes.SHA256()), key)


def make_token_key(directory: Path) -> None:
    """The key of service accounts' tokens: RSA, for RS256 is what everybody's verifier knows; `sa.key` and `sa.pub`."""
    key = rsa.generate_private_key(65537, 2048)
    _private(directory / "sa.key", key)
    (directory / "sa.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def reissued(directory: Path, token: str, ends: float) -> str:
    """A service account's token (RFC 7519) as it was, but for its life: the API server takes it until `ends`, in POSIX
    seconds. It makes none itself that lives for less than ten minutes.
    """
    header, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    expires = int(ends - LEEWAY_SECONDS)
    claims |= {"exp": expires, "iat": expires - 3600, "nbf": expires - 3600}
    said = f"{header}.{_base64url(json.dumps(claims).encode())}"
    key = serialization.load_pem_private_key((directory / "sa.key").read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("the key of service accounts' tokens is RSA")
    return f"{said}.{_base64url(key.sign(said.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64url(data: bytes) -> str:
    """RFC 7515, section 2."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def write_kubeconfig(directory: Path, name: str, server: str) -> Path:
    """`<name>.conf`, for who has `<name>.crt` and `<name>.key`; `ca.crt` says whom to believe. JSON is YAML too."""
    path = directory / f"{name}.conf"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "clusters": [
                    {"name": "it", "cluster": {"server": server, "certificate-authority": str(directory / "ca.crt")}}
                ],
                "users": [
                    {
                        "name": "it",
                        "user": {
                            "client-certificate": str(directory / f"{name}.crt"),
                            "client-key": str(directory / f"{name}.key"),
                        },
                    }
                ],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            },
            indent=1,
        )
    )
    return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALID)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    (directory / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _private(directory / f"{name}.key", key)


def _private(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
