"""The root's rotation: the stages as a state machine, and a real authority that walks through them."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.authority import control, rotation
from agent.authority.ledger import Book, Kind
from agent.authority.rotation import Rotation, RotationError, Stage
from agent.identity.authority_client import AuthorityClient
from agent.identity.provider import ProviderError, Report
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.tasks import spawn
from tests.authority.running import ELSEWHERE, TD, WEB, Authority, newer


class Stages(RuleBasedStateMachine):
    """Whatever verbs are called in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.state = rotation.first(1.0)
        self.now = 1.0
        self.signed_by = {1}
        """Issuers under which something may still live."""

    def _moved(self, state: Rotation) -> None:
        self.state = state
        self.now += 1

    @rule()
    def start(self) -> None:
        if self.state.stage is Stage.NONE:
            self._moved(rotation.start(self.state, self.now, auto=False))
        else:
            with pytest.raises(RotationError, match="already"):
                rotation.start(self.state, self.now, auto=False)

    @precondition(lambda self: self.state.stage is not Stage.NONE)
    @rule()
    def advance(self) -> None:
        if self.state.stage is Stage.SWITCH:
            self.signed_by = {self.state.issuer}  # what holds it back has been waited for
        self._moved(rotation.advance(self.state, self.now))
        self.signed_by.add(self.state.issuer)

    @precondition(lambda self: self.state.stage is not Stage.NONE)
    @rule()
    def abort(self) -> None:
        self._moved(rotation.abort(self.state, self.now))
        self.signed_by.add(self.state.issuer)

    @precondition(lambda self: self.state.stage is Stage.NONE)
    @rule()
    def nothing_to_advance(self) -> None:
        for verb in (rotation.advance, rotation.abort):
            with pytest.raises(RotationError, match="no rotation is under way"):
                verb(self.state, self.now)

    @invariant()
    def whatever_lives_is_trusted(self) -> None:
        assert self.signed_by <= set(self.state.anchors)
        assert self.state.issuer in self.state.anchors
        assert len(self.state.anchors) == (1 if self.state.stage is Stage.NONE else 2)
        assert max(self.state.anchors) <= self.state.latest


TestStages = Stages.TestCase
TestStages.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


class Node:
    """An agent as far as the authority sees it: it joins, gets an SVID, follows the bundle, and confirms."""

    def __init__(self, authority: Authority, node: str, workload: SpiffeId) -> None:
        self.client: AuthorityClient = authority.client(node=node)
        self.workload = workload
        self.svid: Svid | None = None
        self.bundle: Bundle | None = None

    async def follow(self) -> Bundle:
        """Takes the newest bundle and, where the issuer has changed, a new SVID; confirms nothing."""
        self.bundle = await newer(self.client, 0)
        if self.svid is None or self.svid.issuer_key_id != self.bundle.issuer_key_id:
            self.svid = await self.client.issue(self.workload)
        return self.bundle

    async def confirm(self) -> None:
        """Says what it has."""
        assert self.bundle is not None
        assert self.svid is not None
        report = Report(self.bundle.sequence, frozenset({self.svid.issuer_key_id}))
        poll = spawn(self.client.bundle(self.bundle.sequence, report), name="poll")
        await asyncio.sleep(0.3)  # a poll answers only when there is news: the report has gone out by now
        poll.cancel()


def roots(bundle: Bundle) -> set[bytes]:
    return {
        each.subject.public_bytes() + each.serial_number.to_bytes(20, "big")
        for each in x509.load_pem_x509_certificates(bundle.anchors_pem)
    }


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.05)


def blockers(authority: Authority) -> list[str]:
    book = authority.book()
    try:
        return control.blockers(book, time.time())
    finally:
        book.close()


def do(authority: Authority, work: Callable[[Book], object]) -> None:
    book = authority.book()
    try:
        work(book)
    finally:
        book.close()


async def test_a_rotation_goes_on_only_when_every_agent_has_confirmed(authority: Authority) -> None:
    one, two = Node(authority, "node-a", WEB), Node(authority, "node-b", ELSEWHERE)
    first = await one.follow()
    await two.follow()
    assert len(roots(first)) == 1

    do(authority, lambda book: control.start(book, authority.store, time.time()))
    both = await newer(one.client, first.sequence)
    assert roots(both) > roots(first)
    assert both.issuer_key_id == first.issuer_key_id, "nothing is signed under the new root yet"
    await one.follow()
    await one.confirm()
    held = blockers(authority)
    assert len(held) == 1
    assert "node node-b has not confirmed bundle" in held[0]
    with pytest.raises(RotationError, match="not yet: the agent of node node-b"):
        do(authority, lambda book: control.advance(book, authority.store, time.time()))

    await two.follow()
    await two.confirm()
    assert blockers(authority) == []
    do(authority, lambda book: control.advance(book, authority.store, time.time()))
    switched = await newer(one.client, both.sequence)
    assert roots(switched) == roots(both)
    assert switched.issuer_key_id != first.issuer_key_id

    assert len(blockers(authority)) == 2, "their SVIDs are still under the former issuer"
    for node in (one, two):
        await node.follow()
        await node.confirm()
    assert blockers(authority) == []
    do(authority, lambda book: control.advance(book, authority.store, time.time()))
    last = await newer(one.client, switched.sequence)
    assert roots(last) == roots(both) - roots(first)
    assert b"PRIVATE KEY" not in (authority.state / "root-1.pem").read_bytes(), "the former root signs nothing more"


