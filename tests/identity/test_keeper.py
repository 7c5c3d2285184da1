"""Renewal: when, how often after failures, and what the keeper does with what comes."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.keeper import FAULT_SECONDS, IDLE_SECONDS, MAX_AHEAD, MAX_REQUESTS, PENDING, IdentityKeeper
from agent.identity.provider import ProviderError, Report
from agent.identity.renewal import BACKOFF_CAP_SECONDS, SPREAD_SECONDS, backoff, is_loud, renew_at
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.tasks import spawn

WEB = SpiffeId.for_service_account("example.test", "demo", "web")
API = SpiffeId.for_service_account("example.test", "demo", "api")


def svid(spiffe_id: SpiffeId = WEB, begins: float = 0.0, ends: float = 100.0, serial: str = "1") -> Svid:
    return Svid(spiffe_id, b"chain", b"key", begins, ends, serial)


@given(st.floats(1, 1e9), st.floats(1, 1e6), st.floats(0, 1, exclude_max=True))
def test_an_svid_is_renewed_between_two_fifths_and_half_of_its_life(
    issued: float, lifetime: float, jitter: float
) -> None:
    when = renew_at(svid(ends=issued + lifetime), issued, jitter)
    assert issued + 0.39 * lifetime <= when <= issued + 0.51 * lifetime


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True), st.floats(1, 1e6))
def test_retries_back_off_to_a_cap_and_in_time_for_short_lives(attempt: int, jitter: float, lifetime: float) -> None:
    assert 0 < backoff(attempt, jitter) <= BACKOFF_CAP_SECONDS
    assert backoff(attempt, jitter, lifetime) <= max(lifetime / 10, 0.1)
    assert backoff(attempt + 1, 0.0) >= backoff(attempt, 0.0)


def test_the_end_of_a_life_is_loud() -> None:
    assert not is_loud(svid(), 0.0, 80.0)
    assert is_loud(svid(), 0.0, 91.0)


def test_keys_do_not_show_in_logs() -> None:
    assert "key" not in repr(svid()).replace("not_after", "")
    assert b"key".decode() not in str(svid()).split("(")[1]


class Provider:
    """Answers when told to; remembers who asked."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[SpiffeId, asyncio.Future[Svid]]] = asyncio.Queue()
        self.the_bundle = Bundle("example.test", b"anchors", 1)
        self.news = asyncio.Event()
        self.reports: list[Report] = []
        self.pushes = False

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        answer: asyncio.Future[Svid] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((spiffe_id, answer))
        return await answer

    async def bundle(self, known: int, report: Report) -> Bundle | None:
        self.reports.append(report)
        while known == self.the_bundle.sequence:
            self.news.clear()
            await self.news.wait()
        return self.the_bundle

    async def close(self) -> None:
        return


