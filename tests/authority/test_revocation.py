"""Revocation: what is told, how soon, and what is never issued again."""

import asyncio
import time
from collections.abc import Callable

import pytest

from agent.authority import control
from agent.authority.ledger import Book, Kind
from agent.identity.authority_client import AuthorityClient
from agent.identity.provider import Report
from agent.identity.svid import Bundle
from agent.tasks import spawn
from tests.authority.running import ELSEWHERE, WEB, Authority, newer, refused


def do(authority: Authority, work: Callable[[Book], object]) -> None:
    book = authority.book()
    try:
        work(book)
    finally:
        book.close()


def revoke(authority: Authority, kind: Kind, value: str) -> None:
    do(authority, lambda book: control.revoke(book, kind, value, "leaked", time.time()))


async def test_an_identity_that_is_revoked_is_told_and_never_issued_until_it_is_taken_back(
    authority: Authority,
) -> None:
    client = authority.client()
    await client.issue(WEB)
    first = await newer(client, 0)
    revoke(authority, Kind.SPIFFE_ID, str(WEB))
    told = await newer(client, first.sequence)
    assert told.revoked_ids == {str(WEB)}
    assert told.anchors_pem == first.anchors_pem
    error = await refused(client.issue(WEB), "revoked")
    assert "leaked" in error.message
    do(authority, lambda book: control.unrevoke(book, Kind.SPIFFE_ID, str(WEB), time.time()))
    assert (await newer(client, told.sequence)).revoked_ids == frozenset()
    assert (await client.issue(WEB)).spiffe_id == WEB


WITHIN_SECONDS = 2.0
"""What is promised."""


async def test_whatever_changes_reaches_every_agent_within_two_seconds(authority: Authority) -> None:
    """Agents that wait in a poll, and the moments of the ledger's own commit and of each agent's answer."""
    nodes = {"node-a": WEB, "node-b": ELSEWHERE}
    agents = [authority.client(node=node) for node in nodes]
    for client, workload in zip(agents, nodes.values(), strict=True):
        await client.issue(workload)
    known = [await newer(client, 0) for client in agents]

    def root(book: Book) -> None:
        control.start(book, authority.store, time.time())

    def revocation(book: Book) -> None:
        control.revoke(book, Kind.SPIFFE_ID, str(WEB), "leaked", time.time())

    def taken_back(book: Book) -> None:
        control.unrevoke(book, Kind.SPIFFE_ID, str(WEB), time.time())

    async def answer(client: AuthorityClient, sequence: int) -> tuple[float, Bundle]:
        bundle = await newer(client, sequence)
        return time.monotonic(), bundle

    for change in (revocation, taken_back, root, revocation):
        polls = [
            spawn(answer(client, bundle.sequence), name="poll") for client, bundle in zip(agents, known, strict=True)
        ]
        await asyncio.sleep(0.5)  # both are in their long poll
        assert not any(poll.done() for poll in polls)
        await asyncio.to_thread(do, authority, change)
        changed = time.monotonic()
        answers = [await poll for poll in polls]
        known = [bundle for _, bundle in answers]
        assert all(at - changed < WITHIN_SECONDS for at, _ in answers), [at - changed for at, _ in answers]
        assert len({bundle.sequence for bundle in known}) == 1
    assert known[0].revoked_ids == {str(WEB)}
    assert known[0].anchors_pem.count(b"BEGIN CERTIFICATE") == 2


async def test_an_agent_that_is_revoked_loses_all_it_was_given_and_may_ask_nothing(authority: Authority) -> None:
    stolen, other = authority.client(node="node-a"), authority.client(node="node-b")
    mine, theirs = await stolen.issue(WEB), await other.issue(ELSEWHERE)
    known = await newer(other, 0)
    revoke(authority, Kind.AGENT, "node-a")
    told = await newer(other, known.sequence)
    assert stolen.agent is not None
    assert told.revoked_serials == {mine.serial, stolen.agent.serial}
    assert theirs.serial not in told.revoked_serials
    await refused(stolen.issue(WEB), "revoked")
    await refused(authority.client(node="node-a").issue(WEB), "revoked")
    assert (await other.issue(ELSEWHERE)).serial


async def test_one_certificate_that_is_revoked_leaves_the_identity_alone(authority: Authority) -> None:
    client = authority.client()
    svid = await client.issue(WEB)
    known = await newer(client, 0)
    revoke(authority, Kind.SERIAL, svid.serial)
    assert (await newer(client, known.sequence)).revoked_serials == {svid.serial}
    assert (await client.issue(WEB)).serial != svid.serial


async def test_serials_leave_the_bundle_when_their_certificates_have_expired(authority: Authority) -> None:
    client = authority.client()
    svid = await client.issue(WEB)
    revoke(authority, Kind.SERIAL, svid.serial)
    book = authority.book()
    assert book.publish(None, svid.not_after - 1).revoked_serials == (svid.serial,)
    assert book.publish(None, svid.not_after + 1).revoked_serials == ()
    book.close()


async def test_a_poll_waits_for_news_and_says_when_there_is_none(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.identity.authority_client.POLL_SECONDS", 1)
    client = authority.client()
    bundle = await newer(client, 0)
    assert await client.bundle(bundle.sequence, Report(bundle.sequence)) is None
    assert isinstance(await client.bundle(bundle.sequence + 5, Report(bundle.sequence)), Bundle)


async def test_a_revocation_that_is_made_while_the_authority_is_down_is_in_force_when_it_is_back(
    authority: Authority,
) -> None:
    client = authority.client()
    await client.issue(WEB)
    authority.stop()
    revoke(authority, Kind.SPIFFE_ID, str(WEB))
    authority.start()
    assert (await newer(client, 0)).revoked_ids == {str(WEB)}
    await refused(client.issue(WEB), "revoked")
