"""A certificate authority for tests: proper SVIDs, and every kind of wrong one."""

import copy
import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.authority import ca
from agent.authority.ca import PrivateKey, Signer
from agent.authority.directory import StateDirectory
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid

TRUST_DOMAIN = "example.test"
BOTH_ROLES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Pki:
    """A root and an issuer. `from_state` borrows a running authority's, as a thief of its keys would."""

    def __init__(self, trust_domain: str = TRUST_DOMAIN, now: float | None = None) -> None:
        moment = time.time() if now is None else now
        self.trust_domain = trust_domain
        self.root: Signer = ca.new_root(trust_domain, moment)
        self.issuer: Signer = ca.new_issuer(self.root, trust_domain, moment)

    @classmethod
    def from_state(cls, directory: Path, trust_domain: str = TRUST_DOMAIN) -> "Pki":
        pki = cls(trust_domain)
        store = StateDirectory(directory)
        pki.root, pki.issuer = store.root(1), store.issuer(1)
        return pki

    def bundle(self, sequence: int = 1) -> Bundle:
        return Bundle(self.trust_domain, ca.pem(self.root.certificate), sequence)

    def write_issuer(self, directory: Path, more_roots: bytes = b"") -> None:
        """The issuer in the form that cert-manager writes; each file is replaced by rename."""
        key = self.issuer.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for name, data in (
            ("ca.crt", self.bundle().anchors_pem + more_roots),
            ("tls.key", key),
            ("tls.crt", ca.pem(self.issuer.certificate)),
        ):
            (directory / f".{name}").write_bytes(data)
            (directory / f".{name}").rename(directory / name)

    def svid(
        self,
        service_account: str = "web",
        namespace: str = "demo",
        *,
        begins: float = -60,
        ends: float = 3600,
        authority_key_identifier: bool = True,
    ) -> Svid:
        """A proper SVID; without its authority key identifier it is none."""
        return self.certificate(
            [f"spiffe://{self.trust_domain}/ns/{namespace}/sa/{service_account}"],
            begins=begins,
            ends=ends,
            authority_key_identifier=authority_key_identifier,
        )

    def certificate(
        self,
        uris: Sequence[str],
        *,
        begins: float = -60,
        ends: float = 3600,
        is_ca: bool = False,
        usage: Sequence[str] | None = ("digital_signature",),
        usage_critical: bool = True,
        purposes: Sequence[x509.ObjectIdentifier] | None = BOTH_ROLES,
        san: bool = True,
        san_critical: bool = True,
        subject: str = "",
        constrained: bool = True,
        authority_key_identifier: bool = True,
        names: Sequence[x509.GeneralName] = (),
        more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Svid:
        """A leaf with these URI SANs (none at all is possible), valid from `begins` to `ends` seconds from now.

        `names` are SANs besides. The rest makes it a wrong one: `usage` names the bits of its key usage, and None
        leaves the extension out.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        not_before, not_after = now + datetime.timedelta(seconds=begins), now + datetime.timedelta(seconds=ends)
        sans: list[x509.GeneralName] = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *names]
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            *more,
        ]
        if authority_key_identifier:
            issuer = self.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            extensions.append((x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False))
        if san:
            extensions.append((x509.SubjectAlternativeName(sans or [x509.DNSName("nobody.test")]), san_critical))
        if constrained:
            extensions.append((x509.BasicConstraints(ca=is_ca, path_length=None), True))
        if usage is not None:
            extensions.append((key_usage(*usage), usage_critical))
        if purposes is not None:
            extensions.append((x509.ExtendedKeyUsage(purposes), False))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []))
            .issuer_name(self.issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        leaf = builder.sign(self.issuer.key, hashes.SHA256())
        return Svid(
            SpiffeId(self.trust_domain, uris[0].partition(self.trust_domain)[2] if uris else ""),
            ca.pem(leaf) + ca.pem(self.issuer.certificate),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            not_before.timestamp(),
            not_after.timestamp(),
            f"{leaf.serial_number:x}",
        )

    def under(self, signer: Signer) -> "Pki":
        """The same root, and another issuer."""
        made = copy.copy(self)
        made.issuer = signer
        return made


def key_usage(*bits: str) -> x509.KeyUsage:
    """A key usage with these bits, named as in x509.KeyUsage."""
    return x509.KeyUsage(**{bit: bit in bits for bit in USAGES})


def signing(
    above: Signer,
    uris: Sequence[str] = (),
    *,
    name: str = "between",
    is_ca: bool = True,
    path_length: int | None = None,
    usage: Sequence[str] | None = ("key_cert_sign", "crl_sign"),
    usage_critical: bool = True,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    key: PrivateKey | None = None,
) -> Signer:
    """A signing certificate under another one, with these URI SANs; the rest makes it a wrong one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(above.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=60))
        .not_valid_after(now + datetime.timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                above.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(key_usage(*usage), critical=usage_critical)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    return Signer(builder.sign(above.key, hashes.SHA256()), key)
