"""The access log: every denial, and, where asked for, every connection at its end."""

import logging
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from agent.outcome import Outcome
from agent.policy.model import Considered

log = logging.getLogger("quietwire.access")

DENIALS_PER_SECOND = 20
"""Lines per second for one pod and reason; what is over is counted and said in one line."""


class ConnectionRecord(Struct, frozen=True, omit_defaults=True):
    """One connection, at its end. `bytes_sent` is what the pod's application sent."""

    event: str
    direction: str
    pod: str
    client: str
    destination: str
    security: str
    outcome: Outcome
    reason: str
    client_id: str | None = None
    server_id: str | None = None
    tls_resumed: bool = False
    server: str | None = None
    authorization: str | None = None
    considered: tuple[Considered, ...] = ()
    bytes_sent: int = 0
    bytes_received: int = 0
    duration_ms: float = 0.0
    audit: bool = False


class AccessLog:
    """Writes records. Denials always, at a bounded rate; the rest only if `enabled`."""

    def __init__(self, *, enabled: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._enabled = enabled
        self._clock = clock
        self._windows: dict[tuple[str, str], tuple[int, int]] = {}

    def record(self, record: ConnectionRecord) -> None:
        """Logs one connection."""
        if record.event == "denied":
            if self._may_say(record, int(self._clock())):
                log.warning("denied: %s", record.reason, extra={"fields": _fields(record)})
        elif self._enabled or record.audit:
            log.info("closed: %s", record.reason or record.outcome.value, extra={"fields": _fields(record)})
        elif record.outcome is Outcome.FAILED:
            log.error("failed: %s", record.reason, extra={"fields": _fields(record)})

    def _may_say(self, record: ConnectionRecord, second: int) -> bool:
        key = (record.pod, record.outcome.value)
        since, count = self._windows.get(key, (second, 0))
        if since != second:
            if count > DENIALS_PER_SECOND:
                log.warning(
                    "%d more denials of %s with reason %s were not logged, only counted",
                    count - DENIALS_PER_SECOND,
                    *key,
                    extra={"fields": {"event": "suppressed", "pod": key[0], "outcome": key[1]}},
                )
            since, count = second, 0
        self._windows[key] = (since, count + 1)
        return count < DENIALS_PER_SECOND


def _fields(record: ConnectionRecord) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(record)
    fields["outcome"] = record.outcome.value
    return fields