class Case:
    """A keeper with a clock that we turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.provider = Provider()
        self.svids: list[Svid] = []
        self.bundles: list[Bundle] = []
        self.keeper = IdentityKeeper(
            self.provider, on_svid=self.svids.append, on_bundle=self.bundles.append, clock=lambda: self.now
        )

    async def request(self) -> tuple[SpiffeId, asyncio.Future[Svid]]:
        async with asyncio.timeout(5):
            return await self.provider.asked.get()

    def wake(self) -> None:
        """Lets the keeper look at the clock again."""
        self.keeper._changed.set()

    def has_said(self, words: str) -> bool:
        return words in self.keeper.problems().get(WEB, "")

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():  # noqa: ASYNC110 - the keeper offers no event for a test to wait on
                await asyncio.sleep(0)


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    made = Case()
    task = spawn(made.keeper.run(), name="the one under test")
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_request_for_each_identity_however_often_it_is_wanted(case: Case) -> None:
    for _ in range(3):
        case.keeper.want(frozenset({WEB}))
    spiffe_id, answer = await case.request()
    assert spiffe_id == WEB
    answer.set_result(svid())
    await case.until(lambda: case.svids == [svid()])
    assert case.keeper.svid(WEB) == svid()
    assert case.provider.asked.empty()


async def test_the_bundle_is_told_once_per_change(case: Case) -> None:
    await case.until(lambda: len(case.bundles) == 1)
    assert case.keeper.bundle == case.bundles[0]


async def test_a_failure_is_kept_as_the_reason_and_tried_again(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    _, answer = await case.request()
    answer.set_exception(ProviderError("no_such_workload", "no pod of it here"))
    await case.until(lambda: "no pod of it here" in case.keeper.problems().get(WEB, ""))
    case.now += 1
    case.wake()
    _, answer = await case.request()
    answer.set_result(svid(ends=1000))
    await case.until(lambda: case.keeper.problems() == {})


async def test_a_valid_svid_is_kept_through_an_outage(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    (await case.request())[1].set_result(svid())
    await case.until(lambda: bool(case.svids))
    case.now = 60.0
    for attempt in range(5):
        case.wake()
        (await case.request())[1].set_exception(ProviderError("unreachable", f"gone {attempt}"))
        await case.until(partial(case.has_said, f"gone {attempt}"))
        assert case.keeper.svid(WEB) == svid()
        case.now += 30
    case.wake()
    newer = svid(ends=1000, serial="2")
    (await case.request())[1].set_result(newer)
    await case.until(lambda: case.keeper.svid(WEB) == newer)


async def test_new_identities_go_before_renewals_and_only_a_few_at_once(case: Case) -> None:
    many = frozenset(SpiffeId.for_service_account("example.test", "demo", f"sa{number}") for number in range(10))
    case.keeper.want(many)
    first = [await case.request() for _ in range(MAX_REQUESTS)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.provider.asked.empty()
    for spiffe_id, answer in first:
        answer.set_result(svid(spiffe_id))
    for _ in range(10 - MAX_REQUESTS):
        spiffe_id, answer = await case.request()
        answer.set_result(svid(spiffe_id))
    await case.until(lambda: len(case.svids) == 10)
    case.now = 70.0  # every one is due
    case.keeper.want(many | {API})
    asked = [await case.request() for _ in range(MAX_REQUESTS)]
    assert asked[0][0] == API
    for spiffe_id, answer in asked:
        answer.set_result(svid(spiffe_id, ends=1e6))


def some(prefix: str, number: int) -> frozenset[SpiffeId]:
    return frozenset(SpiffeId.for_service_account("example.test", "demo", f"{prefix}{each}") for each in range(number))


async def test_new_pods_go_before_renewals_and_those_before_what_is_fetched_ahead(case: Case) -> None:
    old, new, ahead = some("old", 6), some("new", 6), some("ahead", 3)
    case.keeper.want(old)
    for _ in old:
        spiffe_id, answer = await case.request()
        answer.set_result(svid(spiffe_id, ends=1000.0))
    await case.until(lambda: len(case.svids) == len(old))
    case.now = 600.0  # all of them are due
    case.keeper.want(old | new, ahead=ahead)
    asked: list[str] = []
    for _ in range(15):
        spiffe_id, answer = await case.request()
        assert case.provider.asked.qsize() < MAX_REQUESTS, "a few at a time"
        asked.append(spiffe_id.path.rpartition("/")[2].rstrip("0123456789"))
        answer.set_result(svid(spiffe_id, begins=600.0, ends=2000.0))
    assert asked == ["new"] * 6 + ["old"] * 6 + ["ahead"] * 3
    await case.until(lambda: all(case.keeper.svid(each) is not None for each in ahead))


async def test_what_is_fetched_ahead_leaves_room_for_a_pod_that_comes(case: Case) -> None:
    case.keeper.want(frozenset(), ahead=some("ahead", 10))
    slow = [await case.request() for _ in range(MAX_AHEAD)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.provider.asked.empty()
    case.keeper.want(frozenset({WEB}), ahead=some("ahead", 10))
    assert (await case.request())[0] == WEB
    assert not any(answer.done() for _, answer in slow)


async def test_a_pod_that_comes_does_not_wait_for_what_failed_before_it_came(case: Case) -> None:
    case.keeper.want(frozenset(), ahead=frozenset({WEB}))
    for attempt in range(8):
        (await case.request())[1].set_exception(ProviderError("unreachable", f"gone {attempt}"))
        await case.until(partial(case.has_said, f"gone {attempt}"))
        case.now += 60
        case.wake()
    (await case.request())[1].set_exception(ProviderError("unreachable", "at last"))
    await case.until(partial(case.has_said, "at last"))
    case.wake()
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.provider.asked.empty(), "its next try is far off"
    case.keeper.want(frozenset({WEB}))
    assert (await case.request())[0] == WEB


async def test_what_was_fetched_ahead_is_there_when_its_pod_comes(case: Case) -> None:
    case.keeper.want(frozenset(), ahead=frozenset({WEB}))
    (await case.request())[1].set_result(svid())
    await case.until(lambda: case.svids == [svid()])
    case.keeper.want(frozenset({WEB}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.provider.asked.empty()
    assert case.keeper.svid(WEB) == svid()


async def test_an_identity_whose_svid_has_expired_goes_before_renewals(case: Case) -> None:
    """Its pods are refused: it is no better off than a new one."""
    case.keeper.want(some("old", 8) | {WEB})
    for _ in range(9):
        spiffe_id, answer = await case.request()
        answer.set_result(svid(spiffe_id, ends=50.0 if spiffe_id == WEB else 1000.0))
    await case.until(lambda: len(case.svids) == 9)
    case.now = 600.0
    case.wake()
    assert (await case.request())[0] == WEB


async def test_a_full_queue_is_not_looked_at_in_a_hurry(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    due = IdentityKeeper._due

    def counted(keeper: IdentityKeeper, now: float) -> Any:
        nonlocal looks
        looks += 1
        return due(keeper, now)

    case.keeper.want(frozenset({WEB}))
    (await case.request())[1].set_result(svid(ends=1e6))
    await case.until(lambda: bool(case.svids))
    monkeypatch.setattr(IdentityKeeper, "_due", counted)
    case.keeper.want(some("new", 10) | {WEB})
    for _ in range(MAX_REQUESTS):
        await case.request()
    await asyncio.sleep(IDLE_SECONDS / 10)  # nothing happens: six wait for room, one for its time
    assert looks < 5


# -- back again --

AGENTS, IDENTITIES = 100, 10


@pytest.mark.parametrize("lifetime", [86400.0, 600.0])
@pytest.mark.parametrize("outage", [300.0, 3600.0])
def test_after_an_outage_retries_come_spread_and_not_as_a_herd(lifetime: float, outage: float) -> None:
    """All fail at the same moment, which is the worst case; the authority comes back after `outage` seconds."""
    chance = random.Random(7)  # noqa: S311 - a simulation
    back = []
    for _ in range(AGENTS * IDENTITIES):
        now, attempt = 0.0, 0
        while now < outage:
            attempt += 1
            now += backoff(attempt, chance.random(), lifetime)
        back.append(now - outage)
    assert max(back) <= BACKOFF_CAP_SECONDS, "nobody waits longer than the cap"
    by_second = Counter(int(each) for each in back)
    fair = len(back) / BACKOFF_CAP_SECONDS
    assert max(by_second.values()) < 4 * fair, by_second


async def test_after_an_outage_a_node_asks_for_a_few_at_a_time_and_at_different_moments(case: Case) -> None:
    many = some("sa", 40)
    case.keeper.want(many)
    for _ in many:
        spiffe_id, answer = await case.request()
        answer.set_result(svid(spiffe_id, ends=100_000.0))
    await case.until(lambda: len(case.svids) == 40)
    case.now = 60_000.0
    under_way: list[tuple[SpiffeId, asyncio.Future[Svid]]] = []
    most, failures = 0, 0
    tries: list[float] = []
    for _ in range(600):  # seconds without an authority, then as many with one
        case.wake()
        for _ in range(5):
            await asyncio.sleep(0)
        while not case.provider.asked.empty():
            under_way.append(case.provider.asked.get_nowait())
        most = max(most, len(under_way))
        for _, answer in under_way:
            answer.set_exception(ProviderError("unreachable", "gone"))
            failures += 1
        under_way.clear()
        case.now += 1
    assert most == MAX_REQUESTS
    assert failures > 400, "it never gives up"
    came = len(case.svids)
    while len(case.svids) < came + 40:
        case.wake()
        for _ in range(5):
            await asyncio.sleep(0)
        while not case.provider.asked.empty():
            spiffe_id, answer = case.provider.asked.get_nowait()
            tries.append(case.now)
            answer.set_result(svid(spiffe_id, begins=60_000.0, ends=200_000.0))
        case.now += 1
    assert max(Counter(tries).values()) <= MAX_REQUESTS
    assert 20 < tries[-1] - tries[0] <= BACKOFF_CAP_SECONDS


async def test_what_is_no_longer_wanted_is_forgotten(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    _, answer = await case.request()
    case.keeper.want(frozenset())
    answer.set_result(svid())
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.svids == []
    assert case.keeper.svid(WEB) is None


def news(case: Case, bundle: Bundle) -> None:
    case.provider.the_bundle = bundle
    case.provider.news.set()


async def certified(case: Case, issuer: str = "old", serial: str = "1") -> None:
    """WEB has an SVID that lives long."""
    case.keeper.want(frozenset({WEB}))
    _, answer = await case.request()
    answer.set_result(Svid(WEB, b"chain", b"key", 0.0, 10_000.0, serial, issuer))
    await case.until(lambda: bool(case.svids))


async def test_a_new_issuer_has_every_svid_renewed_soon(case: Case) -> None:
    await certified(case)
    news(case, Bundle("example.test", b"anchors", 2, issuer_key_id="new"))
    await case.until(lambda: len(case.bundles) == 2)
    case.now += SPREAD_SECONDS
    case.wake()
    spiffe_id, answer = await case.request()
    assert spiffe_id == WEB
    assert PENDING not in case.keeper.state().issuers, "it was asked for under the bundle in force"
    answer.set_result(Svid(WEB, b"chain", b"key", 0.0, 20_000.0, "2", "new"))
    await case.until(lambda: case.keeper.state() == Report(2, frozenset({"new"})))


async def test_an_svid_that_was_asked_for_before_the_issuer_changed_is_pending_and_asked_for_again(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    _, slow = await case.request()
    await case.until(lambda: len(case.bundles) == 1)
    news(case, Bundle("example.test", b"anchors", 2, issuer_key_id="new"))
    await case.until(lambda: len(case.bundles) == 2)
    assert case.keeper.state() == Report(2, frozenset({PENDING}))
    slow.set_result(Svid(WEB, b"chain", b"key", 0.0, 10_000.0, "1", "old"))
    _, again = await case.request()
    again.set_result(Svid(WEB, b"chain", b"key", 0.0, 10_000.0, "2", "new"))
    await case.until(lambda: case.keeper.state() == Report(2, frozenset({"new"})))


async def test_a_certificate_that_is_revoked_is_replaced_at_once(case: Case) -> None:
    await certified(case)
    news(case, Bundle("example.test", b"anchors", 2, issuer_key_id="old", revoked_serials=frozenset({"1"})))
    _, answer = await case.request()
    answer.set_result(Svid(WEB, b"chain", b"key", 0.0, 10_000.0, "2", "old"))
    await case.until(lambda: case.svids[-1].serial == "2")


async def test_a_report_that_changes_is_carried_by_a_new_poll(case: Case) -> None:
    await case.until(lambda: len(case.bundles) == 1)
    report = Report(1, frozenset({"old"}))
    case.keeper.report(report)
    await case.until(lambda: case.provider.reports[-1] == report)
    polls = len(case.provider.reports)
    case.keeper.report(report)
    await asyncio.sleep(0)
    assert len(case.provider.reports) == polls, "nothing new to say"


async def test_a_source_that_pushes_is_asked_again_at_every_change_and_the_same_svid_is_no_news(case: Case) -> None:
    case.provider.pushes = True
    await certified(case)
    news(case, Bundle("example.test", b"anchors", 2))
    _, answer = await case.request()
    answer.set_result(Svid(WEB, b"chain", b"key", 0.0, 10_000.0, "1", "old"))
    news(case, Bundle("example.test", b"anchors", 3))
    await case.until(lambda: len(case.bundles) == 3)
    _, answer = await case.request()
    answer.set_result(Svid(WEB, b"chain", b"key", 0.0, 20_000.0, "2", "old"))
    await case.until(lambda: len(case.svids) == 2)


async def test_the_death_of_what_follows_the_bundle_ends_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it must not go on without hearing of revocations."""
    case = Case()

    async def faulty(known: int, report: Report) -> Bundle | None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(case.provider, "bundle", faulty)
    async with asyncio.timeout(5):
        await case.keeper.run()


async def test_a_request_that_ends_by_a_fault_is_not_asked_again_at_once(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    (await case.request())[1].set_exception(ZeroDivisionError("a fault of ours"))
    await case.until(lambda: not case.keeper._asking)
    case.wake()
    await asyncio.sleep(0)
    assert case.provider.asked.empty()
    case.now += FAULT_SECONDS
    case.wake()
    (await case.request())[1].set_result(svid(ends=1000))
    await case.until(lambda: bool(case.svids))
