"""Which contender has its turn when."""

from collections.abc import Sequence


def order(names: Sequence[str], number: int) -> list[str]:
    """The turns of one round (the first is 0): everyone once, beginning with another one each time."""
    if not names:
        return []
    first = number % len(names)
    return [*names[first:], *names[:first]]


def left(done: int, total: int, elapsed: float) -> float:
    """Seconds that remain, by the pace so far."""
    return elapsed / done * (total - done) if done else 0.0


def spoken(seconds: float) -> str:
    """`3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
