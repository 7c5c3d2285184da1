"""Certificates under a CA that is trusted, each of which breaks one rule of X.509-SVID: one table for every door."""

from collections.abc import Callable

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec import Struct

from agent.identity.svid import Svid
from agent.identity.x509_svid import Rule
from agent.outcome import Outcome
from tests.tls.pki import Pki, signing

VICTIM = "spiffe://example.test/ns/demo/sa/victim"


class Wrong(Struct, frozen=True):
    """`rule` is what the rules by themselves say; `outcome` how it counts, which may be OpenSSL's word before ours."""

    make: Callable[[Pki], Svid]
    rule: Rule
    outcome: Outcome
    above: bool = False
    """It is not the leaf that is wrong, but what signed it."""
    servers: Outcome | None = None
    """How it counts as a server's, where that is another word."""

    def counts(self, *, server: bool) -> Outcome:
        """How it counts in a role."""
        return self.servers if server and self.servers is not None else self.outcome


def _under(pki: Pki, *uris: str, usage_critical: bool = True) -> Svid:
    return pki.under(signing(pki.root, uris, usage_critical=usage_critical)).certificate([VICTIM])


WRONG: dict[str, Wrong] = {
    "no SAN at all": Wrong(
        lambda pki: pki.certificate([], san=False, subject="victim"), Rule.NO_URI_SAN, Outcome.NO_URI_SAN
    ),
    "no URI SAN": Wrong(lambda pki: pki.certificate([]), Rule.NO_URI_SAN, Outcome.NO_URI_SAN),
    "two URI SANs": Wrong(
        lambda pki: pki.certificate([VICTIM, "spiffe://example.test/ns/demo/sa/two"]),
        Rule.SEVERAL_URI_SANS,
        Outcome.SEVERAL_URI_SANS,
    ),
    "the same URI SAN twice": Wrong(
        lambda pki: pki.certificate([VICTIM, VICTIM]), Rule.SEVERAL_URI_SANS, Outcome.SEVERAL_URI_SANS
    ),
    "a second URI SAN that is no SPIFFE ID": Wrong(
        lambda pki: pki.certificate([VICTIM, "https://example.test/"]),
        Rule.SEVERAL_URI_SANS,
        Outcome.SEVERAL_URI_SANS,
    ),
    "another scheme": Wrong(
        lambda pki: pki.certificate(["https://example.test/ns/demo/sa/victim"]),
        Rule.MALFORMED_ID,
        Outcome.SPIFFE_ID_MALFORMED,
    ),
    "an empty path segment": Wrong(
        lambda pki: pki.certificate(["spiffe://example.test/a//b"]), Rule.MALFORMED_ID, Outcome.SPIFFE_ID_MALFORMED
    ),
    "a SPIFFE ID without a path": Wrong(
        lambda pki: pki.certificate(["spiffe://example.test"]), Rule.NO_PATH, Outcome.NOT_AN_SVID
    ),
    "a path that is one slash": Wrong(
        lambda pki: pki.certificate(["spiffe://example.test/"]), Rule.MALFORMED_ID, Outcome.SPIFFE_ID_MALFORMED
    ),
    "a SAN that is not critical, and no subject": Wrong(
        lambda pki: pki.certificate([VICTIM], san_critical=False),
        Rule.SAN_NOT_CRITICAL,
        Outcome.CERTIFICATE_UNTRUSTED,
    ),
    "a CA as a leaf": Wrong(
        lambda pki: pki.certificate(
            [VICTIM], is_ca=True, subject="victim", usage=("digital_signature", "key_cert_sign")
        ),
        Rule.LEAF_IS_CA,
        Outcome.NOT_AN_SVID,
    ),
    "no key usage": Wrong(lambda pki: pki.certificate([VICTIM], usage=None), Rule.NO_KEY_USAGE, Outcome.NOT_AN_SVID),
    "a key usage that is not critical": Wrong(
        lambda pki: pki.certificate([VICTIM], usage_critical=False),
        Rule.KEY_USAGE_NOT_CRITICAL,
        Outcome.NOT_AN_SVID,
    ),
    "no digitalSignature": Wrong(
        lambda pki: pki.certificate([VICTIM], usage=("key_agreement",)),
        Rule.NO_DIGITAL_SIGNATURE,
        Outcome.NOT_AN_SVID,
    ),
    "keyCertSign": Wrong(
        lambda pki: pki.certificate([VICTIM], usage=("digital_signature", "key_cert_sign")),
        Rule.SIGNS_CERTIFICATES,
        Outcome.CERTIFICATE_UNTRUSTED,
    ),
    "cRLSign, and a subject": Wrong(
        lambda pki: pki.certificate([VICTIM], usage=("digital_signature", "crl_sign"), subject="victim"),
        Rule.SIGNS_CRLS,
        Outcome.NOT_AN_SVID,
    ),
    "an extended key usage of clients only": Wrong(
        lambda pki: pki.certificate([VICTIM], purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        Rule.EXTENDED_KEY_USAGE,
        Outcome.NOT_AN_SVID,
        servers=Outcome.CERTIFICATE_UNTRUSTED,
    ),
    "an extended key usage of servers only": Wrong(
        lambda pki: pki.certificate([VICTIM], purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
        Rule.EXTENDED_KEY_USAGE,
        Outcome.CERTIFICATE_UNTRUSTED,
        servers=Outcome.NOT_AN_SVID,
    ),
    "an extended key usage of neither": Wrong(
        lambda pki: pki.certificate([VICTIM], purposes=[ExtendedKeyUsageOID.CODE_SIGNING]),
        Rule.EXTENDED_KEY_USAGE,
        Outcome.CERTIFICATE_UNTRUSTED,
    ),
    "an issuer whose SPIFFE ID has a path": Wrong(
        lambda pki: _under(pki, "spiffe://example.test/issuer"), Rule.SIGNER_HAS_PATH, Outcome.NOT_AN_SVID, above=True
    ),
    "an issuer with two SPIFFE IDs": Wrong(
        lambda pki: _under(pki, "spiffe://example.test", "spiffe://other.test"),
        Rule.SEVERAL_URI_SANS,
        Outcome.NOT_AN_SVID,
        above=True,
    ),
    "an issuer whose SPIFFE ID is malformed": Wrong(
        lambda pki: _under(pki, "spiffe://EXAMPLE.test"), Rule.MALFORMED_ID, Outcome.NOT_AN_SVID, above=True
    ),
    "an issuer of another trust domain": Wrong(
        lambda pki: _under(pki, "spiffe://other.test"), Rule.SIGNER_IS_FOREIGN, Outcome.NOT_AN_SVID, above=True
    ),
    "an issuer with a SPIFFE ID whose key usage is not critical": Wrong(
        lambda pki: _under(pki, "spiffe://example.test", usage_critical=False),
        Rule.KEY_USAGE_NOT_CRITICAL,
        Outcome.NOT_AN_SVID,
        above=True,
    ),
    "an issuer without a key usage": Wrong(
        lambda pki: pki.under(signing(pki.root, usage=None)).certificate([VICTIM]),
        Rule.NO_KEY_USAGE,
        Outcome.CERTIFICATE_UNTRUSTED,
        above=True,
    ),
    "an issuer that signs no certificates": Wrong(
        lambda pki: pki.under(signing(pki.root, usage=("crl_sign",))).certificate([VICTIM]),
        Rule.SIGNER_SIGNS_NOTHING,
        Outcome.CERTIFICATE_UNTRUSTED,
        above=True,
    ),
    "an issuer that is no CA": Wrong(
        lambda pki: pki.under(signing(pki.root, is_ca=False)).certificate([VICTIM]),
        Rule.SIGNER_IS_NO_CA,
        Outcome.CERTIFICATE_UNTRUSTED,
        above=True,
    ),
}

RIGHT: dict[str, Callable[[Pki], Svid]] = {
    "as our authority signs": lambda pki: pki.certificate([VICTIM]),
    "with a subject, and a SAN that is not critical": lambda pki: pki.certificate(
        [VICTIM], subject="victim", san_critical=False
    ),
    "with a DNS SAN besides": lambda pki: pki.certificate(
        [VICTIM], names=[x509.DNSName("victim.demo.serviceaccount.identity.example.test")]
    ),
    "with keyEncipherment and keyAgreement": lambda pki: pki.certificate(
        [VICTIM], usage=("digital_signature", "key_encipherment", "key_agreement")
    ),
    "without an extended key usage": lambda pki: pki.certificate([VICTIM], purposes=None),
    "without basic constraints": lambda pki: pki.certificate([VICTIM], constrained=False),
    "under an issuer that is no SVID": lambda pki: pki.under(signing(pki.root)).certificate([VICTIM]),
    "under an issuer that is an SVID": lambda pki: _under(pki, "spiffe://example.test"),
    "under an issuer with a URI SAN of something else": lambda pki: _under(pki, "https://ca.example.test/"),
    "under an issuer within name constraints": lambda pki: pki.under(
        signing(
            pki.root,
            more=[(x509.NameConstraints([x509.UniformResourceIdentifier("example.test")], None), True)],
        )
    ).certificate([VICTIM]),
}
"""What the standard allows, or only recommends against, is taken."""
