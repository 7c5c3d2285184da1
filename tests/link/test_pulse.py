"""Which worker hangs: never one that speaks, never by the fault of who looks, always one that is silent."""

from hypothesis import given
from hypothesis import strategies as st

from agent.link.pulse import BEAT_SECONDS, HUNG_SECONDS, LOOK_SECONDS, STALLED_SECONDS, STARTING_SECONDS, Pulse

PARTS = 64
"""Of a second: sums and differences of such times are exact, as a bound that is met to the last digit must be."""


def gaps(most: float) -> st.SearchStrategy[float]:
    """Seconds between two looks."""
    return st.integers(0, int(most * PARTS)).map(lambda parts: parts / PARTS)


looks = st.lists(st.tuples(gaps(100.0), st.booleans()), max_size=200)
"""After how many seconds somebody looked again, and whether something had been heard."""
regular = st.lists(gaps(STALLED_SECONDS), max_size=300)


@given(looks)
def test_a_worker_that_speaks_is_never_replaced(history: list[tuple[float, bool]]) -> None:
    now, heard_at = 0.0, 0.0
    pulse = Pulse.of_start(now)
    for after, heard in history:
        now += after
        heard_at = now if heard else heard_at
        pulse = pulse.look(now, heard=heard)
        assert not pulse.hangs or now - heard_at >= HUNG_SECONDS
        assert not (heard and pulse.hangs)


@given(looks)
def test_nothing_is_held_against_a_worker_that_was_said_while_nobody_listened(
    history: list[tuple[float, bool]],
) -> None:
    """The machine was suspended, or the supervisor stopped: what was said is unread."""
    now, listened_since = 0.0, 0.0
    pulse = Pulse.of_start(now)
    for after, heard in history:
        now += after
        listened_since = now if after > STALLED_SECONDS else listened_since
        pulse = pulse.look(now, heard=heard)
        assert pulse.silence <= now - listened_since
        assert not pulse.hangs or now - listened_since >= HUNG_SECONDS


@given(regular, st.booleans())
def test_one_that_is_silent_while_somebody_looks_is_replaced(pauses: list[float], spoke: bool) -> None:
    pulse = Pulse.of_start(0.0)
    if spoke:
        pulse = pulse.look(0.0, heard=True)
    bound = HUNG_SECONDS if spoke else STARTING_SECONDS
    now = 0.0
    for pause in pauses:
        now += pause
        pulse = pulse.look(now, heard=False)
        assert pulse.hangs == (now >= bound)


def test_a_beat_may_be_lost_and_another_late() -> None:
    assert HUNG_SECONDS >= 4 * BEAT_SECONDS
    assert STALLED_SECONDS > 2 * LOOK_SECONDS
