"""Certificates that people put among roots, and that are none: each with words of the reason."""

import datetime
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.authority import by_openssl
from tests.tls.pki import Pki, key_usage

Extensions = list[tuple[x509.ExtensionType, bool]]


def self_signed(name: str, *, of: tuple[str, ...] = ("ca", "usage", "identifier"), ca: bool = True) -> x509.Certificate:
    """A certificate under itself, with the extensions that are named in `of`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    extensions: dict[str, tuple[x509.ExtensionType, bool]] = {
        "ca": (x509.BasicConstraints(ca=ca, path_length=None), True),
        "usage": (key_usage("key_cert_sign" if ca else "digital_signature"), True),
        "identifier": (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    }
    for which in of:
        extension, critical = extensions[which]
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256())


def _leaf(pki: Pki) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pki.certificate(["spiffe://example.test/a"], subject="leaf").chain_pem)[0]


ODD: dict[str, Callable[[Pki], tuple[x509.Certificate, str]]] = {
    "a leaf": lambda pki: (_leaf(pki), "CN=leaf is no CA certificate"),
    "a leaf under itself": lambda _: (self_signed("own leaf", ca=False), "CN=own leaf is no CA certificate"),
    "no subject key identifier": lambda _: (
        self_signed("nameless", of=("ca", "usage")),
        "CN=nameless has no subject key identifier",
    ),
    "an intermediate": lambda pki: (pki.issuer.certificate, "is not signed by itself"),
    "signed by SHA-1": lambda _: (
        by_openssl.root(digest="sha1"),
        "CN=r signs itself with sha1, which is not verified any more",
    ),
    "no key usage": lambda _: (self_signed("idle", of=("ca", "identifier")), "CN=idle has no key usage extension"),
    "an old public CA, without extensions": lambda _: (self_signed("Old Public CA", of=()), "is no CA certificate"),
}
