"""What is heard of rules that somebody changes, and how often one looks then."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture import rule_watch
from agent.capture.rule_watch import (
    DUE_AT_ONCE,
    FALSE_ALARMS,
    LONGEST_PAUSE_SECONDS,
    PAUSE_SECONDS,
    QUIET_SECONDS,
    REPAIRS,
    STILL_SECONDS,
    Ears,
    Pace,
    RuleWatch,
    concerns_kernel_routes,
    concerns_rules,
)
from agent.objects.key import PodKey
from agent.tasks import spawn


def message(kind: int, body: bytes) -> bytes:
    """One netlink message, padded."""
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return whole + bytes(-len(whole) % 4)


def route(table: int) -> bytes:
    """A struct rtmsg."""
    return bytes([socket.AF_INET, 0, 0, 0, table, 0, 0, 2]) + bytes(4)


def of_interface(index: int) -> bytes:
    """The beginning that struct ifinfomsg and ifaddrmsg have in common."""
    return bytes(4) + struct.pack("=I", index) + bytes(8)


@pytest.mark.parametrize(
    ("kind", "body", "matters"),
    [
        (24, route(100), True),
        (25, route(100), True),
        (24, route(254), False),
        (32, bytes(12), True),
        (33, bytes(12), True),
        (80, bytes(4), True),
        (16, of_interface(1), True),
        (16, of_interface(2), False),
        (20, of_interface(1), True),
        (20, of_interface(7), False),
        (28, bytes(12), False),
    ],
)
def test_of_routes_only_what_replies_to_the_agent_depend_on_matters(kind: int, body: bytes, *, matters: bool) -> None:
    assert concerns_kernel_routes(message(kind, body)) == matters
    nothing = message(24, route(254)) + message(16, of_interface(3))
    assert not concerns_kernel_routes(nothing)
    assert concerns_kernel_routes(nothing + message(kind, body) + nothing) == matters


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    assert concerns_kernel_routes(data) in {True, False}
    assert concerns_rules(data) in {True, False}


def test_a_message_without_a_length_rings() -> None:
    assert concerns_kernel_routes(struct.pack("=IHHII", 0, 24, 0, 0, 0))


times = st.floats(0, 1000)


@given(st.lists(st.tuples(st.booleans(), times), max_size=40))
def test_two_looks_are_a_pause_apart_and_what_was_heard_is_looked_at(events: list[tuple[bool, float]]) -> None:
    pace, last_look, now, heard = Pace(), -1e9, 0.0, False
    for rings, after in events:
        now += after
        if rings:
            pace.ring(now)
            heard = True
        assert (pace.due is not None) == heard
        if pace.due is not None and pace.due <= now:
            assert now - last_look >= PAUSE_SECONDS
            pace.looking()
            pace.looked(now, wrote=False)
            last_look, heard = now, False
        assert pace.due is None or pace.due <= max(now, last_look + LONGEST_PAUSE_SECONDS)


def looks(seconds: float, *, wrote: bool) -> int:
    """How many looks at a pod that never stops ringing."""
    pace, found = Pace(), 0
    for tick in range(int(seconds * 10)):
        now = 100 + tick / 10
        pace.ring(now)
        if pace.due is not None and pace.due <= now:
            pace.looking()
            pace.looked(now, wrote=wrote)
            found += 1
    return found


def test_whoever_rings_for_nothing_is_looked_at_ever_less_often_and_who_is_broken_is_not() -> None:
    assert looks(300, wrote=True) in range(270, 301)
    assert looks(300, wrote=False) < FALSE_ALARMS + 5 + 300 / LONGEST_PAUSE_SECONDS


def test_false_alarms_are_forgotten_after_a_quiet_while() -> None:
    pace, now = Pace(), 0.0
    for _ in range(20):
        pace.ring(now)
        pace.looking()
        pace.looked(now, wrote=False)
        now += 1
    now += LONGEST_PAUSE_SECONDS + QUIET_SECONDS
    pace.ring(now)
    pace.looking()
    pace.looked(now, wrote=False)
    pace.ring(now)
    assert pace.due == now + PAUSE_SECONDS


class PairedEars:
    """Ears whose other ends the test has."""

    def __init__(self) -> None:
        self.rules, self.nft = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kernel_routes, self.ip = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.now = b"as they are"
        self.asked = asyncio.Semaphore(0)
        for sock in (self.rules, self.kernel_routes):
            sock.setblocking(False)

    def shapes(self) -> bytes:
        self.asked.release()
        return self.now

    async def until_asked(self, times: int) -> None:
        """Waits until the shapes were asked for so many times more."""
        while not self.asked.locked():
            await self.asked.acquire()
        async with asyncio.timeout(10):
            for _ in range(times):
                await self.asked.acquire()

    def close(self) -> None:
        for sock in (self.rules, self.kernel_routes):
            sock.close()


@pytest.fixture
def ears() -> Iterator[PairedEars]:
    made = PairedEars()
    yield made
    for sock in (made.rules, made.kernel_routes, made.nft, made.ip):
        sock.close()


class Watched(RuleWatch):
    """Notes that it rang."""

    def __init__(self) -> None:
        super().__init__(self._note)
        self.rung = asyncio.Event()

    def _note(self) -> None:
        self.rung.set()

    async def until_rung(self) -> None:
        """Waits for the next bell."""
        async with asyncio.timeout(10):
            await self.rung.wait()
        self.rung.clear()


@pytest.fixture
async def watch(ears: PairedEars) -> AsyncIterator[Watched]:
    made = Watched()
    made.add(PodKey("demo/web"), cast("Ears", ears))
    yield made
    made.close()


def loop_time() -> float:
    return asyncio.get_running_loop().time()


async def test_a_change_to_our_tables_rings_and_others_do_not(watch: Watched, ears: PairedEars) -> None:
    ears.nft.send(b"table theirs\0")
    assert not rule_watch._rings(ears.rules, concerns_rules)
    ears.nft.send(b"table quietwire\0")
    await watch.until_rung()
    assert watch.due(loop_time()) == ["demo/web"]


async def test_a_flood_is_read_in_parts_and_rings(ears: PairedEars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_watch, "MESSAGES_AT_ONCE", 4)
    for _ in range(6):
        ears.nft.send(b"table theirs\0")
    assert rule_watch._rings(ears.rules, concerns_rules), "who knows what else there is"
    assert not rule_watch._rings(ears.rules, concerns_rules)


async def test_a_socket_that_was_read_is_left_alone_for_a_while(watch: Watched, ears: PairedEars) -> None:
    ears.nft.send(b"table quietwire\0")
    await watch.until_rung()
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(ears.rules), "nobody reads it"
    assert loop.remove_reader(ears.kernel_routes)


async def test_what_the_kernel_could_not_tell_rings() -> None:
    reads, writes = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reads.setblocking(False)
    writes.close()
    reads.shutdown(socket.SHUT_RDWR)
    reads.close()
    assert rule_watch._rings(reads, concerns_rules), "any error does"


@pytest.fixture
async def sweeps(watch: Watched, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The watch runs, a hundred times a second."""
    monkeypatch.setattr(rule_watch, "SWEEP_SECONDS", 0.01)
    task = spawn(watch.run(), name="rule watch")
    yield
    task.cancel()


