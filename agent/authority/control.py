"""What an operator does to an authority: rotate, revoke, mint. Each is one transaction on the ledger.

The command line calls this with a book of its own, whether or not the authority runs; a running one sees within a
moment that the ledger has changed. `now` is POSIX seconds.
"""

import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from msgspec import Struct

from agent.authority import ca, pki, rotation
from agent.authority.ledger import AUTHORITY, MINTED, Agent, Book, Issuance, Kind, Publication, Subject
from agent.authority.pki import GivenFiles, InForce, IssuerError
from agent.authority.rotation import RotationError, Stage
from agent.authority.store import Keys
from agent.identity.csr import new_request, public_key
from agent.identity.expiry import Nearness, nearness
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid

ISSUER_RENEWED_AT = 1 / 3
"""How much of its life remains when an issuer of our own is replaced."""


class MintedSvid(Struct, frozen=True):
    """An SVID that no agent keeps, with the bundle to go with it."""

    svid: Svid
    bundle_pem: bytes


class Expiry(Struct, frozen=True):
    """A certificate above all SVIDs, and when it ends."""

    what: str
    not_after: float

    def nearness(self, now: float) -> Nearness:
        """How near its end is."""
        return nearness(self.not_after, now)

    def warning(self, now: float) -> str | None:
        """What to say about it now; None while there is time."""
        match self.nearness(now):
            case Nearness.FAR:
                return None
            case Nearness.EXPIRED:
                return f"{self.what} has expired"
            case _:
                remaining = self.not_after - now
                shown = f"{remaining / 86400:.1f} days" if remaining >= 86400 else f"{remaining / 3600:.1f} hours"
                return f"{self.what} expires in {shown}, at {moment(self.not_after)}"


class Status(Struct, frozen=True, rename={"issuer_key_id": "issuer"}):
    """Where an authority stands."""

    trust_domain: str
    sequence: int
    stage: Stage
    since: float
    auto: bool
    roots: tuple[int, ...]
    issuer_key_id: str
    expiries: tuple[Expiry, ...]
    blockers: tuple[str, ...]
    """What holds the next stage back."""
    agents: int
    revocations: int
    given: bool
    warnings: tuple[str, ...] = ()
    """What ends within 30 days, and what was given and is left out."""
    refused: str | None = None
    """Why the issuer that is given cannot be used now; an authority that runs keeps the former one."""


def in_force(book: Book, keys: Keys, now: float) -> InForce:
    """What is signed with and trusted. Raises StoreError, or IssuerError where an issuer is given."""
    files = book.given()
    return pki.own(keys, book.rotation()) if files is None else pki.given(as_files(files), keys.trust_domain(), now)


def as_files(paths: tuple[str, str, str]) -> GivenFiles:
    """The files of an issuer that is given, from the ledger."""
    certificate, key, roots = (Path(path) for path in paths)
    return GivenFiles(certificate, key, roots)


def publish(book: Book, keys: Keys, now: float) -> tuple[InForce, Publication]:
    """Puts in force and publishes what ledger and files say."""
    with book.transaction():
        found = in_force(book, keys, now)
        return found, book.publish(found.trust, now)


def renewal_is_due(issuer: x509.Certificate, root: x509.Certificate, now: float) -> bool:
    """Whether an issuer of our own is in the last third of its life, and a new one would live longer."""
    begins, ends = issuer.not_valid_before_utc.timestamp(), issuer.not_valid_after_utc.timestamp()
    # One that ends with its root is left: only a rotation helps, and the warnings say so.
    return ends - now <= (ends - begins) * ISSUER_RENEWED_AT and ends < root.not_valid_after_utc.timestamp()


def renew_issuer(book: Book, keys: Keys, now: float) -> bool:
    """Replaces an issuer of our own where that is due, under the same root; whether it did. Raises StoreError."""
    number = book.rotation().issuer
    due = book.given() is None and renewal_is_due(keys.issuer(number).certificate, keys.root_certificate(number), now)
    if due:
        keys.renew_issuer(number, keys.trust_domain(), now)
    return due


