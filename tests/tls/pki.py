"""A certificate authority for tests: proper SVIDs, and every kind of wrong one."""

import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.authority import ca
from agent.authority.ca import Signer
from agent.authority.store import Store
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid

TRUST_DOMAIN = "example.test"


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
        store = Store(directory)
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
        self, service_account: str = "web", namespace: str = "demo", *, begins: float = -60, ends: float = 3600
    ) -> Svid:
        """A proper SVID."""
        return self.certificate(
            [f"spiffe://{self.trust_domain}/ns/{namespace}/sa/{service_account}"], begins=begins, ends=ends
        )

    def certificate(self, uris: Sequence[str], *, begins: float = -60, ends: float = 3600, is_ca: bool = False) -> Svid:
        """A leaf with these URI SANs (none at all is possible), valid from `begins` to `ends` seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        not_before, not_after = now + datetime.timedelta(seconds=begins), now + datetime.timedelta(seconds=ends)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName(names or [x509.DNSName("nobody.test")]), critical=True)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    self.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
        )
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
