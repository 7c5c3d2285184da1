"""The access log: what is said at once, what at a bounded rate, and what costs nothing because nobody wants it."""

import logging
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.join import Assembly
from agent.catalog.snapshot import Catalog
from agent.catalog.sources.files.directory import load
from agent.link.messages import Counts
from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.policy.authorize import authorize
from agent.policy.index import PolicyIndex, PolicySettings
from agent.policy.model import Client, Denial, PodPort
from agent.telemetry.access import AUDITED, CLOSED, DENIALS_PER_SECOND, DENIED, AccessLog, ConnectionRecord
from agent.telemetry.counters import Counters, CounterTotals
from agent.telemetry.metrics import Metrics


def record(event: str, outcome: Outcome, *, audit: bool = False) -> ConnectionRecord:
    return ConnectionRecord(
        event, "inbound", PodKey("demo/api"), "192.0.2.1:1", "192.0.2.2:80", "plain", outcome, "because", audit=audit
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
    assert not quiet.wants(CLOSED, PodKey("demo/api"), Outcome.COMPLETED)
    assert quiet.wants(CLOSED, PodKey("demo/api"), Outcome.COMPLETED, audit=True)
    assert quiet.wants(DENIED, PodKey("demo/api"), Outcome.UNAUTHENTICATED)
    assert all(loud.wants(CLOSED, PodKey("demo/api"), Outcome.COMPLETED) for _ in range(2 * DENIALS_PER_SECOND))


TEXTS = st.text().filter(lambda text: text.isascii() or text.isprintable())


@given(TEXTS, TEXTS, TEXTS)
def test_a_label_may_say_anything_and_shifts_no_other(server: str, authorization: str, reason: str) -> None:
    """Through the channel and onto the page: a file of manifests may be called `a|b.yaml`, and names a rule."""
    counters, totals = Counters(), CounterTotals()
    counters.decided("deny", server, authorization, reason)
    sent = msgspec.msgpack.encode(Counts(1, counters.snapshot(), {}))
    totals.update(0, 1, msgspec.msgpack.decode(sent, type=Counts).values)
    (sample,) = [sample for family in Metrics(totals)._counted() for sample in family.samples]
    expected = {"verdict": "deny", "server": server, "authorization": authorization, "reason": reason}
    assert (sample.labels, sample.value) == (expected, 1)


def test_a_file_whose_name_has_a_bar_is_counted_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "a|b|c.yaml").write_text("kind: Server\nmetadata: {name: [")
    (tmp_path / "pod.yaml").write_text("kind: Pod\nmetadata: {name: api}\nstatus: {podIP: 10.1.0.1}\n")
    change = Assembly().apply(load([tmp_path]).objects)
    assert change is not None
    catalog = Catalog(change.version, change.pods, change.services, change.policies)
    permits = PolicyIndex(catalog, PolicySettings("example.test")).permits(catalog.pods[0], 80)
    answer = authorize(PodPort(PodKey("default/api"), 80), Client(None, None, tls=False), permits)
    assert isinstance(answer, Denial)
    counters, totals = Counters(), CounterTotals()
    counters.decided("deny", answer.decided_by, "", answer.outcome)
    totals.update(0, 1, counters.snapshot())
    families = {each.name: each for each in Metrics(totals)._counted()}
    (sample,) = families["quietwire_authorizations"].samples
    assert sample.labels["server"].endswith("a|b|c.yaml")
    assert sample.labels["reason"] == "denied_by_default"


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


def ended(outcome: Outcome, event: str = "denied", pod: str = "demo/api") -> ConnectionRecord:
    return ConnectionRecord(event, "inbound", PodKey(pod), "192.0.2.1:1", "192.0.2.2:80", "plain", outcome, "because")


def test_denials_are_always_logged_and_the_rest_only_if_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quietwire.access")
    for enabled in (False, True):
        log = AccessLog(enabled=enabled)
        log.record(ended(Outcome.UNAUTHENTICATED))
        log.record(ended(Outcome.COMPLETED, "closed"))
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING, logging.WARNING, logging.INFO]


def test_a_flood_of_denials_is_bounded_and_the_rest_is_counted_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    log = AccessLog(enabled=False, clock=lambda: now[0])
    for _ in range(500):
        log.record(ended(Outcome.UNAUTHENTICATED))
    log.record(ended(Outcome.UNAUTHENTICATED, pod="demo/other"))
    assert len(caplog.records) == DENIALS_PER_SECOND + 1
    now[0] += 1
    log.record(ended(Outcome.UNAUTHENTICATED))
    assert f"{500 - DENIALS_PER_SECOND} more denials of demo/api" in caplog.records[-2].getMessage()
