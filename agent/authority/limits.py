"""How often one caller may ask: a token bucket each. Pure; time is an argument."""

MAX_CALLERS = 10_000
"""Whose buckets are kept; beyond, who has been quiet for longest is forgotten, as if his were full."""


class RateLimit:
    """`per_second` in the long run, `at_once` in a burst."""

    def __init__(self, per_second: float, at_once: int) -> None:
        self.per_second = per_second
        self._at_once = at_once
        self._used: dict[str, tuple[float, float]] = {}
        """Tokens used up, at a moment."""

    def admits(self, who: str, now: float) -> bool:
        """Whether this one may ask now; asking uses a token up."""
        used, at = self._used.pop(who, (0.0, now))
        used = max(used - max(now - at, 0.0) * self.per_second, 0.0)
        admitted = used + 1 <= self._at_once
        self._used[who] = (used + admitted, now)
        if len(self._used) > MAX_CALLERS:
            del self._used[next(iter(self._used))]
        return admitted
