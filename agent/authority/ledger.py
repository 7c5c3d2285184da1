"""The ledger: tokens, agents, every issuance, revocations, the rotation, and what is published. SQLite in WAL mode.

`Book` is the ledger as a value of its moment: synchronous, each method one transaction. In a file, what a method has
returned is on disk: kill -9 at any point loses nothing that was acknowledged, and two processes may write, for SQLite
keeps them apart. In memory it is a copy of what is kept elsewhere.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from agent.authority.rotation import Rotation
from agent.identity.spiffe import SpiffeId

T = TypeVar("T")

FILE = "ledger.sqlite"
SCHEMA_VERSION = 2
BUSY_SECONDS = 10.0
"""How long one process waits for another's transaction; each takes milliseconds."""
SEEN_SECONDS = 30.0
"""How exact `Agent.seen` is: not every poll is a write."""

_SCHEMA = """
CREATE TABLE tokens (
  hash BLOB PRIMARY KEY, node TEXT NOT NULL, expires REAL NOT NULL, used REAL
) WITHOUT ROWID;
CREATE TABLE agents (
  node TEXT PRIMARY KEY, joined REAL NOT NULL, seen REAL NOT NULL,
  trusts INTEGER NOT NULL DEFAULT 0, issuers TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE issuances (
  serial TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, node TEXT NOT NULL, issued REAL NOT NULL, expires REAL NOT NULL,
  issuer TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX issuances_by_id ON issuances (spiffe_id, issued);
CREATE INDEX issuances_by_expiry ON issuances (expires, node);
CREATE TABLE revocations (
  kind TEXT NOT NULL, value TEXT NOT NULL, reason TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (kind, value)
) WITHOUT ROWID;
CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

MINTED = "(mint)"
"""The node of an issuance that no agent asked for. No node has such a name: it could not stand in a SPIFFE ID."""
AUTHORITY = "(authority)"
"""The node of the authority's own SVIDs."""


class Issuance(Struct, frozen=True, rename={"issuer_key_id": "issuer"}):
    """One certificate that was signed; times are POSIX seconds, `issuer_key_id` is hex, and `issuer` in JSON."""

    serial: str
    spiffe_id: str
    node: str
    issued: float
    expires: float
    issuer_key_id: str = ""


class Agent(Struct, frozen=True):
    """One agent that has joined. `trusts` is the bundle sequence it last confirmed, `issuers` whom it uses."""

    node: str
    joined: float
    seen: float
    trusts: int
    issuers: tuple[str, ...]
    expires: float
    """When the last of its own SVIDs does."""


class Kind(StrEnum):
    """What a revocation names."""

    SPIFFE_ID = "spiffe_id"
    AGENT = "agent"
    SERIAL = "serial"


class Revocation(Struct, frozen=True):
    """One revocation; in force until it is taken back."""

    kind: Kind
    value: str
    reason: str
    created: float


class Subject(Struct, frozen=True):
    """Whom or what a revocation may be about: somebody who calls, or a certificate that is asked for.

    `node` is the node whose agent asked for it (for an agent, its own), empty where none did; `serial` is empty for a
    certificate that there is not yet.
    """

    spiffe_id: SpiffeId
    node: str = ""
    serial: str = ""

    @property
    def named(self) -> tuple[tuple[Kind, str], ...]:
        """Every revocation that would hold for it.

        An agent is named by its node or by its SPIFFE ID, and what it was given goes with it either way.
        """
        found = [(Kind.SPIFFE_ID, str(self.spiffe_id))]
        if self.node:
            found.append((Kind.AGENT, self.node))
            found.append((Kind.SPIFFE_ID, f"spiffe://{self.spiffe_id.trust_domain}/agent/{self.node}"))
        if self.serial:
            found.append((Kind.SERIAL, self.serial))
        return tuple(found)


class Trust(Struct, frozen=True, rename={"issuer_key_id": "issuer"}):
    """What certificates are verified against, and whom new ones are signed by; in the ledger that is `issuer`."""

    anchors_pem: bytes
    issuer_key_id: str
    issuer_expires: float


