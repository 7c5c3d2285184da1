"""What the authority signs with and what is trusted: its own roots, or an issuer that was given to it.

An issuer that is given comes in the form that cert-manager writes (tls.crt, tls.key, ca.crt), and is read again when
its files change. One that cannot be used is refused with its reason, and the one before stays in force. A root that
has expired, or is none that could vouch for anybody, is left out: it spoils the set only for an issuer that is under
it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec import Struct

from agent.authority import ca
from agent.authority.ca import Signer
from agent.authority.ledger import Trust
from agent.authority.rotation import Rotation
from agent.authority.store import Keys
from agent.identity import anchors, bundle_document, pem_file, x509_svid
from agent.identity.csr import new_request, public_key
from agent.identity.provider import Unacceptable
from agent.identity.received import signed_by, weak_hash
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.identity.x509_svid import NotAnSvid
from agent.outcome import Outcome
from agent.tls import trial

MAX_CHAIN = 5
TRIAL_SECONDS = 60.0
_REMEDIES = {
    "Basic Constraints of CA cert not marked critical": "make it anew with basicConstraints=critical,CA:true",
    "path length constraint exceeded": "a root above an issuer may have no pathlen, or one that counts the issuers",
    "unsuitable certificate purpose": "an issuer with an extended key usage needs serverAuth and clientAuth in it",
    "subtree violation": "its name constraints must let this SPIFFE ID's trust domain in",
    "Missing Authority Key Identifier": "make it anew with authorityKeyIdentifier=keyid",
    "unhandled critical extension": "make it anew without the extension that OpenSSL does not know",
    "too small": "make it anew with a key of P-256, or of RSA with 2048 bits or more",
    "too weak": "make it anew with a key of P-256, or of RSA with 2048 bits or more",
}
"""What to do about OpenSSL's words."""


class IssuerError(Exception):
    """An issuer that cannot be used; `str` says why. `possible_at` is when it can, where time alone will mend it."""

    def __init__(self, reason: str, *, possible_at: float | None = None) -> None:
        super().__init__(reason)
        self.possible_at = possible_at


class InForce(Struct, frozen=True):
    """The issuer, the certificates between it and the root, and the roots that are trusted.

    `left_out` says what was given and is not trusted, in words.
    """

    issuer: Signer
    upper: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    left_out: tuple[str, ...] = ()

    @property
    def chain_pem(self) -> bytes:
        """What a leaf carries after itself."""
        return b"".join(ca.pem(certificate) for certificate in (self.issuer.certificate, *self.upper))

    @property
    def trust(self) -> Trust:
        """The same, for those who verify."""
        return Trust(
            b"".join(ca.pem(root) for root in self.roots),
            ca.key_id(self.issuer.certificate),
            self.expires,
        )

    @property
    def expires(self) -> float:
        """When the first certificate of the chain above a leaf does, its root's included; POSIX seconds."""
        chain = [self.issuer.certificate, *self.upper]
        chain += _above(chain[-1], self.roots)[:1]
        return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


class GivenFiles(Struct, frozen=True):
    """Where an issuer that is given lies."""

    certificate: Path
    key: Path
    roots: Path

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Differs once one of the files has been replaced, by rename or by Kubernetes' `..data` link."""
        found = []
        for path in (self.certificate, self.key, self.roots):
            try:
                status = os.stat(path)
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_dev, status.st_ino, status.st_mtime_ns))
        return tuple(found)


def own(keys: Keys, rotation: Rotation) -> InForce:
    """What a rotation's stage says. Raises StoreError."""
    return InForce(
        keys.issuer(rotation.issuer), (), tuple(keys.root_certificate(number) for number in rotation.anchors)
    )


def given(files: GivenFiles, trust_domain: str, now: float) -> InForce:
    """Reads and checks an issuer that is given. Raises IssuerError.

    What is in force must sign what peers take: so one leaf is signed and shown to a peer, in memory. That also finds
    name constraints that leave the mesh's names out, paths that are too long, and keys that are too weak.
    """
    chain = _certificates(files.certificate)
    expired, living = _expired(_certificates(files.roots), now)
    roots, odd = _odd(living)
    if len(chain) > MAX_CHAIN:
        raise IssuerError(f"{files.certificate} has {len(chain)} certificates, and a chain may have {MAX_CHAIN}")
    issuer, *upper = chain
    key = _key(files.key)
    if key.public_key() != issuer.public_key():
        raise IssuerError(f"{files.key} is not the key of {files.certificate}")
    upper = [certificate for certificate in upper if certificate not in (*roots, *expired, *odd)]
    for certificate in (issuer, *upper):
        _check_ca(certificate, trust_domain if certificate is issuer else None)
    for certificate in (issuer, *upper):
        _check_time(certificate, now)
    for child, parent in zip([issuer, *upper], upper, strict=False):
        if not signed_by(child, parent):
            raise IssuerError(f"in {files.certificate}, {_name(child)} is not signed by the next, {_name(parent)}")
    last = [issuer, *upper][-1]
    if last not in roots:
        _check_root(last, roots, expired, odd, files, now)
    left_out = [
        *(f"root {_name(root)} expired at {_ends(root)} and is left out: take it out of the file" for root in expired),
        *(f"a root is left out: {why}. Take it out of the file" for why in odd.values()),
    ]
    found = InForce(Signer(issuer, key), tuple(upper), tuple(roots), tuple(left_out))
    _try(found, trust_domain, files, now)
    return found


