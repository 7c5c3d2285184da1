"""When to renew, and how long to wait after a failure. Pure; times in POSIX seconds."""

from agent.identity.svid import Svid

JITTER = 0.1
"""Renewals spread over this part of the lifetime, so that a node's SVIDs do not all come due at once."""
FIRST_BACKOFF_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 60.0
JOIN_PAUSE_SECONDS = 2.0
"""Before an agent joins anew where what it got by joining does not work; doubled each time."""
PUSHED_SECONDS = 30.0
"""How often a source that changes at its own time is looked at besides."""
SPREAD_SECONDS = 10.0
"""After a change of issuer, a node's SVIDs are renewed within this time, or a tenth of what they have to live."""
LOUD_FRACTION = 0.1
"""Below this part of its lifetime an SVID that could not be renewed is an error in the log."""


def renew_at(svid: Svid, issued_at: float, jitter: float) -> float:
    """Half life, earlier by up to JITTER of the lifetime; `jitter` is from [0, 1).

    The life counts from when it was issued, not from NotBefore, which is backdated.
    """
    lifetime = svid.not_after - issued_at
    return issued_at + lifetime * (0.5 - JITTER * jitter)


def join_pause(joins: int, jitter: float) -> float:
    """Seconds before an agent joins again, after so many joins of which nothing has worked that came of them."""
    return min(JOIN_PAUSE_SECONDS * 2.0 ** min(joins - 1, 32), BACKOFF_CAP_SECONDS) * (0.5 + jitter / 2)


def backoff(attempt: int, jitter: float, lifetime: float = float("inf")) -> float:
    """Seconds before attempt number `attempt` (1 is the first retry): doubling, capped, spread by half.

    Never more than a tenth of the lifetime, so that SVIDs that live for seconds are retried in time.
    """
    cap = min(BACKOFF_CAP_SECONDS, max(lifetime / 10, FIRST_BACKOFF_SECONDS))
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 32), cap) * (0.5 + jitter / 2)


def spread(remaining: float, jitter: float) -> float:
    """Seconds until an SVID with `remaining` seconds to live is renewed for a new issuer; `jitter` is from [0, 1)."""
    return max(min(SPREAD_SECONDS, remaining / 10), 0.0) * jitter


def is_loud(svid: Svid, issued_at: float, now: float) -> bool:
    """Whether little of its life remains."""
    return svid.not_after - now < (svid.not_after - issued_at) * LOUD_FRACTION
