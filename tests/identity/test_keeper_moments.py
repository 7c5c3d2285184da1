"""What the keeper holds on to while something fails, when it asks again, and what it then says; its clock is ours."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from agent.identity import keeper as module
from agent.identity.keeper import BUNDLE_LIFETIME, FAULT_SECONDS, LOUD_SECONDS, PENDING
from agent.identity.provider import ProviderError, Report
from agent.identity.renewal import PUSHED_SECONDS, SPREAD_SECONDS
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.tasks import spawn
from tests.identity.test_keeper import API, WEB, Case, svid

GONE = ProviderError("unreachable", "gone")


class Chance:
    """No luck in it."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


@pytest.fixture
async def case(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    monkeypatch.setattr("random.SystemRandom", lambda: Chance(0.5))
    made = Case()
    made.now = 1000.0
    task = spawn(made.keeper.run(), name="the one under test")
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def due(case: Case, spiffe_id: SpiffeId = WEB) -> float:
    """In how many seconds it is asked for next."""
    return case.keeper._kept[spiffe_id].due - case.now


async def gets(case: Case, answer: Svid | ProviderError, spiffe_id: SpiffeId = WEB) -> None:
    """The next request is answered so."""
    asked, future = await case.request()
    assert asked == spiffe_id
    kept = case.keeper._kept[spiffe_id]
    if isinstance(answer, Svid):
        future.set_result(answer)
    else:
        future.set_exception(answer)
    await case.until(lambda: kept not in case.keeper._asking)


async def quiet(case: Case) -> None:
    """Nothing is asked, though the keeper looks."""
    case.wake()
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.provider.asked.empty()


def lives(
    seconds: float, *, serial: str = "1", issuer: str = "", spiffe_id: SpiffeId = WEB, since: float = 1000.0
) -> Svid:
    return Svid(spiffe_id, b"chain", b"key", since - 60, since + seconds, serial, issuer)


# when it asks again


async def test_an_svid_is_asked_for_again_in_the_middle_of_its_life_counted_from_when_it_came(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    await gets(case, lives(100))
    assert due(case) == pytest.approx(45.0)
    case.now += 44.9
    await quiet(case)
    case.now += 0.1
    case.wake()
    await gets(case, lives(200, serial="2"))
    assert [each.serial for each in case.svids] == ["1", "2"]
    assert case.keeper.svid(WEB) == case.svids[-1]


async def test_a_failure_is_tried_again_after_pauses_that_grow_within_a_tenth_of_the_life(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    for pause in (0.075, 0.15, 0.3, 0.6):
        await gets(case, GONE)
        assert due(case) == pytest.approx(pause)
        await quiet(case)
        case.now += pause
        case.wake()
    await gets(case, lives(10, since=case.now))
    assert due(case) == pytest.approx(4.5)
    case.now += 4.5
    for pause in (0.075, 0.15, 0.3, 0.6, 0.75, 0.75):
        case.wake()
        await gets(case, GONE)
        assert due(case) == pytest.approx(pause), "a tenth of ten seconds, spread by half"
        case.now += pause


async def test_a_request_under_way_is_not_made_twice_and_one_that_dies_is_made_again_later(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    _, future = await case.request()
    assert due(case) == FAULT_SECONDS
    case.now += 2 * FAULT_SECONDS
    await quiet(case)
    future.set_exception(GONE)
    await case.until(lambda: not case.keeper._asking)


async def test_of_renewals_the_one_that_ends_first_is_asked_for_first(case: Case) -> None:
    names = {SpiffeId.for_service_account("example.test", "demo", f"sa{number}"): number for number in range(6)}
    case.keeper.want(frozenset(names))
    for _ in names:
        spiffe_id, future = await case.request()
        future.set_result(lives(1000 + names[spiffe_id], spiffe_id=spiffe_id))
    await case.until(lambda: len(case.svids) == len(names))
    case.now += 900
    case.wake()
    asked = []
    for _ in names:
        spiffe_id, future = await case.request()
        asked.append(names[spiffe_id])
        future.set_result(lives(9000, spiffe_id=spiffe_id))
    assert asked == sorted(asked)


async def test_one_that_has_expired_and_nobody_waits_for_is_a_renewal_like_others(case: Case) -> None:
    case.keeper.want(frozenset(), ahead=frozenset({WEB}))
    await gets(case, lives(10))
    kept = case.keeper._kept[WEB]
    turn = case.keeper._turn
    assert turn(kept, case.now + 10) == turn(kept, case.now) == module._Turn.RENEWAL
    case.keeper.want(frozenset({WEB}))
    assert turn(kept, case.now + 9.9) == module._Turn.RENEWAL
    assert turn(kept, case.now + 10) == module._Turn.NEW, "its pods are refused"


async def test_whoever_begins_to_wait_has_its_pause_ended_once(case: Case) -> None:
    case.keeper.want(frozenset({WEB}))
    await gets(case, GONE)
    case.keeper.want(frozenset({WEB}))
    await quiet(case)
    case.keeper.want(frozenset(), ahead=frozenset({WEB}))
    await quiet(case)
    case.keeper.want(frozenset({WEB}))
    await gets(case, GONE)
    assert due(case) == pytest.approx(0.075), "its attempts are counted anew"


async def test_whoever_has_one_waits_for_its_renewal_though_it_was_fetched_ahead(case: Case) -> None:
    case.keeper.want(frozenset(), ahead=frozenset({WEB}))
    await gets(case, lives(100))
    case.keeper.want(frozenset({WEB}))
    assert due(case) == pytest.approx(45.0)


# what stays in force, and what is said


async def test_what_fails_first_is_no_fault_and_what_replaces_nothing_is_one(case: Case) -> None:
    case.keeper.want(frozenset({WEB, API}))
    for _ in range(2):
        spiffe_id, future = await case.request()
        future.set_exception(GONE) if spiffe_id == API else future.set_result(lives(100))
    await case.until(lambda: not case.keeper._asking)
    assert case.keeper.problems() == {API: f"no SVID for {API} yet: gone (unreachable)"}
    assert case.keeper.faults() == ()
    assert case.keeper.svid(API) is None
    case.now += 45
    case.keeper._kept[API].due = case.now + 1000
    case.wake()
    await gets(case, GONE)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1100))
    words = f"no newer SVID for {WEB}: gone (unreachable). The one in force, serial 1, stays until {until}"
    assert case.keeper.problems()[WEB] == words
    assert case.keeper.faults() == (words,)
    assert case.keeper.svid(WEB) == lives(100)
    case.now = 1100.0
    case.wake()
    await gets(case, GONE)
    assert case.keeper.problems()[WEB].endswith(f"serial 1, expired at {until}: its pods are refused")


async def test_a_failure_is_said_at_once_and_then_ever_more_rarely(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.keeper.want(frozenset({WEB}))
    for _ in range(9):
        await gets(case, GONE)
        case.now += 60
        case.wake()
    said = [vars(each)["fields"] for each in caplog.records if each.levelno == logging.WARNING]
    assert said == [{"event": "svid_refused", "spiffe_id": str(WEB), "attempts": attempts} for attempts in (1, 2, 4, 8)]


async def test_what_comes_is_told_with_its_end_and_its_serial(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case.keeper.want(frozenset({WEB}))
    await gets(case, lives(9000, serial="f00"))
    (said,) = [each for each in caplog.records if "SVID" in each.getMessage()]
    assert said.getMessage() == f"SVID {WEB} until 1970-01-01T02:46:40Z"
    assert vars(said)["fields"] == {"event": "svid", "spiffe_id": str(WEB), "serial": "f00"}


async def test_the_end_of_an_svid_that_cannot_be_renewed_is_an_error_once_a_minute(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.keeper.want(frozenset({WEB}))
    await gets(case, lives(10_000))
    errors: list[float] = []
    case.now += 8_990
    for _ in range(20):
        case.wake()
        await gets(case, GONE)
        said = [each for each in caplog.records if each.levelno == logging.ERROR]
        errors += [case.now] * len(said)
        assert all(each.getMessage().startswith(f"{WEB} could not be renewed and has ") for each in said)
        assert all(each.getMessage().endswith(f"connections are refused. {GONE}") for each in said)
        if errors:
            assert [each for each in caplog.records if each.levelno == logging.WARNING] == [], "it was said louder"
        caplog.clear()
        case.now += max(due(case), LOUD_SECONDS / 4)
    assert errors[0] > 10_000, "the last tenth of its life"
    assert all(later - earlier >= LOUD_SECONDS for earlier, later in itertools.pairwise(errors))
    assert len(errors) > 3


# the bundle


async def test_before_there_is_anything_the_report_says_so(case: Case) -> None:
    unstarted = Case()
    assert unstarted.keeper.state() == Report(0, frozenset())
    assert unstarted.keeper.bundle is None
    assert unstarted.keeper.svid(WEB) is None
    assert unstarted.keeper.faults() == ()
    assert unstarted.keeper.problems() == {}
    unstarted.keeper.want(frozenset({WEB}))
    assert unstarted.keeper.state() == Report(0, frozenset()), "nothing is asked for under a bundle yet"


async def news(case: Case, bundle: Bundle) -> None:
    before = len(case.bundles)
    case.provider.the_bundle = bundle
    case.provider.news.set()
    await case.until(lambda: len(case.bundles) > before)


def bundle(sequence: int, issuer: str = "", *serials: str, ids: frozenset[str] = frozenset()) -> Bundle:
    return Bundle(
        "example.test", b"anchors", sequence, issuer_key_id=issuer, revoked_serials=frozenset(serials), revoked_ids=ids
    )


async def certified(case: Case, issuer: str = "one", seconds: float = 10_000) -> None:
    await case.until(lambda: bool(case.bundles))
    case.keeper.want(frozenset({WEB}))
    await gets(case, lives(seconds, issuer=issuer))


async def test_svids_of_another_issuer_are_renewed_spread_over_some_seconds(case: Case) -> None:
    await certified(case)
    await news(case, bundle(2, "one"))
    assert due(case) == pytest.approx(4500), "it is under that one"
    await news(case, bundle(3, "two"))
    assert due(case) == pytest.approx(SPREAD_SECONDS / 2)
    case.now += SPREAD_SECONDS / 4
    await news(case, bundle(4, "two"))
    assert due(case) == pytest.approx(SPREAD_SECONDS / 4), "a moment that is set is not put off"


async def test_one_that_has_not_come_yet_keeps_none_of_another_issuer_from_being_renewed(case: Case) -> None:
    await case.until(lambda: bool(case.bundles))
    case.keeper.want(frozenset({WEB}))
    case.keeper.want(frozenset({WEB, API}))
    asked = dict([await case.request(), await case.request()])
    asked[API].set_result(lives(10_000, issuer="one", spiffe_id=API))
    await case.until(lambda: len(case.svids) == 1)
    await news(case, bundle(2, "two"))
    assert due(case, API) == pytest.approx(SPREAD_SECONDS / 2)


async def test_a_bundle_is_told_with_what_is_in_it(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    roots = b"-----BEGIN CERTIFICATE-----\n" * 2
    await case.until(lambda: bool(case.bundles))
    told = Bundle("example.test", roots, 7, revoked_ids=frozenset("ab"), revoked_serials=frozenset("c"))
    await news(case, msgspec.structs.replace(told, left_out=("one is no root",)))
    said = [each.getMessage() for each in caplog.records][-2:]
    assert said == ["bundle of example.test, sequence 7, 2 anchors, 3 revoked", "bundle: one is no root"]


async def test_one_that_has_little_to_live_is_renewed_within_a_tenth_of_that(case: Case) -> None:
    await certified(case, seconds=20)
    await news(case, bundle(2, "two"))
    assert due(case) == pytest.approx(1.0)


async def test_one_whose_serial_is_revoked_is_replaced_at_once_and_others_are_not(case: Case) -> None:
    await certified(case)
    await news(case, bundle(2, "one", "2", "3"))
    assert due(case) == pytest.approx(4500)
    await news(case, bundle(3, "one", "1"))
    await gets(case, lives(10_000, serial="4", issuer="one"))
    assert case.svids[-1].serial == "4"


async def test_one_that_comes_from_a_former_issuer_is_asked_for_again_at_once(case: Case) -> None:
    await case.until(lambda: bool(case.bundles))
    await news(case, bundle(2, "two"))
    await certified(case, issuer="one")
    assert case.keeper.svid(WEB) is not None, "it is good meanwhile"
    await gets(case, lives(10_000, serial="2", issuer="two"))
    assert due(case) == pytest.approx(4500)


async def test_what_was_asked_for_under_the_bundle_in_force_is_not_pending(case: Case) -> None:
    await case.until(lambda: bool(case.bundles))
    case.keeper.want(frozenset({WEB}))
    _, future = await case.request()
    assert case.keeper.state() == Report(1, frozenset())
    await news(case, bundle(2, "two"))
    assert case.keeper.state() == Report(2, frozenset({PENDING}))
    case.keeper.want(frozenset())
    assert case.keeper.state() == Report(2, frozenset()), "nobody wants it any more"
    future.set_result(lives(100))


async def test_a_bundle_that_cannot_be_had_is_a_fault_that_names_the_one_in_force(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await certified(case)
    fail = True
    original = case.provider.bundle

    async def polled(known: int, report: Report) -> Bundle | None:
        if fail:
            raise GONE
        return await original(known, report)

    monkeypatch.setattr(case.provider, "bundle", polled)
    case.keeper.report(Report(7))  # the poll that is under way carries the former one
    await case.until(lambda: bool(case.keeper.faults()))
    assert case.keeper.faults() == ("no newer bundle: gone (unreachable). The one of sequence 1 stays in force",)
    assert case.keeper.bundle == case.bundles[0]
    assert due(case) == pytest.approx(4500), "the authority's SVIDs have nothing to do with it"
    fail = False
    await news(case, bundle(2))
    assert case.keeper.faults() == ()


async def test_without_any_bundle_that_is_the_first_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Case()

    async def polled(known: int, report: Report) -> Bundle | None:
        raise GONE

    monkeypatch.setattr(made.provider, "bundle", polled)
    task = spawn(made.keeper.run(), name="the one under test")
    await made.until(lambda: bool(made.keeper.faults()))
    assert made.keeper.faults() == ("no bundle yet: gone (unreachable)",)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_bundle_is_asked_for_again_after_pauses_that_grow_and_said_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is worth less than the pause of an SVID that lives long: who is revoked is known by it alone."""
    made = Case()
    fails = 9
    pauses: list[tuple[int, float]] = []
    known: list[int] = []

    def pause(attempts: int, _: float, lifetime: float) -> float:
        pauses.append((attempts, lifetime))
        return 0.0

    async def polled(sequence: int, report: Report) -> Bundle | None:
        nonlocal fails
        known.append(sequence)
        fails -= 1
        if fails > 0 or fails == -1:
            raise GONE
        if fails < -1:
            await asyncio.Event().wait()
        return bundle(5)

    monkeypatch.setattr(module, "backoff", pause)
    monkeypatch.setattr(made.provider, "bundle", polled)
    task = spawn(made.keeper.run(), name="the one under test")
    await made.until(lambda: fails == -2)
    task.cancel()
    assert pauses == [(attempt, BUNDLE_LIFETIME) for attempt in (1, 2, 3, 4, 5, 6, 7, 8, 1)]
    said = [each.getMessage() for each in caplog.records]
    assert said == [
        f"the bundle could not be fetched ({attempts} attempts): gone (unreachable)" for attempts in (1, 2, 4, 8, 1)
    ]
    assert known == [0] * 9 + [5, 5], "the source waits for another one than that"


async def test_a_poll_that_carries_a_former_report_is_given_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[int] = []

    async def polled(known: int, report: Report) -> Bundle | None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.append(report.trusts)
            raise
        raise AssertionError

    await case.until(lambda: bool(case.bundles))
    monkeypatch.setattr(case.provider, "bundle", polled)
    for trusts in (7, 8):
        case.keeper.report(Report(trusts))
        for _ in range(20):
            await asyncio.sleep(0)
    assert 7 in given_up


async def test_an_svid_is_renewed_when_its_time_has_come_though_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that goes by itself."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 60.0)
    made = Case()
    made.keeper._clock = time.time
    task = spawn(made.keeper.run(), name="the one under test")
    made.keeper.want(frozenset({WEB}))
    for number in (1, 2, 3):
        _, future = await made.request()
        future.set_result(lives(0.2, serial=str(number), since=time.time()))
    task.cancel()
    assert [each.serial for each in made.svids] == ["1", "2"]


async def test_an_answer_without_news_is_none(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await case.until(lambda: bool(case.bundles))
    answers = [None, case.bundles[0], bundle(2), None]
    polls = 0

    async def polled(known: int, report: Report) -> Bundle | None:
        nonlocal polls
        polls += 1
        if not answers:
            await asyncio.Event().wait()
        return answers.pop(0)

    monkeypatch.setattr(case.provider, "bundle", polled)
    case.keeper.report(Report(7))
    await case.until(lambda: polls == 5)
    assert case.bundles == [Bundle("example.test", b"anchors", 1), bundle(2)]


# a source that changes at its own time


async def test_a_source_that_pushes_is_looked_at_now_and_then_and_at_each_change(case: Case) -> None:
    case.provider.pushes = True
    await certified(case)
    assert due(case) == PUSHED_SECONDS
    await news(case, bundle(2))
    await gets(case, lives(10_000, issuer="one"))
    assert len(case.svids) == 1, "the same one is no news"
    assert due(case) == PUSHED_SECONDS
    await news(case, bundle(3, "two"))
    await gets(case, lives(20_000, serial="2", issuer="one"))
    assert due(case) == PUSHED_SECONDS, "whose issuer it is under is its source's business"
    assert [each.serial for each in case.svids] == ["1", "2"]


async def test_a_bundle_of_a_source_that_pushes_keeps_no_svid_from_being_looked_at(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.provider.pushes = True
    await certified(case)

    async def polled(known: int, report: Report) -> Bundle | None:
        raise GONE

    monkeypatch.setattr(case.provider, "bundle", polled)
    case.keeper.report(Report(7))
    await gets(case, lives(20_000, serial="2"))
    assert case.svids[-1].serial == "2"


async def test_a_source_that_has_no_newer_one_is_warned_of_near_the_end(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.provider.pushes = True
    await certified(case, seconds=1000)
    case.now += 901
    case.wake()
    await gets(case, lives(1000, issuer="one"))
    (error,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert error.getMessage() == (
        f"{WEB} could not be renewed and has 99 s to live; then its pods' connections are refused. "
        "its source has no newer one"
    )


async def test_one_that_comes_when_nobody_wants_it_any_more_is_told_to_nobody(case: Case) -> None:
    case.keeper.want(frozenset({WEB, API}))
    answers = dict([await case.request(), await case.request()])
    case.keeper.want(frozenset({API}))
    for spiffe_id, future in answers.items():
        future.set_result(svid(spiffe_id, ends=9000.0))
    await case.until(lambda: not case.keeper._asking)
    assert [each.spiffe_id for each in case.svids] == [API]