@pytest.mark.usefixtures("sweeps")
async def test_tables_of_another_shape_than_when_they_were_looked_at_ring(watch: Watched, ears: PairedEars) -> None:
    watch.looked(PodKey("demo/web"), loop_time(), wrote=True, legacy=True)
    await ears.until_asked(3)
    assert not watch.rung.is_set()
    ears.now = b"shorter"
    await watch.until_rung()
    watch.looking(PodKey("demo/web"))
    watch.looked(PodKey("demo/web"), loop_time() - 10, wrote=False, legacy=True)
    await ears.until_asked(3)
    assert watch.due(loop_time()) == [], "it was looked at, and fine; the bell of a moment before may still be heard"
    ears.now = b"longer"
    while not watch.due(loop_time()):
        watch.rung.clear()
        await watch.until_rung()


@pytest.mark.usefixtures("sweeps")
async def test_tables_that_hold_nothing_of_ours_are_not_asked_for(watch: Watched, ears: PairedEars) -> None:
    watch.looking(PodKey("demo/web"))
    watch.looked(PodKey("demo/web"), loop_time() - 10, wrote=False, legacy=False)
    other = PairedEars()
    watch.add(PodKey("demo/other"), cast("Ears", other))
    watch.looked(PodKey("demo/other"), loop_time() - 10, wrote=True, legacy=True)
    await other.until_asked(3)
    assert ears.asked.locked(), "to ask would make them"
    watch.remove(PodKey("demo/other"))
    for sock in (other.nft, other.ip):
        sock.close()


