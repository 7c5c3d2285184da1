"""How long to wait before the next try. Pure: chance is an argument."""

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0


class Backoff:
    """Doubles with each failure, and is spread over half of it, so that a thousand agents do not come at once."""

    def __init__(self, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def failed(self, chance: float, *, at_least: float | None = None) -> float:
        """Seconds to wait, after another failure. `chance` is from 0 to 1; `at_least` is what was asked of us."""
        whole = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        return max(whole * (0.5 + chance / 2), at_least or 0.0)

    def succeeded(self) -> None:
        """The next failure is the first."""
        self._failures = 0
