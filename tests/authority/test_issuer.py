"""What becomes of an issuer: taken over, refused and tried again, renewed, warned of. The service, on our own clock."""

import errno
import logging
import re
import sqlite3
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.authority import ca, control, rotation
from agent.authority.ca import Signer
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book, Kind
from agent.authority.pki import GivenFiles
from agent.authority.service import WARN_EVERY_SECONDS, AuthorityService
from agent.authority.sqlite_store import SqliteStore
from agent.identity import pem_file
from agent.identity.csr import new_request, public_key
from tests.authority import by_openssl
from tests.authority.running import TD, WEB, Authority, Everywhere
from tests.authority.test_pki import ca_under

DAY = 86400.0


class Case:
    """An authority without its HTTPS, on a clock that we turn."""

    def __init__(self, directory: Path, caplog: pytest.LogCaptureFixture, given: GivenFiles | None = None) -> None:
        self.began = self.now = float(int(time.time()))
        self.changes = 0
        self.caplog = caplog
        caplog.set_level(logging.INFO, "quietwire.authority")
        self.store = StateDirectory(directory / "state")
        self.store.prepare(TD)
        self.ledger = SqliteStore(self.store)
        self.service = AuthorityService(
            self.ledger,
            Everywhere(),
            trust_domain=TD,
            svid_seconds=3600,
            given=given,
            clock=lambda: self.now,
        )

    async def look(self, seconds: float = 0.0) -> None:
        """The service looks once, after some time."""
        self.now += seconds
        await self.service.look(self.changed)

    def changed(self) -> None:
        self.changes += 1

    def said(self, words: str = "") -> list[tuple[int, str]]:
        """Level and text of what was logged with these words in it since last asked; forgets the rest."""
        found = [(each.levelno, each.getMessage()) for each in self.caplog.records if words in each.getMessage()]
        self.caplog.clear()
        return found

    def elsewhere(self, work: Callable[[Book], object]) -> None:
        """As another process does."""
        book = Book(self.store.ledger)
        work(book)
        book.close()


