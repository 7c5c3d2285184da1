"""The ledger: join tokens, agents, every issuance. SQLite in WAL mode, written by one thread.

What `record` and `use_token` have returned is on disk: the answer to the caller comes after it.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T")

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE tokens (
  hash BLOB PRIMARY KEY, node TEXT NOT NULL, expires REAL NOT NULL, used REAL
) WITHOUT ROWID;
CREATE TABLE agents (node TEXT PRIMARY KEY, joined REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE issuances (
  serial TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, node TEXT NOT NULL, issued REAL NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX issuances_by_id ON issuances (spiffe_id, issued);
"""


class Issuance(Struct, frozen=True):
    """One certificate that was signed; times are POSIX seconds."""

    serial: str
    spiffe_id: str
    node: str
    issued: float
    expires: float


class Ledger:
    """Every call runs on the ledger's one thread; awaiting it means that it is done, durably."""

    def __init__(self, path: Path) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._db = self._executor.submit(_open, path).result()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._in_transaction, work)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            return work(self._db)

    async def add_token(self, token: str, node: str, expires: float) -> None:
        """Remembers a join token, by its hash only, for one node."""
        await self._run(
            lambda db: db.execute("INSERT INTO tokens VALUES (?, ?, ?, NULL)", (_hash(token), node, expires))
        )

    async def use_token(self, token: str, node: str, now: float) -> str | None:
        """Uses a token up for its node, once: None, or why it does not serve. Of two at once, one wins."""

        def use(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT node, expires, used FROM tokens WHERE hash = ?", (_hash(token),)).fetchone()
            if row is None:
                return "the join token is unknown"
            if row[2] is not None:
                return "the join token has been used already"
            if row[1] <= now:
                return "the join token has expired"
            if row[0] != node:
                return "the join token is for another node"
            db.execute("UPDATE tokens SET used = ? WHERE hash = ?", (now, _hash(token)))
            db.execute("INSERT OR REPLACE INTO agents VALUES (?, ?)", (node, now))
            return None

        return await self._run(use)

    async def knows_agent(self, node: str) -> bool:
        """Whether an agent of this node has joined."""
        return await self._run(
            lambda db: db.execute("SELECT 1 FROM agents WHERE node = ?", (node,)).fetchone() is not None
        )

    async def record(self, issuance: Issuance) -> None:
        """Records a certificate before it is handed out."""
        await self._run(
            lambda db: db.execute(
                "INSERT INTO issuances VALUES (?, ?, ?, ?, ?)",
                (issuance.serial, issuance.spiffe_id, issuance.node, issuance.issued, issuance.expires),
            )
        )

    async def issued(self) -> list[Issuance]:
        """Every issuance, oldest first."""
        rows = await self._run(
            lambda db: db.execute(
                "SELECT serial, spiffe_id, node, issued, expires FROM issuances ORDER BY issued, serial"
            ).fetchall()
        )
        return [Issuance(*row) for row in rows]

    def close(self) -> None:
        """Closes the database, after what is under way."""
        self._executor.submit(self._db.close).result()
        self._executor.shutdown()


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        db.close()
        raise sqlite3.DatabaseError(f"{path} has schema {version}, and this version knows {SCHEMA_VERSION}")
    return db


def _hash(token: str) -> bytes:
    # Tokens are 256 random bits: a plain hash cannot be searched.
    return hashlib.sha256(token.encode()).digest()
