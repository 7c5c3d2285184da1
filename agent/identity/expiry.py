"""How near the end of what is above all SVIDs is: the issuer and the roots. Pure; times in POSIX seconds."""

from enum import IntEnum

NEAR_SECONDS = 30 * 86400.0
URGENT_SECONDS = 7 * 86400.0


class Nearness(IntEnum):
    """What is warned of, the louder the greater; the number is the metric's value."""

    FAR = 0
    NEAR = 1
    """Within 30 days."""
    URGENT = 2
    """Within 7 days."""
    EXPIRED = 3


def nearness(not_after: float, now: float) -> Nearness:
    """How near the end of a certificate is."""
    remaining = not_after - now
    if remaining <= 0:
        return Nearness.EXPIRED
    if remaining <= URGENT_SECONDS:
        return Nearness.URGENT
    return Nearness.NEAR if remaining <= NEAR_SECONDS else Nearness.FAR