# -- rotation --


def start(book: Book, keys: Keys, now: float, *, auto: bool = False) -> None:
    """Makes a new root and puts it into the bundle. Raises RotationError."""
    if book.given() is not None:
        raise RotationError("the issuer and the roots are given to this authority: put the new root into those files")
    with book.transaction():
        wanted = rotation.start(book.rotation(), now, auto=auto)
        # In here, so that of two who start at once the second makes no other root of the first one's number.
        keys.create(wanted.latest, keys.trust_domain(), now)
        book.set_rotation(wanted)
        publish(book, keys, now)


def advance(book: Book, keys: Keys, now: float, *, force: bool = False) -> None:
    """The next stage. Raises RotationError, naming what holds it back unless it is forced."""
    with book.transaction():
        former = book.rotation()
        wanted = rotation.advance(former, now)
        held = blockers(book, now)
        if held and not force:
            raise RotationError(f"not yet: {'; '.join(held[:10])}{f'; and {len(held) - 10} more' if held[10:] else ''}")
        book.set_rotation(wanted)
        if not held:
            # Nothing unexpired is under what leaves. Forced, it is thrown out, with the connections that it vouched
            # for.
            for number in set(former.anchors) - set(wanted.anchors):
                book.retire(keys.root_certificate(number).fingerprint(hashes.SHA256()).hex())
        publish(book, keys, now)
    tidy(book, keys)


def abort(book: Book, keys: Keys, now: float) -> None:
    """The way back. Raises RotationError."""
    with book.transaction():
        book.set_rotation(rotation.abort(book.rotation(), now))
        publish(book, keys, now)
    tidy(book, keys)


def tidy(book: Book, keys: Keys) -> None:
    """Deletes the keys of roots that are trusted no more."""
    state = book.rotation()
    for number in range(1, state.latest + 1):
        if number not in state.anchors:
            keys.forget(number)


def known_agents(book: Book, now: float) -> list[Agent]:
    """Agents whose confirmation counts: they hold an SVID of their own that has not expired, and are not revoked."""
    revoked = book.revoked_nodes()
    return [agent for agent in book.agents() if agent.expires > now and agent.node not in revoked]


def blockers(book: Book, now: float) -> list[str]:
    """What holds the next stage back, in words."""
    stage, publication = book.rotation().stage, book.publication()
    if stage is Stage.NONE or publication is None:
        return []
    found = []
    issuer_key_id = publication.trust.issuer_key_id
    for agent in known_agents(book, now):
        if agent.trusts < publication.trust_sequence:
            found.append(
                f"the agent of node {agent.node} has not confirmed bundle {publication.trust_sequence} "
                f"(it trusts {agent.trusts or 'none'}, and was last seen {max(now - agent.seen, 0):.0f} s ago)"
            )
        elif stage is Stage.SWITCH and set(agent.issuers) != {issuer_key_id}:
            found.append(f"the agent of node {agent.node} still uses SVIDs of the former issuer")
    if stage is Stage.SWITCH:
        found += [
            f"minted {issuance.spiffe_id}, serial {issuance.serial}, is valid until {moment(issuance.expires)}"
            for issuance in book.issued(unexpired_at=now)
            if issuance.node == MINTED
            and issuance.issuer_key_id != issuer_key_id
            and book.why_revoked(Subject(SpiffeId.parse(issuance.spiffe_id), serial=issuance.serial)) is None
        ]
    return found


# -- revocation --


def revoke(book: Book, kind: Kind, value: str, reason: str, now: float) -> bool:
    """Revokes and publishes; False where it was revoked already."""
    with book.transaction():
        new = book.revoke(kind, value, reason, now)
        book.publish(None, now)
        return new


def unrevoke(book: Book, kind: Kind, value: str, now: float) -> bool:
    """Takes a revocation back and publishes; False where there was none."""
    with book.transaction():
        was = book.unrevoke(kind, value)
        book.publish(None, now)
        return was


