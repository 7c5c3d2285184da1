"""The ledger in memory, as a copy of a cluster's objects: what a work changes in it, and what others have changed.

It is the same book as on a disk, with the same statements: so both stores decide alike. Triggers note which rows a
work touches, and thereby which objects are to be written.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import astuple

from agent.authority.kubernetes.objects import AgentRow, State, Token, bucket_of
from agent.authority.ledger import Book, Issuance

SEEN_SECONDS = 300.0
"""How exact `Agent.seen` is here, where it costs a write of an object that many share."""

_SCHEMA = """
CREATE TABLE keys (name TEXT PRIMARY KEY, pem BLOB NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE touched (what TEXT NOT NULL, key BLOB NOT NULL, PRIMARY KEY (what, key)) WITHOUT ROWID;
"""
_NOTED = (
    # what is touched, when, and by which key
    ("state", "{} ON settings", "''"),
    ("state", "{} ON revocations", "''"),
    ("keys", "{} ON keys", "{}.name"),
    ("tokens", "{} ON tokens", "{}.hash"),
    ("issuances", "{} ON issuances", "{}.serial"),
)


class Touched(Struct, frozen=True):
    """What a work has changed, by the keys of rows."""

    state: bool
    keys: tuple[str, ...]
    tokens: tuple[bytes, ...]
    joined: tuple[str, ...]
    """Nodes whose agents have joined: to be known before anybody is told."""
    confirmed: tuple[str, ...]
    """Nodes whose agents have said what they trust, which they say again and again."""
    issuances: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether nothing has to be written before anybody is told."""
        return not (self.state or self.keys or self.tokens or self.joined or self.issuances)


class CopiedBook(Book):
    """The book, in memory."""

    seen_seconds = SEEN_SECONDS

    def __init__(self) -> None:
        super().__init__(None)
        for statement in (*_SCHEMA.strip().split(";\n"), *_triggers()):
            self._db.execute(statement)

    # -- works --

    def start_round(self) -> None:
        """From here on whatever is changed can be taken back."""
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM touched")

    def keep_round(self) -> None:
        """It is kept."""
        self._db.execute("COMMIT")

    def undo_round(self) -> None:
        """It did not happen."""
        self._db.execute("ROLLBACK")

    @contextmanager
    def work(self) -> Iterator[None]:
        """One of several works: what it does before it raises did not happen."""
        self._db.execute("SAVEPOINT work")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK TO work")
            raise
        finally:
            self._db.execute("RELEASE work")

    @property
    def writes(self) -> int:
        """A number that grows with each change."""
        return self._db.total_changes

    @property
    def shareable(self) -> bool:
        """Whether others may be kept together with it: it has only recorded, and can be done anew if need be."""
        others = "SELECT 1 FROM touched WHERE what NOT IN ('issuances', 'confirmed') LIMIT 1"
        return self._db.execute(others).fetchone() is None

    def touched(self) -> Touched:
        """What was changed since it began."""
        found: dict[str, list[str | bytes]] = {}
        for what, key in self._db.execute("SELECT what, key FROM touched"):
            found.setdefault(what, []).append(key)
        joined = _texts(found, "joined")
        return Touched(
            "state" in found,
            _texts(found, "keys"),
            tuple(key for key in found.get("tokens", ()) if isinstance(key, bytes)),
            joined,
            tuple(node for node in _texts(found, "confirmed") if node not in set(joined)),
            _texts(found, "issuances"),
        )

    # -- what objects are to hold --

    def state(self, trust_domain: str, keys: dict[str, str]) -> State:
        """All that is in force; `keys` are the Secrets of each key."""
        settings = dict(self._db.execute("SELECT name, value FROM settings ORDER BY name"))
        rows = self._db.execute("SELECT kind, value, reason, created FROM revocations ORDER BY created, kind, value")
        return State(trust_domain, settings, list(rows), keys)

    def token(self, hashed: bytes) -> Token | None:
        """One token; None where it was deleted."""
        row = self._db.execute("SELECT hash, node, expires, used FROM tokens WHERE hash = ?", (hashed,)).fetchone()
        return None if row is None else Token(*row)

    def agents_in(self, bucket: int) -> list[AgentRow]:
        """The agents of one bucket."""
        rows = self._db.execute("SELECT node, joined, seen, trusts, issuers FROM agents ORDER BY node")
        return [AgentRow(*row) for row in rows if bucket_of(row[0]) == bucket]

    def issuances(self, serials: Collection[str]) -> list[Issuance]:
        """Those of these that there are."""
        found = []
        for serial in serials:
            row = self._db.execute(
                "SELECT serial, spiffe_id, node, issued, expires, issuer FROM issuances WHERE serial = ?", (serial,)
            ).fetchone()
            if row is not None:
                found.append(Issuance(*row))
        return found

    def key(self, name: str) -> bytes | None:
        """A certificate with its key."""
        row = self._db.execute("SELECT pem FROM keys WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_key(self, name: str, pem: bytes) -> None:
        """Puts it there."""
        self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (name, pem))

    # -- what objects hold now --

    def take_state(self, state: State | None, keys: dict[str, bytes]) -> None:
        """All that is in force is this; `keys` are the PEMs of its keys. None: nothing is."""
        with self.transaction():
            for table in ("settings", "revocations", "keys"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - one of the three above
            if state is not None:
                self._db.executemany("INSERT INTO settings VALUES (?, ?)", state.settings.items())
                self._db.executemany("INSERT INTO revocations VALUES (?, ?, ?, ?)", state.revocations)
                self._db.executemany("INSERT INTO keys VALUES (?, ?)", keys.items())

    def take_token(self, hashed: bytes, token: Token | None) -> None:
        """A token is this; None: it is gone."""
        with self.transaction():
            self._db.execute("DELETE FROM tokens WHERE hash = ?", (hashed,))
            if token is not None:
                row = (token.hash, token.node, token.expires, token.used)
                self._db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?)", row)

    def take_agents(self, rows: Collection[AgentRow]) -> None:
        """Agents are these, where no more is known of them. None is ever taken away."""
        with self.transaction():
            self._db.executemany(
                "INSERT INTO agents (node, joined, seen, trusts, issuers) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (node) DO UPDATE SET joined = excluded.joined, seen = excluded.seen, "
                "trusts = excluded.trusts, issuers = excluded.issuers "
                "WHERE (excluded.joined, excluded.seen) > (agents.joined, agents.seen)",
                [astuple(row) for row in rows],
            )

    def take_issued(self, former: Collection[str], rows: Collection[Issuance]) -> None:
        """In place of these serials there are these rows."""
        with self.transaction():
            self._db.executemany("DELETE FROM issuances WHERE serial = ?", [(serial,) for serial in former])
            self._db.executemany(
                "INSERT OR REPLACE INTO issuances VALUES (?, ?, ?, ?, ?, ?)", [astuple(row) for row in rows]
            )

    def forget_serials(self, before: float) -> int:
        """Takes back the revocations of serials whose certificates expired before then: nobody would take them.

        Once their record is gone nobody could tell that, and they would stay published for good.
        """
        with self.transaction():
            done = self._db.execute(
                "DELETE FROM revocations WHERE kind = 'serial' AND "
                "EXISTS (SELECT 1 FROM issuances WHERE serial = value AND expires < ?)",
                (before,),
            )
            return done.rowcount


def _texts(found: dict[str, list[str | bytes]], what: str) -> tuple[str, ...]:
    return tuple(sorted(key for key in found.get(what, ()) if isinstance(key, str)))


def _triggers() -> Iterator[str]:
    for what, when, key in _NOTED:
        for verb, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            yield _trigger(what, f"AFTER {when.format(verb)}", key.format(row))
    yield _trigger("joined", "AFTER INSERT ON agents", "NEW.node")
    yield _trigger("joined", "AFTER UPDATE OF joined ON agents", "NEW.node")
    yield _trigger("confirmed", "AFTER UPDATE OF trusts ON agents", "NEW.node")


def _trigger(what: str, when: str, key: str) -> str:
    name = f"{what}_{when}".replace(" ", "_").lower()
    # Not `OR IGNORE`: what to do about a conflict is decided by the statement that the trigger follows.
    note = (
        f"INSERT INTO touched SELECT '{what}', {key} "  # noqa: S608 - of the constants above
        f"WHERE NOT EXISTS (SELECT 1 FROM touched WHERE what = '{what}' AND key = {key})"
    )
    return f"CREATE TEMP TRIGGER {name} {when.replace(' ON ', ' ON main.')} BEGIN {note}; END"
