"""What is told of a connection: counters, and lines of the access log."""

import time
from typing import TYPE_CHECKING

from agent.capture.address import show
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.proxy.relay import Relay
from agent.telemetry.access import AUDITED, CLOSED, DENIED, ConnectionRecord

if TYPE_CHECKING:
    from agent.proxy.connection import Connection

MAX_CONSIDERED = 16
"""Authorizations that one line of the log tells of."""


def destination(connection: "Connection") -> str:
    """Where it goes, as far as that is known."""
    where = connection.original_destination if connection.route is None else connection.route
    return show(where.address, where.port)


def is_audited(connection: "Connection") -> bool:
    """Whether only audit has let it in."""
    return isinstance(connection.decision, Permit) and connection.decision.audit


def relay_begins(connection: "Connection") -> None:
    """It is counted as open, with what let it in."""
    counters, permit = connection.runtime.counters, connection.decision
    counters.opened(connection.direction, connection.security)
    if isinstance(permit, Permit):
        counters.decided("audit" if permit.audit else "allow", permit.decided_by, permit.authorization, "")
        if permit.audited is not None:
            _audited(connection, permit.audited, "only audit lets it in")


def kept_by_audit(connection: "Connection", permit: Permit) -> None:
    """Policy has changed, and only audit permits this connection now: said, and counted, if it is relayed."""
    if permit.audited is not None and connection.runtime.live.is_joined(connection):
        connection.runtime.counters.decided("audit", permit.decided_by, permit.authorization, "")
        _audited(connection, permit.audited, "only audit keeps it, after a change")


def moved(connection: "Connection", relay: Relay) -> None:
    """Adds to the counters what has moved since they were told last."""
    sent, received = relay.application.received, relay.peer.received
    if sent != connection.told_sent or received != connection.told_received:
        connection.runtime.counters.moved(
            connection.direction, sent - connection.told_sent, received - connection.told_received
        )
        connection.told_sent, connection.told_received = sent, received


def ended(connection: "Connection", outcome: Outcome, detail: str, *, relayed: bool) -> None:
    """It is over: counted, and a line where somebody wants one."""
    runtime, decision, direction = connection.runtime, connection.decision, connection.direction
    if relayed:
        runtime.counters.closed(direction, outcome)
    if outcome.is_denial:
        runtime.counters.denied(direction, outcome)
        if isinstance(decision, Denial):
            runtime.counters.decided("deny", decision.decided_by, "", outcome)
    event = DENIED if outcome.is_denial else CLOSED
    if runtime.access_log.wants(event, connection.pod, outcome, audit=is_audited(connection)):
        runtime.access_log.write(record(connection, event, outcome, detail))


def _audited(connection: "Connection", instead: Denial, what: str) -> None:
    access_log = connection.runtime.access_log
    if access_log.wants(AUDITED, connection.pod, instead.outcome):
        access_log.write(record(connection, AUDITED, instead.outcome, f"{what}: {instead.message}"))


def record(connection: "Connection", event: str, outcome: Outcome, detail: str) -> ConnectionRecord:
    """A line of the access log: all that is known now."""
    decision = connection.decision
    told = isinstance(decision, Denial) or event == AUDITED
    return ConnectionRecord(
        event=event,
        direction=connection.direction.value,
        pod=connection.pod,
        client=str(connection.client),
        destination=destination(connection),
        client_id=None if connection.client_id is None else str(connection.client_id),
        server_id=None if connection.server_id is None else str(connection.server_id),
        security=connection.security.value,
        tls_resumed=connection.resumed,
        decided_by=None if decision is None else decision.decided_by,
        authorization=decision.authorization if isinstance(decision, Permit) else None,
        considered=decision.considered[:MAX_CONSIDERED] if told and decision is not None else (),
        outcome=outcome,
        reason=detail,
        bytes_sent=connection.told_sent,
        bytes_received=connection.told_received,
        duration_ms=round((time.monotonic() - connection.opened_at) * 1000, 1),
        audit=is_audited(connection),
    )
