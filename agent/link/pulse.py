"""Whether a worker hangs: pure. Times are seconds of one clock that never goes back.

A worker says every BEAT_SECONDS that its loop turns, whatever else it has to do. The supervisor looks every
LOOK_SECONDS whether it has; a worker of which nothing was heard for HUNG_SECONDS is stopped, or in a loop without end,
and is replaced. Whoever looks may have been stopped itself, with the machine perhaps: then what was said meanwhile is
still unread, and the silence counts anew from there.
"""

from msgspec import Struct

BEAT_SECONDS = 2.0
LOOK_SECONDS = 1.0
HUNG_SECONDS = 10.0
"""Longer than anything takes that a worker does in one go: to index a catalog of 100,000 pods, say."""
STARTING_SECONDS = 60.0
"""The same for a process that has said nothing yet: it is being loaded, by a machine that may have a lot to load."""
STALLED_SECONDS = 3.0
"""Who looks later than this after its last look was stopped itself, or got no time."""


class Pulse(Struct, frozen=True):
    """What is known of one worker."""

    silent_since: float
    """From when on nothing was heard, as far as somebody listened."""
    looked_at: float
    begun: bool = False
    """Whether it was ever heard."""

    @classmethod
    def of_start(cls, now: float) -> "Pulse":
        """Of a process that was just started."""
        return cls(now, now)

    def look(self, now: float, *, heard: bool) -> "Pulse":
        """After another look; `heard` says whether the worker has said something since the last one."""
        if heard:
            return Pulse(now, now, begun=True)
        stalled = now - self.looked_at > STALLED_SECONDS
        return Pulse(now if stalled else self.silent_since, now, self.begun)

    @property
    def silence(self) -> float:
        """For how long nothing was heard while somebody listened."""
        return self.looked_at - self.silent_since

    @property
    def hangs(self) -> bool:
        """Whether it is to be replaced."""
        return self.silence >= (HUNG_SECONDS if self.begun else STARTING_SECONDS)