async def test_a_rotation_survives_kill_9_at_every_stage(authority: Authority) -> None:
    node = Node(authority, "node-a", WEB)
    await node.follow()
    sequences = []

    def start(book: Book) -> None:
        control.start(book, authority.store, time.time())

    def advance(book: Book) -> None:
        control.advance(book, authority.store, time.time(), force=True)

    for verb in (start, advance, advance):
        do(authority, verb)
        before = (await newer(node.client, 0)).sequence
        authority.stop(signal.SIGKILL)
        authority.start()
        after = await node.follow()
        assert after.sequence >= before
        sequences.append(len(roots(after)))
    assert sequences == [2, 2, 1]
    assert node.bundle is not None
    assert (await node.client.issue(WEB)).issuer_key_id == node.bundle.issuer_key_id


async def test_abort_before_the_switch_takes_the_new_root_out_and_after_it_goes_the_same_way_back(
    authority: Authority,
) -> None:
    node = Node(authority, "node-a", WEB)
    first = await node.follow()
    do(authority, lambda book: control.start(book, authority.store, time.time()))
    await newer(node.client, first.sequence)
    do(authority, lambda book: control.abort(book, authority.store, time.time()))
    await until(lambda: _has(node, lambda bundle: roots(bundle) == roots(first)))

    do(authority, lambda book: control.start(book, authority.store, time.time()))
    await until(lambda: _has(node, lambda bundle: len(roots(bundle)) == 2))
    do(authority, lambda book: control.advance(book, authority.store, time.time(), force=True))
    await until(lambda: _has(node, lambda bundle: bundle.issuer_key_id != first.issuer_key_id))
    await node.follow()
    do(authority, lambda book: control.abort(book, authority.store, time.time()))
    await until(
        lambda: _has(node, lambda bundle: bundle.issuer_key_id == first.issuer_key_id and len(roots(bundle)) == 2)
    )
    do(authority, lambda book: control.advance(book, authority.store, time.time(), force=True))
    await until(lambda: _has(node, lambda bundle: roots(bundle) == roots(first)))

    async def issues() -> bool:
        """Its own certificate is under the root that left: it hears of that by the next poll, and joins anew."""
        try:
            await newer(node.client, 0)
            return (await node.client.issue(WEB)).issuer_key_id == first.issuer_key_id
        except ProviderError as error:
            if error.code not in {"tls", "unreachable"}:
                raise
            return False

    await until(issues)


async def _has(node: Node, holds: Callable[[Bundle], bool]) -> bool:
    return holds(await newer(node.client, 0))


async def test_auto_walks_through_by_itself(authority: Authority) -> None:
    node = Node(authority, "node-a", WEB)
    first = await node.follow()
    await node.confirm()
    do(authority, lambda book: control.start(book, authority.store, time.time(), auto=True))

    async def done() -> bool:
        bundle = await node.follow()
        await node.confirm()
        return len(roots(bundle)) == 1 and not roots(bundle) & roots(first)

    await until(done)


async def test_agents_that_are_gone_or_revoked_hold_nothing_back_and_minted_svids_do(authority: Authority) -> None:
    node, gone = Node(authority, "node-a", WEB), Node(authority, "node-b", ELSEWHERE)
    await node.follow()
    await gone.follow()
    minted = SpiffeId.for_service_account(TD, "ops", "debug")
    do(authority, lambda book: control.mint(book, authority.store, minted, 600, time.time()))
    do(authority, lambda book: control.revoke(book, Kind.AGENT, "node-b", "sold", time.time()))
    do(authority, lambda book: control.start(book, authority.store, time.time()))
    await until(lambda: _has(node, lambda bundle: len(roots(bundle)) == 2))
    await node.follow()
    await node.confirm()
    assert blockers(authority) == []
    do(authority, lambda book: control.advance(book, authority.store, time.time()))
    await until(
        lambda: _has(node, lambda bundle: bundle.issuer_key_id != (node.svid.issuer_key_id if node.svid else ""))
    )
    await node.follow()
    await node.confirm()
    (held,) = blockers(authority)
    assert "minted spiffe://example.test/ns/ops/sa/debug" in held


async def test_after_the_switch_the_authority_itself_is_under_the_new_root(authority: Authority) -> None:
    node = Node(authority, "node-a", WEB)
    first = await node.follow()
    do(authority, lambda book: control.start(book, authority.store, time.time()))
    await until(lambda: _has(node, lambda bundle: len(roots(bundle)) == 2))
    do(authority, lambda book: control.advance(book, authority.store, time.time(), force=True))
    await until(lambda: _has(node, lambda bundle: bundle.issuer_key_id != first.issuer_key_id))
    both = await newer(node.client, 0)
    new_root = authority.store.root_certificate(2).public_bytes(Encoding.PEM)

    async def reached() -> bool:
        try:
            return (await authority.client(bundle=new_root).issue(WEB)).issuer_key_id == both.issuer_key_id
        except ProviderError as error:
            if error.code != "tls":
                raise
            return False

    await until(reached)