def _try(found: InForce, trust_domain: str, files: GivenFiles, now: float) -> None:
    workload = SpiffeId.for_service_account(trust_domain, "quietwire", "trial")
    request = new_request(workload)
    leaf = ca.sign_leaf(
        found.issuer, workload, public_key(request), now=now, seconds=TRIAL_SECONDS, until=found.expires
    )
    svid = Svid(workload, ca.pem(leaf) + found.chain_pem, request.key_pem, now, now + TRIAL_SECONDS, "")
    try:
        trial.check(svid, Bundle(trust_domain, found.trust.anchors_pem, 1), now=now)
    except Unacceptable as problem:
        if problem.outcome is Outcome.CERTIFICATE_EXPIRED:
            return  # times were judged above, with what to do about each, and OpenSSL asks no clock but the machine's
        raise IssuerError(
            f"no peer would take what {_name(found.issuer.certificate)} of {files.certificate} signs for {workload}: "
            f"{problem}{_remedy(str(problem))}"
        ) from None


def _remedy(words: str) -> str:
    return next((f"; {remedy}" for part, remedy in _REMEDIES.items() if part in words), "")


def _check_root(
    last: x509.Certificate,
    roots: Sequence[x509.Certificate],
    expired: Sequence[x509.Certificate],
    odd: Mapping[x509.Certificate, str],
    files: GivenFiles,
    now: float,
) -> None:
    """The last of a chain must be under a root that is valid now; others may have expired, or be there ahead."""
    above = _above(last, roots)
    if not above:
        for root in _above(last, expired):
            raise IssuerError(f"{_name(root)} of {files.roots}, which the issuer is under, expired at {_ends(root)}")
        for root in _above(last, list(odd)):
            raise IssuerError(f"the issuer is under a root of {files.roots} that is none: {odd[root]}")
        if last in odd:
            raise IssuerError(f"the issuer stands in {files.roots} in its root's place: {odd[last]}")
        if hashed := weak_hash(last):
            raise IssuerError(f"{_name(last)} is signed with {hashed}, which nobody takes; sign it with SHA-256")
        raise IssuerError(f"{_name(last)} of {files.certificate} does not chain to a root of {files.roots}")
    if all(root.not_valid_before_utc.timestamp() > now for root in above):
        _check_time(above[0], now)


def _expired(certificates: list[x509.Certificate], now: float) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    """Those that have expired, and the others."""
    expired = [each for each in certificates if each.not_valid_after_utc.timestamp() <= now]
    return expired, [each for each in certificates if each not in expired]


def _odd(certificates: Sequence[x509.Certificate]) -> tuple[list[x509.Certificate], dict[x509.Certificate, str]]:
    """The roots, and what is none that agents could use, with the reason."""
    found = anchors.sort(certificates)
    odd = dict(found.odd)
    for root in found.roots:
        if (problem := bundle_document.key_problem(root)) is not None:
            odd[root] = f"{_name(root)}: {problem}"
    return [root for root in found.roots if root not in odd], odd


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem_file.read(path))
    except OSError as error:
        raise IssuerError(f"{path} cannot be read: {error.strerror}") from error
    except x509_svid.UNREADABLE as error:
        raise IssuerError(f"{path} holds no PEM certificates: {error}") from error


def _key(path: Path) -> ca.PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem_file.read(path), password=None)
    except OSError as error:
        raise IssuerError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IssuerError(f"{path} holds no PEM key without a passphrase: {error}") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise IssuerError(f"{path} holds a key that is neither ECDSA nor RSA")
    return key


def _check_ca(certificate: x509.Certificate, signs_for: str | None) -> None:
    try:
        x509_svid.check_signing(certificate, signs_for=signs_for)
        ca.key_id(certificate)
    except NotAnSvid as fault:
        raise IssuerError(str(fault)) from None
    except x509.ExtensionNotFound:
        raise IssuerError(
            f"{_name(certificate)} has no subject key identifier, which RFC 5280 demands of a CA"
        ) from None


def _check_time(certificate: x509.Certificate, now: float) -> None:
    name = _name(certificate)
    if now >= certificate.not_valid_after_utc.timestamp():
        raise IssuerError(f"{name} expired at {_ends(certificate)}")
    begins = certificate.not_valid_before_utc
    if now < begins.timestamp():
        raise IssuerError(f"{name} is not valid before {begins:%Y-%m-%dT%H:%M:%SZ}", possible_at=begins.timestamp())


def _above(certificate: x509.Certificate, roots: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The roots that signed a certificate, the one that lives longest first: several may have one key."""
    signed = [root for root in roots if signed_by(certificate, root)]
    return sorted(signed, key=lambda root: root.not_valid_after_utc, reverse=True)


def _ends(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
