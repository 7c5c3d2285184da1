"""What every store of an authority keeps: scenarios with two writers on one state, whatever is behind it.

Each is run on SQLite in a directory (test_sqlite_store) and on a real cluster (tests/kubernetes/test_authority_store).
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography.x509 import Certificate, load_pem_x509_certificates

from agent.authority import control, rotation
from agent.authority.ca import Signer
from agent.authority.ledger import AUTHORITY, Book, Issuance, Kind, Publication, Revoked
from agent.authority.rotation import RotationError, Stage
from agent.authority.service import AuthorityService
from agent.authority.store import Store
from agent.identity.csr import new_request
from agent.identity.spiffe import SpiffeId
from tests.authority.running import TD, WEB, Everywhere

Opened = Callable[[], Awaitable[Store]]
"""Opens another store on the same state, which hears what the others do."""
Scenario = Callable[[Opened], Awaitable[None]]

SCENARIOS: list[Scenario] = []
LATER = 1e10


def scenario(work: Scenario) -> Scenario:
    """Puts it among those that every store is tried with."""
    SCENARIOS.append(work)
    return work


def issuance(serial: str, node: str = "node-a", spiffe_id: SpiffeId = WEB, expires: float = LATER) -> Issuance:
    return Issuance(serial, str(spiffe_id), node, 1.0, expires, "aa")


async def begun(opened: Opened) -> Store:
    """A store in which an authority has been started."""
    store = await opened()
    await a_service(store).start()
    return store


def a_service(store: Store) -> AuthorityService:
    return AuthorityService(store, Everywhere(), trust_domain=TD, svid_seconds=600)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Looks, as a service does, for what another store has done."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - a service looks as often, and its stores tell nobody
            await asyncio.sleep(0.05)


async def issuer_of(store: Store, number: int) -> Signer:
    """Raises StoreError where root and issuer are no pair."""
    return await store.do(lambda _: store.keys.issuer(number))


async def root_of(store: Store) -> tuple[Certificate, bool]:
    """The first root, and whether its key is there."""
    pem = await store.do(lambda _: store.keys.read("root-1.pem"))
    return await store.do(lambda _: store.keys.root_certificate(1)), b"PRIVATE KEY" in pem


async def published(store: Store) -> Publication:
    found = await store.do(Book.publication)
    assert found is not None
    return found


async def tried(attempts: list[Awaitable[Any]]) -> list[Any]:
    """What comes of attempts at the same time: results, or errors."""
    return await asyncio.gather(*attempts, return_exceptions=True)


@scenario
async def a_token_is_used_once_whoever_tries(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    token = await store.do(Book.create_token, "node-a", LATER)
    await other.refresh()
    found = await tried([each.do(Book.use_token, token, "node-a", 1.0) for each in (store, other) for _ in range(6)])
    assert Counter(found) == {None: 1, "the join token has been used already": 11}
    for each in (store, other, await opened()):
        assert await each.do(Book.use_token, token, "node-a", 1.0) == "the join token has been used already"


@scenario
async def each_of_many_tokens_is_used_once(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    tokens = [await store.do(Book.create_token, f"node-{number}", LATER) for number in range(8)]
    await other.refresh()

    def use(each: Store, number: int) -> Awaitable[str | None]:
        return each.do(Book.use_token, tokens[number], f"node-{number}", 1.0)

    found = await tried([use(each, number) for number in range(8) for each in (store, other)])
    assert Counter(found)[None] == 8
    await other.refresh()
    assert {agent.node for agent in await other.do(Book.agents)} == {f"node-{number}" for number in range(8)}


@scenario
async def no_revocation_is_lost_of_those_that_two_write_at_once(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    serials = [f"{number:x}" for number in range(40)]
    attempts = [
        each.do(control.revoke, Kind.SERIAL, serial, "leaked", 1.0)
        for serial, each in zip(serials, [store, other] * 20, strict=True)
    ]
    assert await tried(list(attempts)) == [True] * 40
    late = await opened()
    assert {each.value for each in await late.do(Book.revocations)} == set(serials)
    assert set((await published(late)).revoked_serials) == set(serials)


@scenario
async def one_revocation_is_one_whoever_makes_it(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    attempts = [each.do(control.revoke, Kind.AGENT, "node-a", "sold", 1.0) for each in (store, other) for _ in range(3)]
    assert Counter(await tried(list(attempts))) == {True: 1, False: 5}


@scenario
async def nothing_is_issued_to_whom_another_has_revoked(opened: Opened) -> None:
    """From the very moment on at which revoking has returned: nobody has to have heard of it."""
    store, other = await begun(opened), await opened()
    await other.do(Book.record, issuance("1"))
    await store.do(control.revoke, Kind.SPIFFE_ID, str(WEB), "leaked", 1.0)
    with pytest.raises(Revoked, match="leaked"):
        await other.do(Book.record, issuance("2"))
    assert "2" not in {each.serial for each in await other.do(Book.issued)}
    await store.do(control.unrevoke, Kind.SPIFFE_ID, str(WEB), 1.0)
    await until(lambda: recorded(other, "3"))


async def recorded(store: Store, serial: str) -> bool:
    try:
        await store.do(Book.record, issuance(serial))
    except Revoked:
        return False
    return True


@scenario
async def an_agent_that_is_revoked_while_it_is_issued_to_keeps_nothing(opened: Opened) -> None:
    """Of each certificate: it was refused, or everybody is told that it is revoked."""
    store, other = await begun(opened), await opened()
    given: list[str] = []
    enough = asyncio.Event()

    async def issue() -> None:
        for number in itertools.count(1):  # until it is refused
            try:
                await other.do(Book.record, issuance(f"{number:x}"))
            except Revoked:
                return
            given.append(f"{number:x}")
            if len(given) == 20:
                enough.set()

    async def revoke() -> None:
        await enough.wait()
        await store.do(control.revoke, Kind.AGENT, "node-a", "sold", 1.0)

    await asyncio.gather(issue(), revoke())

    async def told() -> bool:
        for each in (store, other):  # as a running service does it when it hears of something
            await each.do(Book.publish, None, 1.0)
        return set((await published(store)).revoked_serials) >= set(given)

    await until(told)


@scenario
async def what_either_issues_is_on_the_record_of_both(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    serials = {f"{number:x}" for number in range(1, 600)}
    attempts = [
        each.do(Book.record, issuance(serial))
        for serial, each in zip(sorted(serials), [store, other] * 300, strict=False)
    ]
    assert set(await tried(list(attempts))) == {None}
    for each in (store, other, await opened()):
        await each.refresh()
        assert {found.serial for found in await each.do(Book.issued) if found.node != AUTHORITY} == serials


@scenario
async def a_work_that_fails_leaves_nothing(opened: Opened) -> None:
    store = await begun(opened)

    def fails(book: Book) -> None:
        with book.transaction():
            book.record(issuance("1"))
            book.revoke(Kind.AGENT, "node-a", "sold", 1.0)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await store.do(fails)
    for each in (store, await opened()):
        assert await each.do(Book.revocations) == []
        assert await each.do(Book.issued) == []


@scenario
async def one_that_fails_does_no_harm_to_others_at_the_same_time(opened: Opened) -> None:
    store = await begun(opened)

    def fails(book: Book) -> None:
        with book.transaction():
            book.record(issuance("bad"))
            raise RuntimeError("in the middle")

    attempts: list[Awaitable[Any]] = []
    for number in range(10):
        attempts += [store.do(Book.record, issuance(f"{number}")), store.do(fails)]
    assert [str(each) for each in await tried(attempts)] == ["None", "in the middle"] * 10
    found = {each.serial for each in await (await opened()).do(Book.issued)}
    assert found == {f"{number}" for number in range(10)}


@scenario
async def of_two_rotations_that_are_started_at_once_there_is_one(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    now = time.time()
    found = await tried([each.do(control.start, each.keys, now) for each in (store, other)])
    assert [type(each) for each in found if each is not None] == [RotationError]
    await other.refresh()
    for each in (store, other, await opened()):
        state = await each.do(Book.rotation)
        assert (state.stage, state.next_root) == (Stage.DISTRIBUTE, 2)
        issuer = await issuer_of(each, 2)
        assert issuer.key.public_key() == issuer.certificate.public_key()


@scenario
async def a_rotation_that_one_begins_another_ends(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    now = time.time()
    first, has_key = await root_of(store)
    assert has_key
    await store.do(control.start, store.keys, now)
    await other.refresh()
    await other.do(control.advance, other.keys, now)
    await store.refresh()
    await store.do(control.advance, store.keys, now)
    await other.refresh()
    for each in (store, other, await opened()):
        assert (await each.do(Book.rotation)).stage is Stage.NONE
        (root,) = load_pem_x509_certificates((await published(each)).trust.anchors_pem)
        assert root != first
        assert await root_of(each) == (first, False), "it stays for the record, and its key is gone"


@scenario
async def nothing_is_signed_under_an_issuer_that_another_has_put_out_of_force(opened: Opened) -> None:
    """Also by a replica that has not looked since."""
    store, other = await begun(opened), await opened()
    service = a_service(other)
    await service.start()
    former = service.in_force.trust.issuer_key_id
    now = time.time()
    await store.do(control.start, store.keys, now)
    await store.do(control.advance, store.keys, now, force=True)
    await service.sign_own(new_request(SpiffeId.parse(f"spiffe://{TD}/authority")).csr_pem.decode())
    (issued,) = await other.do(Book.issued)
    assert service.in_force.trust.issuer_key_id == former, "it has not looked"
    assert issued.issuer_key_id == (await published(store)).trust.issuer_key_id != former


@scenario
async def what_is_published_under_one_sequence_is_one_thing(opened: Opened) -> None:
    stores = [await begun(opened), await opened(), await opened()]
    seen: dict[int, set[Publication]] = {}

    async def publish(store: Store, number: int) -> None:
        for turn in range(6):
            await store.do(control.revoke, Kind.SERIAL, f"{number}{turn}", "leaked", 1.0)
            found = await published(store)
            seen.setdefault(found.sequence, set()).add(found)

    await asyncio.gather(*(publish(store, number) for number, store in enumerate(stores, 1)))
    assert all(len(each) == 1 for each in seen.values())
    last = await published(await opened())
    assert last.sequence >= 1 + 18
    assert len(last.revoked_serials) == 18


@scenario
async def what_another_does_is_news_and_what_oneself_does_is_none(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    mine, theirs = await store.changes(), await other.changes()
    await store.do(control.revoke, Kind.AGENT, "node-a", "sold", 1.0)

    async def heard() -> bool:
        return await other.changes() != theirs

    await until(heard)
    assert [each.value for each in await other.do(Book.revocations)] == ["node-a"]
    assert await store.changes() == mine


@scenario
async def an_agent_that_joins_at_one_is_known_to_all_and_so_is_what_it_confirms(opened: Opened) -> None:
    store, other = await begun(opened), await opened()
    token = await store.do(Book.create_token, "node-a", LATER)
    assert await store.do(Book.use_token, token, "node-a", 1.0) is None
    await other.refresh()
    assert await other.do(Book.knows_agent, "node-a")
    await other.do(Book.confirm, "node-a", 7, ("aa", "bb"), 2.0)

    async def confirmed() -> bool:
        (agent,) = await store.do(Book.agents)
        return (agent.joined, agent.trusts, agent.issuers) == (1.0, 7, ("aa", "bb"))

    await until(confirmed)
    again = await store.do(Book.create_token, "node-a", LATER)
    assert await store.do(Book.use_token, again, "node-a", 3.0) is None
    await other.refresh()
    (agent,) = await other.do(Book.agents)
    assert (agent.joined, agent.trusts) == (3.0, 0), "whoever joins anew trusts nothing yet"


@scenario
async def whoever_opens_it_later_finds_everything(opened: Opened) -> None:
    store = await begun(opened)
    token = await store.do(Book.create_token, "node-a", LATER)
    await store.do(Book.record, issuance("1"))
    await store.do(control.revoke, Kind.SERIAL, "1", "leaked", 1.0)
    await store.do(Book.set_rotation, rotation.start(await store.do(Book.rotation), 5.0, auto=True))
    late = await opened()
    assert await late.do(Book.token_problem, token, "node-a", 1.0) is None
    assert [each.serial for each in await late.do(Book.issued)] == ["1"]
    assert [each.value for each in await late.do(Book.revocations)] == ["1"]
    assert (await late.do(Book.rotation)).auto
    assert await published(late) == await published(store)
    assert late.keys.trust_domain() == TD
    assert (await issuer_of(late, 1)).certificate == (await issuer_of(store, 1)).certificate
