"""What blocks is done beside the loop: one thing at a time, and no namespace holds up another's rules."""

import os
import threading

import pytest

from agent.capture import netns
from agent.node.visits import Visits
from agent.tasks import spawn


async def test_what_blocks_holds_up_neither_the_loop_nor_a_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root nobody enters a namespace: here the visit stays at home."""
    monkeypatch.setattr(netns, "setns", lambda _: None)
    visits, may_end, began = Visits(), threading.Event(), threading.Event()

    def block(word: str) -> tuple[str, bool]:
        began.set()
        return word, may_end.wait(30)

    blocked = spawn(visits.blocking(block, "done"), name="blocked")
    home = netns.open_home()
    try:
        assert await visits.inside(home, lambda: began.wait(30)), "both run at once"
        assert not blocked.done()
        may_end.set()
        assert await blocked == ("done", True)
    finally:
        may_end.set()
        visits.close()
        os.close(home)


async def test_what_a_visit_raises_is_raised_and_the_next_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    visits, where = Visits(), list[int]()
    monkeypatch.setattr(netns, "setns", where.append)

    def fail() -> None:
        raise KeyError("inside")

    try:
        with pytest.raises(KeyError, match="inside"):
            await visits.inside(77, fail)
        assert await visits.inside(78, lambda: "fine") == "fine"
    finally:
        visits.close()
    (first, home, second, home_again) = where
    assert (first, second, home) == (77, 78, home_again), "each goes there, and home"
