"""How often one caller may ask: a token bucket each, forgotten when it is full again. Pure; time is an argument."""


class RateLimit:
    """`per_second` in the long run, `at_once` in a burst."""

    def __init__(self, per_second: float, at_once: int) -> None:
        self.per_second = per_second
        self._at_once = at_once
        self._used: dict[str, tuple[float, float]] = {}
        """Tokens used up, at a moment."""

    def admits(self, who: str, now: float) -> bool:
        """Whether this one may ask now; asking uses a token up."""
        used, at = self._used.get(who, (0.0, now))
        used = max(used - max(now - at, 0.0) * self.per_second, 0.0)
        admitted = used + 1 <= self._at_once
        self._used[who] = (used + admitted, now)
        if len(self._used) > 10_000:
            full = self._at_once / self.per_second
            self._used = {key: each for key, each in self._used.items() if now - each[1] < full}
        return admitted
