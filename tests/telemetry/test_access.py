"""The access log: what is said at once, what at a bounded rate, and what costs nothing because nobody wants it."""

import logging

import pytest

from agent.outcome import Outcome
from agent.telemetry.access import AUDITED, CLOSED, DENIALS_PER_SECOND, DENIED, AccessLog, ConnectionRecord
from agent.telemetry.counters import Counters, CounterTotals
from agent.telemetry.metrics import Metrics


def record(event: str, outcome: Outcome, *, audit: bool = False) -> ConnectionRecord:
    return ConnectionRecord(
        event, "inbound", "demo/api", "192.0.2.1:1", "192.0.2.2:80", "plain", outcome, "because", audit=audit
    )


def test_what_audit_lets_in_is_a_warning_of_its_own_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    log = AccessLog(enabled=False, clock=lambda: now[0])
    for _ in range(500):
        log.record(record(AUDITED, Outcome.UNAUTHENTICATED, audit=True))
    log.record(record(DENIED, Outcome.UNAUTHENTICATED))
    assert len(caplog.records) == DENIALS_PER_SECOND + 1, "a flood of one hides nothing of the other"
    assert {each.levelno for each in caplog.records} == {logging.WARNING}
    assert caplog.records[0].getMessage() == "audit: because"
    now[0] += 1
    log.record(record(AUDITED, Outcome.UNAUTHENTICATED, audit=True))
    assert f"{500 - DENIALS_PER_SECOND} more audited connections of demo/api" in caplog.records[-2].getMessage()


def test_what_was_not_logged_is_told_though_nothing_more_comes(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    log = AccessLog(enabled=False, clock=lambda: now[0])
    for _ in range(500):
        log.record(record(DENIED, Outcome.UNAUTHENTICATED))
    log.tell_suppressed()
    assert len(caplog.records) == DENIALS_PER_SECOND, "the second is not over"
    now[0] += 1
    log.tell_suppressed()
    assert f"{500 - DENIALS_PER_SECOND} more denials of demo/api" in caplog.records[-1].getMessage()
    log.tell_suppressed()
    log.record(record(DENIED, Outcome.UNAUTHENTICATED))
    assert len(caplog.records) == DENIALS_PER_SECOND + 2, "and told once"


def test_faults_of_ours_are_errors_at_a_bounded_rate_too(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(enabled=False, clock=lambda: 100.0)
    assert Outcome.FAILED.is_denial, "nobody was served: it counts"
    for _ in range(500):
        log.record(record(DENIED, Outcome.FAILED))
    assert {each.levelno for each in caplog.records if each.getMessage() == "failed: because"} == {logging.ERROR}
    assert len(caplog.records) == DENIALS_PER_SECOND


def test_nothing_is_wanted_of_a_connection_that_ends_well_unless_all_are() -> None:
    quiet, loud = AccessLog(enabled=False), AccessLog(enabled=True)
    assert not quiet.wants(CLOSED, "demo/api", Outcome.COMPLETED)
    assert quiet.wants(CLOSED, "demo/api", Outcome.COMPLETED, audit=True)
    assert quiet.wants(DENIED, "demo/api", Outcome.UNAUTHENTICATED)
    assert all(loud.wants(CLOSED, "demo/api", Outcome.COMPLETED) for _ in range(2 * DENIALS_PER_SECOND))


def test_the_metric_of_decisions_says_of_which_connections_it_is() -> None:
    counters, totals = Counters(), CounterTotals()
    counters.decided("deny", "egress:meshed-only", "", Outcome.EGRESS_NOT_MESHED)
    totals.update(0, 1, counters.snapshot())
    families = {each.name: each for each in Metrics(totals)._counted()}
    family = families["quietwire_authorizations"]
    assert "outbound" in family.documentation
    assert not family.documentation.startswith("Inbound")
    (sample,) = family.samples
    assert sample.labels == {
        "verdict": "deny",
        "server": "egress:meshed-only",
        "authorization": "",
        "reason": "egress_not_meshed",
    }