class Given:
    """An issuer in the form that cert-manager writes, under one root that lives for years."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.root = ca.new_root(TD, time.time())
        self.paths = GivenFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")

    def put(self, name: str, now: float, *, begins: float = -60, ends: float = 300 * DAY, roots: bytes = b"") -> Signer:
        """Lays a new issuer there."""
        issuer = ca_under(self.root, name, now, begins=begins, ends=ends)
        key = issuer.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for file, data in (
            ("ca.crt", ca.pem(self.root.certificate) + roots),
            ("tls.key", key),
            ("tls.crt", ca.pem(issuer.certificate)),
        ):
            (self.directory / f".{file}").write_bytes(data)
            (self.directory / f".{file}").rename(self.directory / file)
        return issuer


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path / "given")


@pytest.fixture
def own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Case:
    return Case(tmp_path, caplog)


@pytest.fixture
async def following(tmp_path: Path, caplog: pytest.LogCaptureFixture, given: Given) -> Case:
    """One whose issuer is given, and which has started."""
    made = Case(tmp_path, caplog, given.paths)
    given.put("first", made.now)
    await made.service.start()
    return made


def in_force(case: Case) -> str:
    """The subject of the issuer that signs."""
    return case.service.in_force.issuer.certificate.subject.rfc4514_string()


# -- given: taken over, refused, tried again --


async def test_every_event_of_an_issuer_is_logged(following: Case, given: Given) -> None:
    case = following
    (first,) = [each for each in case.caplog.get_records("setup") if each.name == "quietwire.authority"]
    assert first.levelno == logging.INFO
    assert (
        f"{case.service.in_force.trust.issuer_key_id[:16]} is in force, under 1 root(s), until " in first.getMessage()
    )
    given.put("second", case.now)
    await case.look()
    ((level, said),) = case.said("issuer ")
    assert level == logging.INFO
    assert f"{case.service.in_force.trust.issuer_key_id[:16]} taken over, under 1 root(s), until " in said
    (given.directory / "tls.key").write_text("nonsense")
    await case.look()
    record = case.caplog.records[-1]
    assert record.levelno == logging.ERROR
    assert record.__dict__["fields"]["action"] == "refused"
    assert "tls.key holds no PEM key" in record.getMessage()
    assert "the former stays" in record.getMessage()
    assert in_force(case) == "CN=second"
    case.said()
    given.put("third", case.now, roots=ca.pem(ca.new_root(TD, case.now).certificate))
    await case.look()
    assert [said for _, said in case.said("used now")] == ["what was refused can be used now"]
    given.put("third", case.now)
    await case.look()
    assert len(case.said("taken over")) == 1
    await case.ledger.close()


@pytest.mark.parametrize("kind", by_openssl.WRONG)
async def test_one_that_no_peer_would_take_leaves_the_former_in_force(following: Case, given: Given, kind: str) -> None:
    case, (made, words) = following, by_openssl.WRONG[kind]
    before = case.service.publication
    by_openssl.lay(given.directory, **made)
    await case.look(60)
    assert in_force(case) == "CN=first"
    assert case.service.publication == before
    ((level, said),) = case.said("cannot be put in force, the former stays")
    assert level == logging.ERROR
    assert re.search(words, said)
    by_openssl.lay(given.directory)
    await case.look(60)
    assert in_force(case) == "CN=i"
    await case.ledger.close()


async def test_an_issuer_that_was_renewed_with_its_key_is_taken_over_too(following: Case, given: Given) -> None:
    case = following
    kept = case.service.in_force.issuer
    longer = ca_under(given.root, "first", case.now, ends=400 * DAY, key=kept.key)
    (given.directory / ".tls.crt").write_bytes(ca.pem(longer.certificate))
    (given.directory / ".tls.crt").rename(given.directory / "tls.crt")
    await case.look()
    assert len(case.said("taken over")) == 1
    assert case.service.publication.trust.issuer_expires == longer.certificate.not_valid_after_utc.timestamp()
    await case.ledger.close()


async def test_a_poll_is_not_ended_by_a_look_that_found_nothing_new(following: Case) -> None:
    case = following
    case.elsewhere(lambda book: book.create_token("node-a", case.now + 60))
    await case.look()
    assert case.changes == 0
    await case.ledger.close()


async def test_an_issuer_that_is_not_valid_yet_is_taken_over_the_moment_it_is(following: Case, given: Given) -> None:
    case = following
    given.put("early", case.now, begins=3600.5)
    await case.look()
    ((level, said),) = case.said("cannot be put in force")
    assert level == logging.ERROR
    assert "CN=early is not valid before" in said
    assert f"tried again at {control.moment(case.now + 3600)}" in said
    await case.look(3599)
    assert in_force(case) == "CN=first"
    assert case.said("cannot be put in force") == [], "said once, and not at every try"
    await case.look(2)
    assert in_force(case) == "CN=early"
    assert len(case.said("taken over")) == 1
    await case.ledger.close()


async def test_an_issuer_that_cannot_be_read_for_a_moment_is_tried_again_with_growing_pauses(
    following: Case, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = following
    given.put("second", case.now)
    reads: list[float] = []

    def broken(path: Path) -> bytes:
        reads.append(case.now)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(pem_file, "read", broken)
        for _ in range(600):
            await case.look(0.2)
    assert in_force(case) == "CN=first"
    assert len(case.said("Input/output error")) == 1
    pauses = [later - earlier for earlier, later in pairwise(reads)]
    assert 5 < len(reads) < 15, "over two minutes"
    assert pauses == sorted(pauses)
    await case.look(61)
    assert in_force(case) == "CN=second"
    await case.ledger.close()


async def test_a_ledger_that_cannot_be_written_puts_nothing_in_force_by_half(
    following: Case, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed under must be published: both are taken, or neither."""
    case = following
    before = case.service.publication

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    given.put("second", case.now)
    with monkeypatch.context() as patch:
        patch.setattr(Book, "publish", full)
        await case.look()
    assert in_force(case) == "CN=first"
    assert case.service.publication == before
    assert len(case.said("disk is full")) == 1
    await case.look(1)
    assert in_force(case) == "CN=second"
    assert case.service.publication.trust.issuer_key_id == case.service.in_force.trust.issuer_key_id
    await case.ledger.close()