class Publication(Struct, frozen=True, rename={"trust": "anchors", "trust_sequence": "anchors_sequence"}):
    """What every agent is told. `sequence` grows with each change, `trust_sequence` is the last of the trust's.

    In the ledger these are `anchors` and `anchors_sequence`.
    """

    trust: Trust
    revoked_ids: tuple[str, ...] = ()
    revoked_serials: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    """Roots that left in order, SHA-256, hex: what was verified against them while they were trusted lives on."""
    sequence: int = 0
    trust_sequence: int = 0


class Revoked(Exception):  # it is an answer, and not a fault of the ledger
    """Nothing is issued: the identity, or the agent that asked, is revoked. `str` says which, and why."""


class LedgerReplacedError(Exception):
    """The ledger's file is another one, or gone: what is read and written here is nobody's any more."""


class Book:
    """The ledger, opened: a file's, or one in memory where there is no path. Not for two threads."""

    seen_seconds = SEEN_SECONDS

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._db = _open(path)
        self._file = _file(path)

    def close(self) -> None:
        """Closes it."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; nests."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()

    def changes(self) -> int:
        """A number that differs once another process has written. Raises LedgerReplacedError."""
        if _file(self._path) != self._file:
            raise LedgerReplacedError(
                f"{self._path} was replaced, or is gone: revocations that are written there would not be heard of; "
                f"end the authority before a backup is restored"
            )
        (number,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(number)

    def has_begun(self) -> bool:
        """Whether an authority ever served from this ledger, or was about to."""
        # Ledgers of former versions know nothing of `begun`.
        return bool(self._get("begun", bool)) or self.rotation().since > 0.0 or self.publication() is not None

    def begin(self) -> None:
        """Notes that it is about to, before anything else in the state directory says so."""
        self._set("begun", True)

    # -- tokens and agents --

    def create_token(self, node: str, expires: float) -> str:
        """A new join token for one node: 256 random bits, kept by its hash only."""
        token = secrets.token_urlsafe(32)
        with self.transaction():
            self._db.execute("DELETE FROM tokens WHERE expires < ?", (expires - 30 * 86400,))
            self._db.execute("INSERT INTO tokens VALUES (?, ?, ?, NULL)", (_hash(token), node, expires))
        return token

    def token_problem(self, token: str, node: str, now: float) -> str | None:
        """Why a token does not serve for a node; None where it does, and is not used up by this."""
        row = self._db.execute("SELECT node, expires, used FROM tokens WHERE hash = ?", (_hash(token),)).fetchone()
        if row is None:
            return "the join token is unknown"
        if row[2] is not None:
            return "the join token has been used already"
        if row[1] <= now:
            return "the join token has expired"
        if row[0] != node:
            return "the join token is for another node"
        return None

    def use_token(self, token: str, node: str, now: float) -> str | None:
        """Uses a token up for its node, once: None, or why it does not serve. Of two at once, one wins."""
        with self.transaction():
            problem = self.token_problem(token, node, now)
            if problem is not None:
                return problem
            self._db.execute("UPDATE tokens SET used = ? WHERE hash = ?", (now, _hash(token)))
            self._joined(node, now)
        return None

    def join(self, node: str, subject: Subject, now: float) -> None:
        """An agent joins that was attested without a token. Raises Revoked, and then it has not joined."""
        with self.transaction():
            self.check(subject)
            self._joined(node, now)

    def _joined(self, node: str, now: float) -> None:
        self._db.execute(
            "INSERT INTO agents (node, joined, seen) VALUES (?, ?, ?) "
            "ON CONFLICT (node) DO UPDATE SET joined = excluded.joined, seen = excluded.seen, trusts = 0",
            (node, now, now),
        )

    def knows_agent(self, node: str) -> bool:
        """Whether an agent of this node has joined."""
        return self._db.execute("SELECT 1 FROM agents WHERE node = ?", (node,)).fetchone() is not None

    def confirm(self, node: str, trusts: int, issuers: tuple[str, ...], now: float) -> None:
        """An agent says which bundle it trusts, and under which issuers the SVIDs are that it uses."""
        with self.transaction():
            row = self._db.execute("SELECT trusts, issuers, seen FROM agents WHERE node = ?", (node,)).fetchone()
            if row is not None and (row[:2] != (trusts, ",".join(issuers)) or now - row[2] > self.seen_seconds):
                self._db.execute(
                    "UPDATE agents SET trusts = ?, issuers = ?, seen = ? WHERE node = ?",
                    (trusts, ",".join(issuers), now, node),
                )

    def agents(self) -> list[Agent]:
        """Every agent that ever joined, by node."""
        rows = self._db.execute(
            "SELECT a.node, a.joined, a.seen, a.trusts, a.issuers, "
            "coalesce((SELECT max(expires) FROM issuances i WHERE i.node = a.node AND i.spiffe_id LIKE "
            "'spiffe://%/agent/' || a.node), 0) FROM agents a ORDER BY a.node"
        )
        return [Agent(row[0], row[1], row[2], row[3], tuple(filter(None, row[4].split(","))), row[5]) for row in rows]

    # -- issuances --

    def record(self, issuance: Issuance) -> None:
        """Records a certificate before it is handed out. Raises Revoked, and then nothing may be handed out."""
        with self.transaction():
            self.check(Subject(SpiffeId.parse(issuance.spiffe_id), issuance.node))
            self._db.execute(
                "INSERT INTO issuances VALUES (?, ?, ?, ?, ?, ?)",
                msgspec.structs.astuple(issuance),
            )

    def issued(self, *, unexpired_at: float | None = None, spiffe_id: str | None = None) -> list[Issuance]:
        """Issuances, oldest first: all, or those that had not expired then, of one identity if one is given."""
        rows = self._db.execute(
            "SELECT serial, spiffe_id, node, issued, expires, issuer FROM issuances "
            "WHERE expires > ? AND (? IS NULL OR spiffe_id = ?) ORDER BY issued, serial",
            (float("-inf") if unexpired_at is None else unexpired_at, spiffe_id, spiffe_id),
        )
        return [Issuance(*row) for row in rows]

    # -- revocations --

    def revoke(self, kind: Kind, value: str, reason: str, now: float) -> bool:
        """Revokes; False where it was revoked already."""
        with self.transaction():
            done = self._db.execute("INSERT OR IGNORE INTO revocations VALUES (?, ?, ?, ?)", (kind, value, reason, now))
            return done.rowcount == 1

    def unrevoke(self, kind: Kind, value: str) -> bool:
        """Takes a revocation back; False where there was none.

        What it alone kept out is let in again: certificates that have not expired are good again, with the keys that
        they had, and the identity is issued anew to whoever may have it. What another revocation names stays out.
        """
        with self.transaction():
            done = self._db.execute("DELETE FROM revocations WHERE kind = ? AND value = ?", (kind, value))
            return done.rowcount == 1

    def why_revoked(self, subject: Subject) -> str | None:
        """The revocation that holds for it, in words; None where none does. Whoever asks, asks this."""
        for kind, value in subject.named:
            row = self._db.execute(
                "SELECT reason FROM revocations WHERE kind = ? AND value = ?", (kind, value)
            ).fetchone()
            if row is not None:
                return f"{_shown(kind)} {value} is revoked: {row[0]}"
        return None

    def check(self, subject: Subject) -> None:
        """Raises Revoked where one is in force."""
        reason = self.why_revoked(subject)
        if reason is not None:
            raise Revoked(reason)

    def check_caller(self, spiffe_id: SpiffeId, serial: str) -> None:
        """The same for who shows a certificate: it goes with the agent that was given it. Raises Revoked."""
        row = self._db.execute("SELECT node FROM issuances WHERE serial = ?", (serial,)).fetchone()
        # One that is not in the ledger is signed by a key of ours all the same: what its SPIFFE ID says still holds.
        self.check(Subject(spiffe_id, row[0] if row is not None else spiffe_id.agent or "", serial))

    def revoked_nodes(self) -> frozenset[str]:
        """The nodes whose agents are revoked, by either name."""
        found = {each.value for each in self.revocations() if each.kind is Kind.AGENT}
        found |= {_agent_of(each.value) for each in self.revocations() if each.kind is Kind.SPIFFE_ID}
        return frozenset(found - {""})

    def revocations(self) -> list[Revocation]:
        """Every revocation in force, oldest first."""
        rows = self._db.execute("SELECT kind, value, reason, created FROM revocations ORDER BY created, kind, value")
        return [Revocation(Kind(row[0]), *row[1:]) for row in rows]

    # -- the rotation, and what is published --

    def rotation(self) -> Rotation:
        """Where the root's rotation stands."""
        return self._get("rotation", Rotation) or Rotation()

    def set_rotation(self, rotation: Rotation) -> None:
        """Puts a stage in force."""
        self._set("rotation", rotation)

    def given(self) -> tuple[str, str, str] | None:
        """Where an issuer that is given lies (certificate, key, roots); None where the roots are our own."""
        return self._get("given", tuple[str, str, str])

    def set_given(self, paths: tuple[str, str, str] | None) -> None:
        """Remembers it, for the command line."""
        if paths is not None:
            self._set("given", paths)
        elif self.given() is not None:
            with self.transaction():
                self._db.execute("DELETE FROM settings WHERE name = 'given'")

    def retired(self) -> tuple[str, ...]:
        """Roots that left in order."""
        return self._get("retired", tuple[str, ...]) or ()

    def retire(self, anchor: str) -> None:
        """A root leaves in order."""
        self._set("retired", (*self.retired(), anchor))

    def publication(self) -> Publication | None:
        """What is published; None before the first time."""
        return self._get("publication", Publication)

    def publish(self, trust: Trust | None, now: float) -> Publication:
        """Publishes what the ledger says now, with this trust (None: the same as before).

        The sequence grows if anything differs. Serials leave when their certificates have expired.
        """
        with self.transaction():
            former = self.publication()
            if trust is None:
                if former is None:
                    raise sqlite3.DataError("nothing has been published yet: start the authority once")
                trust = former.trust
            ids, serials = self._revoked(now)
            retired = self.retired()
            if former is not None and (
                (former.trust, former.revoked_ids, former.revoked_serials, former.retired)
                == (trust, ids, serials, retired)
            ):
                return former
            sequence = 1 if former is None else former.sequence + 1
            same_trust = former is not None and former.trust == trust
            publication = Publication(
                trust,
                ids,
                serials,
                retired,
                sequence,
                former.trust_sequence if former and same_trust else sequence,
            )
            self._set("publication", publication)
            return publication

    def _revoked(self, now: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """SPIFFE IDs and serials that nobody may accept. An agent's are its own, and all that it was given."""
        ids = [row[0] for row in self._db.execute("SELECT value FROM revocations WHERE kind = ?", (Kind.SPIFFE_ID,))]
        # A serial that is not in the ledger stays for good: nobody knows when its certificate ends.
        serials = {
            row[0]
            for row in self._db.execute(
                "SELECT value FROM revocations WHERE kind = ? AND "
                "NOT EXISTS (SELECT 1 FROM issuances WHERE serial = value AND expires <= ?)",
                (Kind.SERIAL, now),
            )
        }
        for node in self.revoked_nodes():
            rows = self._db.execute("SELECT serial FROM issuances WHERE expires > ? AND node = ?", (now, node))
            serials |= {row[0] for row in rows}
        return tuple(sorted(ids)), tuple(sorted(serials))

    def _get(self, name: str, kind: type[T]) -> T | None:
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=kind)

    def _set(self, name: str, value: object) -> None:
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, msgspec.msgpack.encode(value)))


def _file(path: Path | None) -> tuple[int, int] | None:
    """Which file that is; None where there is none."""
    if path is None:
        return None
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.touch(mode=0o600)
    db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=BUSY_SECONDS)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"{path} has schema {version}, and this version knows {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _hash(token: str) -> bytes:
    # Tokens are 256 random bits: a plain hash cannot be searched.
    return hashlib.sha256(token.encode()).digest()


def _agent_of(spiffe_id: str) -> str:
    """The node of an agent's SPIFFE ID, or nothing."""
    try:
        return SpiffeId.parse(spiffe_id).agent or ""
    except ValueError:  # then it names nobody that can be given anything: a certificate needs one that parses
        return ""


def _shown(kind: Kind) -> str:
    return {Kind.SPIFFE_ID: "identity", Kind.AGENT: "the agent of node", Kind.SERIAL: "serial"}[kind]
