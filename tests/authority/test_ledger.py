"""The ledger: what was acknowledged is kept, whatever happens to the process or the disk."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.authority.ledger import MINTED, Book, Issuance, Kind, Revoked, Trust
from agent.identity.provider import ProviderError
from tests.authority.running import WEB, Authority, refused

TRUST = Trust(b"anchors", "aa", 1e12)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def issuance(number: int, node: str = "node-a", spiffe_id: str = str(WEB), expires: float = 1e12) -> Issuance:
    return Issuance(f"{number:x}", spiffe_id, node, float(number), expires, "aa")


def test_the_sequence_grows_exactly_with_what_is_published(book: Book) -> None:
    first = book.publish(TRUST, 1.0)
    assert (first.sequence, first.trust_sequence) == (1, 1)
    assert book.publish(TRUST, 2.0) == first
    assert book.publish(None, 3.0) == first
    book.revoke(Kind.SPIFFE_ID, str(WEB), "because", 4.0)
    second = book.publish(None, 4.0)
    assert (second.sequence, second.trust_sequence) == (2, 1)
    third = book.publish(Trust(b"others", "bb", 1e12), 5.0)
    assert (third.sequence, third.trust_sequence) == (3, 3)
    assert third.revoked_ids == (str(WEB),)


def test_nothing_is_published_before_there_are_anchors(book: Book) -> None:
    with pytest.raises(sqlite3.DataError, match="start the authority once"):
        book.publish(None, 1.0)


def test_revoking_twice_is_no_change_and_taking_back_is_one(book: Book) -> None:
    assert book.revoke(Kind.AGENT, "node-a", "sold", 1.0)
    assert not book.revoke(Kind.AGENT, "node-a", "again", 2.0)
    assert [(each.value, each.reason) for each in book.revocations()] == [("node-a", "sold")]
    assert book.unrevoke(Kind.AGENT, "node-a")
    assert not book.unrevoke(Kind.AGENT, "node-a")
    assert book.revocations() == []


def test_nothing_is_recorded_for_who_is_revoked(book: Book) -> None:
    book.revoke(Kind.SPIFFE_ID, str(WEB), "leaked", 1.0)
    with pytest.raises(Revoked, match="leaked"):
        book.record(issuance(1))
    book.revoke(Kind.AGENT, "node-b", "sold", 1.0)
    with pytest.raises(Revoked, match="the agent of node node-b is revoked: sold"):
        book.record(issuance(2, "node-b", "spiffe://example.test/ns/demo/sa/other"))
    assert book.issued() == []


def test_every_commit_is_on_disk_before_it_is_acknowledged(book: Book) -> None:
    assert book._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert book._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: a power cut loses nothing"


def test_a_transaction_that_fails_leaves_nothing(book: Book) -> None:
    def fails() -> None:
        with book.transaction():
            book.record(issuance(1))
            book.revoke(Kind.AGENT, "node-a", "sold", 1.0)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fails()
    assert book.issued() == []
    assert book.revocations() == []


def test_what_another_process_writes_is_noticed(book: Book, tmp_path: Path) -> None:
    before = book.changes()
    book.record(issuance(1))
    assert book.changes() == before, "our own writes are no news"
    other = Book(tmp_path / "ledger.sqlite")
    other.record(issuance(2))
    other.close()
    assert book.changes() != before


def test_live_issuances_can_be_listed(book: Book) -> None:
    book.record(issuance(1, expires=10.0))
    book.record(issuance(2, MINTED, expires=20.0))
    assert [each.serial for each in book.issued()] == ["1", "2"]
    assert [each.serial for each in book.issued(unexpired_at=15.0)] == ["2"]
    assert book.issued(spiffe_id="spiffe://example.test/ns/demo/sa/nobody") == []


def _use(path: Path, token: str, results: "multiprocessing.Queue[bool]") -> None:
    book = Book(path)
    results.put(book.use_token(token, "node-a", time.time()) is None)
    book.close()


def test_of_processes_that_race_with_one_token_one_wins(book: Book, tmp_path: Path) -> None:
    token = book.create_token("node-a", time.time() + 60)
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[bool] = context.Queue()
    racers = [context.Process(target=_use, args=(tmp_path / "ledger.sqlite", token, results)) for _ in range(6)]
    for racer in racers:
        racer.start()
    won = [results.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join(30)
    results.close()
    assert sum(won) == 1


WRITER = """
import sys
from pathlib import Path
from agent.authority.ledger import Book, Issuance
book = Book(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    book.record(Issuance(f"{number:x}", "spiffe://example.test/a", "node-a", float(number), 1e12, "aa"))
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Book(path).close()
    acknowledged = 0
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(acknowledged)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(20):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate(timeout=10)
        acknowledged = int(rest.split()[-1]) if rest.split() and rest.endswith(b"\n") else acknowledged
        book = Book(path)
        serials = {int(each.serial, 16) for each in book.issued()}
        book.close()
        assert set(range(1, acknowledged + 1)) <= serials
        acknowledged = max(serials)


def test_a_ledger_of_another_version_is_not_touched(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="has schema 99"):
        Book(tmp_path / "ledger.sqlite")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)], check=True)
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.netns  # mounts a file system
async def test_a_full_disk_issues_nothing_says_so_and_recovers(disk: Path) -> None:
    authority = Authority(disk)
    client = authority.client()
    first = await client.issue(WEB)
    fill = disk / "fill"
    with fill.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass  # full
    error = None
    for _ in range(50):  # what the ledger has preallocated is used up first
        try:
            await client.issue(WEB)
        except ProviderError as failure:
            error = failure
            break
    assert "nothing was issued" in str(error)
    assert "disk full" in str(error)
    await refused(client.issue(WEB), "not_recorded")
    fill.unlink()
    again = await client.issue(WEB)
    assert again.serial != first.serial
    said = authority.stop()
    assert "refused /v1/svid" in said
    book = authority.book()
    assert again.serial in {each.serial for each in book.issued()}
    book.close()