# -- signing --


def sign(
    book: Book, found: InForce, spiffe_id: SpiffeId, key: ca.PublicKey, node: str, now: float, seconds: float
) -> bytes:
    """Signs a leaf and records it; its chain, leaf first, PEM. Raises Revoked, sqlite3.Error: then there is none."""
    leaf = ca.sign_leaf(found.issuer, spiffe_id, key, now=now, seconds=seconds, until=found.expires)
    book.record(
        Issuance(
            f"{leaf.serial_number:x}",
            str(spiffe_id),
            node,
            now,
            leaf.not_valid_after_utc.timestamp(),
            ca.key_id(found.issuer.certificate),
        )
    )
    return ca.pem(leaf) + found.chain_pem


def mint(book: Book, keys: Keys, spiffe_id: SpiffeId, seconds: float, now: float) -> MintedSvid:
    """An SVID with its key, for a workload that has no agent. Recorded like any other."""
    found = in_force(book, keys, now)
    request = new_request(spiffe_id)
    chain = sign(book, found, spiffe_id, public_key(request), MINTED, now, seconds)
    leaf = ca.load_leaf(chain)
    svid = Svid(
        spiffe_id,
        chain,
        request.key_pem,
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        f"{leaf.serial_number:x}",
    )
    return MintedSvid(svid, found.trust.anchors_pem)


# -- looking --


def expiries(found: InForce) -> tuple[Expiry, ...]:
    """What is above all SVIDs, and when it ends."""
    certificates = [("issuer", found.issuer.certificate), *(("intermediate", each) for each in found.upper)]
    certificates += [("root", root) for root in found.roots]
    return tuple(_expiry(role, certificate) for role, certificate in certificates)


def _expiry(role: str, certificate: x509.Certificate) -> Expiry:
    return Expiry(
        f"{role} {certificate.subject.rfc4514_string()} ({ca.key_id(certificate)[:8]})",
        certificate.not_valid_after_utc.timestamp(),
    )


def _published(publication: Publication) -> tuple[Expiry, ...]:
    """The same of what was published last, where the files of the issuer cannot be used now."""
    roots = x509.load_pem_x509_certificates(publication.trust.anchors_pem)
    return (
        Expiry(f"issuer in force ({publication.trust.issuer_key_id[:8]})", publication.trust.issuer_expires),
        *(_expiry("root", root) for root in roots),
    )


def status(book: Book, keys: Keys, now: float, *, files: bool = True) -> Status:
    """Where the authority stands. Raises StoreError; IssuerError where nothing was ever in force.

    `files`: whether the files of an issuer that is given are where this runs; else what is published is believed.
    """
    state, publication = book.rotation(), book.publication()
    refused: str | None = None
    left_out: tuple[str, ...] = ()
    found: InForce | None = None
    if book.given() is None or files:
        try:
            found = in_force(book, keys, now)
        except IssuerError as error:
            if publication is None:
                raise
            refused = str(error)
    if found is not None:
        left_out, issuer_key_id, ends = found.left_out, ca.key_id(found.issuer.certificate), expiries(found)
    elif publication is not None:
        issuer_key_id, ends = publication.trust.issuer_key_id, _published(publication)
    else:
        raise IssuerError("an issuer is given by files of the authority's own, and was never published: see its log")
    warnings = tuple(warning for expiry in ends if (warning := expiry.warning(now)) is not None)
    return Status(
        trust_domain=keys.trust_domain(),
        sequence=0 if publication is None else publication.sequence,
        stage=state.stage,
        since=state.since,
        auto=state.auto,
        roots=state.anchors,
        issuer_key_id=issuer_key_id,
        expiries=ends,
        blockers=tuple(blockers(book, now)),
        agents=len([agent for agent in known_agents(book, now) if agent.node != AUTHORITY]),
        revocations=len(book.revocations()),
        given=book.given() is not None,
        warnings=warnings + left_out,
        refused=refused,
    )


def moment(posix: float) -> str:
    """A time as people and machines read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(posix))