async def test_a_revocation_does_not_wait_for_an_issuer_that_is_refused(following: Case, given: Given) -> None:
    case = following
    (given.directory / "tls.crt").write_text("nonsense")
    await case.look()
    case.elsewhere(lambda book: control.revoke(book, Kind.SPIFFE_ID, str(WEB), "leaked", case.now))
    changes = case.changes
    await case.look(0.2)
    assert case.service.publication.revoked_ids == (str(WEB),)
    assert case.changes == changes + 1
    await case.ledger.close()


async def test_a_root_that_has_expired_is_left_out_and_said_and_spoils_nothing(following: Case, given: Given) -> None:
    case = following
    gone = ca.new_root("gone.test", case.now - 4000 * DAY)
    given.put("second", case.now, roots=ca.pem(gone.certificate))
    case.said()
    await case.look()
    assert in_force(case) == "CN=second"
    assert case.service.in_force.roots == (given.root.certificate,)
    ((level, said),) = case.said("is left out")
    assert level == logging.WARNING
    assert "root CN=gone.test root,O=Quietwire expired at" in said
    book = Book(case.store.ledger)
    status = control.status(book, case.store, case.now)
    book.close()
    assert any("gone.test" in warning and "is left out" in warning for warning in status.warnings)
    await case.ledger.close()


async def test_status_works_while_an_issuer_is_refused_and_says_so(following: Case, given: Given) -> None:
    case = following
    (given.directory / "tls.crt").write_text("nonsense")
    book = Book(case.store.ledger)
    status = control.status(book, case.store, case.now)
    book.close()
    assert status.refused is not None
    assert "tls.crt holds no PEM certificates" in status.refused
    assert status.issuer_key_id == case.service.in_force.trust.issuer_key_id
    assert {round(expiry.not_after - case.now) for expiry in status.expiries} >= {300 * DAY}
    await case.ledger.close()


# -- our own: renewed --


async def test_an_issuer_of_our_own_is_renewed_in_the_last_third_of_its_life_and_that_is_logged(own: Case) -> None:
    await own.service.start()
    first = own.service.in_force.trust.issuer_key_id
    await own.look(240 * DAY)
    assert own.service.in_force.trust.issuer_key_id == first
    own.said()
    await own.look(5 * DAY)
    second = own.service.in_force.trust.issuer_key_id
    assert second != first
    assert own.service.publication.trust.issuer_key_id == second, "every agent is told"
    ((level, said),) = own.said("renewed")
    assert (level, said.startswith(f"issuer {second[:16]} renewed, under 1 root(s), until ")) == (logging.INFO, True)
    await own.ledger.close()


async def test_an_issuer_that_could_not_be_renewed_is_renewed_later(own: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await own.service.start()
    first = own.service.in_force.trust.issuer_key_id

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    own.now += 250 * DAY
    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "write", full)
        for _ in range(100):
            await own.look(0.2)
    assert own.service.in_force.trust.issuer_key_id == first
    assert len(own.said("No space left on device")) == 1
    await own.look(60)
    assert own.service.in_force.trust.issuer_key_id != first
    await own.ledger.close()


async def test_an_issuer_that_expired_while_nobody_ran_is_renewed_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path, started=False)
    authority.store.prepare(TD)
    long_ago = time.time() - 400 * DAY
    authority.store.create(1, TD, long_ago)
    book = authority.book()
    book.set_rotation(rotation.first(long_ago))
    book.close()
    authority.start()
    assert authority.said, authority.stop()
    assert (await authority.client().issue(WEB)).spiffe_id == WEB
    assert "a new one is made" in authority.stop()


async def test_an_issuer_that_ends_with_its_root_is_not_renewed_again_and_again_during_a_rotation(own: Case) -> None:
    """The other root's longer life is no reason: the issuer is not under it."""
    await own.service.start()
    await own.look(3600 * DAY)
    issuer = own.service.in_force.trust.issuer_key_id
    root = own.service.in_force.roots[0].not_valid_after_utc
    assert own.service.in_force.issuer.certificate.not_valid_after_utc == root
    await own.look(40 * DAY)
    own.elsewhere(lambda book: control.start(book, own.store, own.now))
    for _ in range(5):
        await own.look(0.2)
    assert len(own.service.in_force.roots) == 2
    assert own.service.in_force.trust.issuer_key_id == issuer
    await own.ledger.close()


