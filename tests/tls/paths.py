"""Chains under a CA that is trusted which RFC 5280 forbids, or which are too much to look at: one table for every door.

What a certificate by itself may be is in `tests.tls.wrong`. Here each is what it must be, and what is wrong is the path
from leaf to root: names that a signer may not give, more signers than one of them allows, too many, or in circles.
"""

from collections.abc import Callable, Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

from agent.authority import ca
from agent.authority.ca import Signer
from agent.identity.svid import Svid
from agent.outcome import Outcome
from tests.tls.pki import TRUST_DOMAIN, Pki, key_usage, signing
from tests.tls.wrong import VICTIM

DNS_NAME = x509.DNSName("victim.demo.serviceaccount.identity.example.test")
UNKNOWN = "1.3.6.1.4.1.55555"
"""The arc of registered IDs, of which nobody knows what constrains them."""


class Forbidden(Struct, frozen=True):
    """A chain, and how it counts."""

    make: Callable[[Pki], Svid]
    outcome: Outcome = Outcome.CERTIFICATE_UNTRUSTED


def boundless(constraints: x509.NameConstraints | None = None) -> Pki:
    """A root that says nothing of how long the chains under it may be, and an issuer right under it."""
    made = Pki()
    key, like = ec.generate_private_key(ec.SECP256R1()), made.root.certificate
    builder = (
        x509.CertificateBuilder(like.subject, like.subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    made.root = Signer(builder.sign(key, hashes.SHA256()), key)
    return made.under(signing(made.root, name="issuer"))


def constrained(
    above: Signer,
    permitted: Sequence[x509.GeneralName] | None = None,
    excluded: Sequence[x509.GeneralName] | None = None,
    *,
    critical: bool = True,
) -> Signer:
    """A signer that may give some names only: RFC 5280, section 4.2.1.10."""
    return signing(above, name="constrained", more=[(x509.NameConstraints(permitted, excluded), critical)])


def shown_with(svid: Svid, above: Sequence[Signer]) -> Svid:
    """The leaf of an SVID with other certificates above it, nearest first."""
    leaf = x509.load_pem_x509_certificates(svid.chain_pem)[0]
    return msgspec.structs.replace(
        svid, chain_pem=b"".join(ca.pem(each) for each in (leaf, *(signer.certificate for signer in above)))
    )


def below(pki: Pki, *signers: Signer) -> Svid:
    """A leaf that the last of these signed, and which comes with all of them; the first is under the root."""
    return shown_with(pki.under(signers[-1]).certificate([VICTIM]), signers[::-1])


def deep(pki: Pki, between: int) -> Svid:
    """A leaf with so many signers between it and the root."""
    signers = [pki.root]
    while len(signers) <= between:
        signers.append(signing(signers[-1], name=f"number {len(signers)}"))
    return below(pki, *signers[1:])


def uris(*hosts: str) -> list[x509.GeneralName]:
    """What constrains URIs, by their hosts."""
    return [x509.UniformResourceIdentifier(host) for host in hosts]


def _constrained(
    pki: Pki, permitted: Sequence[x509.GeneralName] | None, excluded: Sequence[x509.GeneralName] | None = None
) -> Svid:
    return below(pki, constrained(pki.root, permitted, excluded))


def _other_subject(pki: Pki) -> Svid:
    somebody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    signer = constrained(pki.root, [x509.DirectoryName(somebody)])
    return pki.under(signer).certificate([VICTIM], subject="victim")


def _unknown_kind(pki: Pki) -> Svid:
    signer = constrained(pki.root, [x509.RegisteredID(x509.ObjectIdentifier(UNKNOWN))])
    named = x509.RegisteredID(x509.ObjectIdentifier(f"{UNKNOWN}.1"))
    return pki.under(signer).certificate([VICTIM], names=[named])


def _constrained_further_up(pki: Pki) -> Svid:
    upper = constrained(pki.root, uris("other.test"))
    return below(pki, upper, constrained(upper, uris("example.test")))


def _under_one_that_allows(pki: Pki, length: int, between: int) -> Svid:
    signers = [signing(pki.root, name="limited", path_length=length)]
    for number in range(between):
        signers.append(signing(signers[-1], name=f"number {number}"))
    return below(pki, *signers)


def _in_a_circle(pki: Pki) -> Svid:
    """Two signers, each of which has signed the other; no root has signed either."""
    one = signing(Pki(TRUST_DOMAIN).root, name="one")
    two = signing(one, name="two")
    again = signing(two, name="one", key=one.key)
    return shown_with(pki.under(again).certificate([VICTIM]), [again, two, again, two])


def _under_a_namesake(pki: Pki) -> Svid:
    """The stranger's own root, with the name of ours, comes with the chain."""
    other = Pki(pki.trust_domain)
    return shown_with(other.certificate([VICTIM]), [other.issuer, other.root])


def _under_the_roots_double(pki: Pki) -> Svid:
    """The same with the key identifier of ours."""
    key, like = ec.generate_private_key(ec.SECP256R1()), pki.root.certificate
    builder = x509.CertificateBuilder(like.subject, like.subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(like.not_valid_before_utc).not_valid_after(like.not_valid_after_utc)
    for extension in like.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    double = Signer(builder.sign(key, hashes.SHA256()), key)
    issuer = signing(double)
    return shown_with(pki.under(issuer).certificate([VICTIM]), [issuer, double])


FORBIDDEN: dict[str, Forbidden] = {
    "an issuer for another trust domain": Forbidden(lambda pki: _constrained(pki, uris("other.test"))),
    "an issuer for all but ours": Forbidden(lambda pki: _constrained(pki, None, uris("example.test"))),
    "an issuer for hosts below ours": Forbidden(lambda pki: _constrained(pki, uris(".example.test"))),
    "an issuer whose constraint is a URI and no host": Forbidden(
        lambda pki: _constrained(pki, uris("spiffe://example.test"))
    ),
    "an issuer for ours, and not for ours": Forbidden(
        lambda pki: _constrained(pki, uris("example.test"), uris("example.test"))
    ),
    "an issuer for all but ours, which is not critical": Forbidden(
        lambda pki: below(pki, constrained(pki.root, None, uris("example.test"), critical=False))
    ),
    "an issuer for other DNS names": Forbidden(
        lambda pki: pki.under(constrained(pki.root, [x509.DNSName("other.test")])).certificate(
            [VICTIM], names=[DNS_NAME]
        )
    ),
    "an issuer for other subjects": Forbidden(_other_subject),
    "an issuer constrained in a kind of names that nobody knows, and such a name": Forbidden(_unknown_kind),
    "an issuer for ours under one for another": Forbidden(_constrained_further_up),
    "one issuer more than one above allows": Forbidden(lambda pki: _under_one_that_allows(pki, 0, 1)),
    "two issuers more than one above allows": Forbidden(lambda pki: _under_one_that_allows(pki, 1, 3)),
    "eight issuers": Forbidden(lambda pki: deep(pki, 8)),
    "twenty issuers": Forbidden(lambda pki: deep(pki, 20)),
    "sixty issuers": Forbidden(lambda pki: deep(pki, 60), Outcome.HANDSHAKE_FAILED),
    "issuers in a circle": Forbidden(_in_a_circle),
    "a root with the name of ours": Forbidden(_under_a_namesake),
    "a root with the name of ours and its key identifier": Forbidden(_under_the_roots_double),
}

ALLOWED: dict[str, Callable[[Pki], Svid]] = {
    "an issuer for ours": lambda pki: _constrained(pki, uris("example.test")),
    "an issuer for ours under one for ours": lambda pki: below(
        pki, (upper := constrained(pki.root, uris("example.test"))), constrained(upper, uris("example.test"))
    ),
    "an issuer for all but others": lambda pki: _constrained(pki, None, uris("other.test")),
    "an issuer for other DNS names, and none of those": lambda pki: _constrained(pki, [x509.DNSName("other.test")]),
    "as many issuers as one above allows": lambda pki: _under_one_that_allows(pki, 1, 1),
    "five issuers": lambda pki: deep(pki, 5),
}
"""What RFC 5280 allows, and is short enough, is taken."""
