"""The access log: every denial and whatever only audit lets in, and, where asked for, every connection at its end."""

import logging
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.policy.model import Considered

log = logging.getLogger("quietwire.access")

DENIED = "denied"
AUDITED = "audited"
"""At accept, or when policy has changed: what would be denied, and goes on."""
CLOSED = "closed"

DENIALS_PER_SECOND = 20
"""Lines per second for one event, pod and reason; what is over is counted and said in one line."""


class ConnectionRecord(Struct, frozen=True, omit_defaults=True):
    """One connection, at its end, or, with `event` AUDITED, at its beginning.

    `bytes_sent` is what the pod's application sent; `outcome` of what is audited is that of the denial that is not.
    """

    event: str
    direction: str
    pod: PodKey
    client: str
    destination: str
    security: str
    outcome: Outcome
    reason: str
    client_id: str | None = None
    server_id: str | None = None
    tls_resumed: bool = False
    decided_by: str | None = msgspec.field(default=None, name="server")
    authorization: str | None = None
    considered: tuple[Considered, ...] = ()
    bytes_sent: int = 0
    bytes_received: int = 0
    duration_ms: float = 0.0
    audit: bool = False


class AccessLog:
    """Writes records. Denials and what audit lets in always, at a bounded rate; the rest only if `enabled`.

    `wants` is asked before a record is made: most connections end without a line.
    """

    def __init__(self, *, enabled: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._enabled = enabled
        self._clock = clock
        self._windows: dict[tuple[str, str, str], tuple[int, int]] = {}

    def wants(self, event: str, pod: PodKey, outcome: Outcome, *, audit: bool = False) -> bool:
        """Whether a record will be written; asked once for each, because it counts."""
        if event == CLOSED and self._enabled:
            return True
        return (event != CLOSED or audit) and self._may_say((event, pod, outcome.value), int(self._clock()))

    def record(self, record: ConnectionRecord) -> None:
        """Logs one connection, if it is wanted."""
        if self.wants(record.event, record.pod, record.outcome, audit=record.audit):
            self.write(record)

    def write(self, record: ConnectionRecord) -> None:
        """Logs one connection that `wants` has said yes to."""
        fields = {"fields": _fields(record)}
        if record.outcome is Outcome.FAILED:
            log.error("failed: %s", record.reason, extra=fields)
        elif record.event == DENIED:
            log.warning("denied: %s", record.reason, extra=fields)
        elif record.event == AUDITED:
            log.warning("audit: %s", record.reason, extra=fields)
        else:
            log.info("closed: %s", record.reason or record.outcome.value, extra=fields)

    def _may_say(self, key: tuple[str, str, str], second: int) -> bool:
        since, count = self._windows.get(key, (second, 0))
        if since != second:
            _tell(key, count)
            since, count = second, 0
        self._windows[key] = (since, count + 1)
        return count < DENIALS_PER_SECOND

    def tell_suppressed(self) -> None:
        """Says how much was not logged in the seconds that are over. For every second or so."""
        second = int(self._clock())
        for key, (since, count) in list(self._windows.items()):
            if since != second:
                del self._windows[key]
                _tell(key, count)


def _tell(key: tuple[str, str, str], count: int) -> None:
    if count > DENIALS_PER_SECOND:
        event, pod, outcome = key
        log.warning(
            "%d more %s of %s with reason %s were not logged, only counted",
            count - DENIALS_PER_SECOND,
            _PLURALS[event],
            pod,
            outcome,
            extra={"fields": {"event": "suppressed", "pod": pod, "outcome": outcome}},
        )


_PLURALS = {DENIED: "denials", AUDITED: "audited connections", CLOSED: "ends of audited connections"}


def _fields(record: ConnectionRecord) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(record)
    fields["outcome"] = record.outcome.value
    return fields