@pytest.mark.usefixtures("sweeps")
async def test_what_changes_while_somebody_looks_rings_again(watch: Watched, ears: PairedEars) -> None:
    watch.looked(PodKey("demo/web"), loop_time() - 10, wrote=True, legacy=True)
    watch.looking(PodKey("demo/web"))
    ears.now = b"changed while they were read"
    watch.looked(PodKey("demo/web"), loop_time() - 10, wrote=False, legacy=True)
    await watch.until_rung()


async def test_what_we_wrote_ourselves_is_no_news_and_what_comes_after_it_is(watch: Watched, ears: PairedEars) -> None:
    ears.nft.send(b"quietwire\0")
    ears.ip.send(message(33, bytes(12)))
    watch.looked(PodKey("demo/web"), loop_time() - 10, wrote=True, legacy=False)
    assert watch.due(loop_time()) == []
    ears.nft.send(b"quietwire\0")
    await watch.until_rung()
    assert watch.due(loop_time()) == ["demo/web"]


def test_a_pod_whose_rules_are_broken_again_and_again_is_restless_and_repaired_less_and_less_often() -> None:
    pace, now, repairs = Pace(), 0.0, 0
    while now < 300:
        pace.ring(now)
        assert pace.due is not None
        now = pace.due
        pace.looking()
        pace.looked(now, wrote=True, repaired=True)
        repairs += 1
        assert pace.restless == (repairs > REPAIRS)
    assert repairs < REPAIRS + 6 + 300 / LONGEST_PAUSE_SECONDS


@given(st.floats(0, 3 * STILL_SECONDS))
def test_it_is_restless_until_its_rules_were_whole_for_a_while(later: float) -> None:
    pace = Pace()
    for now in range(REPAIRS + 1):
        pace.looked(float(now), wrote=True, repaired=True)
    assert pace.restless
    pace.looked(REPAIRS + later, wrote=False)
    assert pace.restless == (later <= STILL_SECONDS)


def test_rules_that_are_written_for_other_reasons_make_nobody_restless() -> None:
    pace = Pace()
    for now in range(100):
        pace.looked(float(now), wrote=True)
    assert not pace.restless


async def test_many_are_due_in_parts() -> None:
    watch = Watched()
    many = [PairedEars() for _ in range(DUE_AT_ONCE + 5)]
    for number, each in enumerate(many):
        watch.add(PodKey(f"demo/pod-{number}"), cast("Ears", each))
        each.nft.send(b"quietwire\0")
    seen: set[str] = set()
    while len(seen) < len(many):
        await watch.until_rung()
        due = watch.due(loop_time())
        assert len(due) <= DUE_AT_ONCE
        assert seen.isdisjoint(due)
        for key in due:
            watch.looking(key)
        seen.update(due)
    watch.close()
    for each in many:
        each.nft.close()
        each.ip.close()


async def test_whoever_has_left_is_not_heard(watch: Watched, ears: PairedEars) -> None:
    ears.nft.send(b"quietwire\0")
    watch.remove(PodKey("demo/web"))
    assert PodKey("demo/web") not in watch
    assert ears.rules.fileno() == ears.kernel_routes.fileno() == -1
    watch.looking(PodKey("demo/web"))
    watch.looked(PodKey("demo/web"), loop_time(), wrote=True, legacy=True)  # the look that was under way
    assert watch.due(loop_time()) == []


async def test_whoever_is_told_a_moment_too_early_is_told_again(watch: Watched) -> None:
    """A timer is counted in milliseconds, and the moment that it is for may be a little later."""
    watch.ring(PodKey("demo/web"))
    await watch.until_rung()
    assert watch.due(loop_time() - 1) == []
    await watch.until_rung()
    assert watch.due(loop_time()) == ["demo/web"]