async def test_a_stage_whose_old_key_could_not_be_deleted_is_in_force_all_the_same(
    own: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await own.service.start()
    own.elsewhere(lambda book: control.start(book, own.store, own.now, auto=True))
    await own.look(0.2)
    assert len(own.service.in_force.roots) == 2

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "forget", full)
        await own.look(0.2)
        await own.look(0.2)
    assert list(own.service.in_force.roots) == [own.store.root_certificate(2)]
    assert own.service.publication.trust == own.service.in_force.trust
    assert len(own.said("No space left on device")) == 1
    await own.ledger.close()


# -- warned of --


async def test_an_issuer_is_warned_of_at_thirty_days_louder_at_seven_and_at_its_end(
    following: Case, given: Given
) -> None:
    case = following
    case.said()
    await case.look(269 * DAY)
    assert case.said("expire") == []
    await case.look(DAY)
    ((level, said),) = case.said("expire")
    assert level == logging.WARNING
    assert said == (
        f"issuer CN=first ({case.service.in_force.trust.issuer_key_id[:8]}) expires in 30.0 days, at "
        f"{control.moment(case.began + 300 * DAY)}: put a new issuer into {given.paths.certificate}, "
        "with its key and roots"
    )
    await case.look(60)
    assert case.said("expire") == [], "not at every look"
    await case.look(WARN_EVERY_SECONDS)
    assert [level for level, _ in case.said("expire")] == [logging.WARNING], "but every day"
    await case.look(22 * DAY - WARN_EVERY_SECONDS - 60)
    case.said()
    await case.look(DAY - 1)
    assert case.said("expires in 7.0 days") == []
    await case.look(2)
    assert [level for level, _ in case.said("expires in 7.0 days")] == [logging.ERROR], "though a day has not passed"
    await case.look(7 * DAY)
    assert [level for level, _ in case.said("has expired")] == [logging.CRITICAL]
    await case.ledger.close()


async def test_a_root_of_our_own_is_warned_of_in_log_and_status(own: Case) -> None:
    await own.service.start()
    own.said()
    for days, level in ((3619, None), (3621, logging.WARNING), (3644, logging.ERROR)):
        own.now = own.began + days * DAY
        own.service._warned.clear()
        await own.look()
        said = own.said("root CN=example.test root")
        assert [each for each, _ in said] == ([] if level is None else [level])
        assert all("rotate the root (quietwire authority rotate-root start)" in words for _, words in said)
        book = Book(own.store.ledger)
        warnings = [words for words in control.status(book, own.store, own.now).warnings if words.startswith("root")]
        book.close()
        assert len(warnings) == (level is not None)
    await own.ledger.close()


async def test_an_issuer_with_an_hour_to_live_is_warned_of_the_moment_it_is_taken(
    following: Case, given: Given
) -> None:
    case = following
    given.put("second", case.now, ends=20 * DAY)
    await case.look()
    assert [level for level, _ in case.said("expires in 20.0 days")] == [logging.WARNING]
    given.put("third", case.now, ends=3600)
    await case.look()
    ((level, said),) = case.said("CN=third")[-1:]
    assert level == logging.ERROR
    assert "expires in 1.0 hours" in said
    await case.ledger.close()


async def test_nothing_is_signed_beyond_an_issuer_that_nears_its_end(following: Case, given: Given) -> None:
    case = following
    given.put("third", case.now, ends=600)
    await case.look()
    found, request = case.service.in_force, new_request(WEB)
    chain = await case.ledger.do(control.sign, found, WEB, public_key(request), "node-a", case.now, 3600.0)
    leaf = x509.load_pem_x509_certificate(chain)
    assert leaf.not_valid_after_utc.timestamp() == case.began + 600
    await case.ledger.close()
