"""When something that failed is tried again, and how often that is said. Pure; times in POSIX seconds."""

from agent.identity.renewal import backoff

SAID_EVERY_SECONDS = 3600.0
"""How often a failure that stays the same is said again."""


class Retry:
    """Of one thing: after each failure the pause doubles, up to a minute."""

    def __init__(self) -> None:
        self._attempts = 0
        self._at = float("-inf")
        self._said: str | None = None
        self._said_at = float("-inf")

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._said is not None

    def due(self, now: float) -> bool:
        """Whether it may be tried now."""
        return now >= self._at

    def failed(self, now: float, reason: str, *, possible_at: float | None = None) -> bool:
        """Takes a failure, and from when on it may succeed where that is known; whether it is to be said now."""
        self._attempts += 1
        self._at = now + backoff(self._attempts, 1.0)
        if possible_at is not None and possible_at > now:
            self._at = min(self._at, possible_at)
        if reason == self._said and now - self._said_at < SAID_EVERY_SECONDS:
            return False
        self._said, self._said_at = reason, now
        return True

    def hurry(self) -> None:
        """Something has changed: the next try is at once."""
        self._attempts = 0
        self._at = float("-inf")

    def succeeded(self) -> None:
        """Forgets the failures, and what was said of them."""
        self.hurry()
        self._said = None
