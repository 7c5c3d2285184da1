"""What a set-up waits on."""

import asyncio

import pytest

from agent.proxy import opening
from agent.proxy.opening import Bell, Deadlines
from tests.proxy.fakes import opening as opened


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "TICK_SECONDS", 0.005)


async def test_a_wait_ends_with_the_ring() -> None:
    bell = Bell(Deadlines())
    loop = asyncio.get_running_loop()
    loop.call_soon(bell.ring)
    assert await bell.wait(loop.time() + 60)


async def test_a_ring_that_nobody_waits_for_is_lost() -> None:
    bell = Bell(Deadlines())
    bell.ring()
    assert not await bell.wait(asyncio.get_running_loop().time() + 0.01)


@pytest.mark.parametrize("precisely", [False, True])
async def test_a_wait_is_never_over_before_its_deadline(*, precisely: bool) -> None:
    bell = Bell(Deadlines())
    deadline = asyncio.get_running_loop().time() + 0.03
    assert not await (bell.wait_precisely if precisely else bell.wait)(deadline)
    assert asyncio.get_running_loop().time() >= deadline - 0.001, "uvloop's and epoll's clocks have whole milliseconds"


async def test_each_wait_has_its_own_deadline_and_later_ones_are_met_too() -> None:
    deadlines = Deadlines()
    now = asyncio.get_running_loop().time()
    waits = [Bell(deadlines).wait(now + after) for after in (0.05, 0.01, 0.03)]
    assert await asyncio.gather(*waits) == [False] * 3
    assert not await Bell(deadlines).wait(asyncio.get_running_loop().time() + 0.01), "and after all had ended"


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    deadlines = Deadlines()
    bell = Bell(deadlines)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bell.wait(asyncio.get_running_loop().time() + 60)
    bell.ring()
    assert not await bell.wait(asyncio.get_running_loop().time() + 0.01)


async def test_what_is_given_back_comes_before_what_has_come_since() -> None:
    leg = opened(Bell(Deadlines()))
    leg.keep(b"later")
    leg.give_back(b"first, ")
    assert leg.take() == b"first, later"
    assert leg.silent
