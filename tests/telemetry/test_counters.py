"""Counters never fall."""

from agent.outcome import Outcome
from agent.telemetry.counters import Counters, CounterTotals


def test_counters_never_fall_when_a_worker_is_replaced() -> None:
    totals = CounterTotals()
    counters = Counters()
    counters.opened("inbound", "mtls")
    counters.denied("inbound", Outcome.UNAUTHENTICATED)
    counters.moved("inbound", 10, 20)
    totals.update(0, 1, counters.snapshot())
    totals.update(0, 1, counters.snapshot())
    fresh = Counters()
    fresh.opened("inbound", "mtls")
    totals.update(0, 2, fresh.snapshot())
    totals.update(0, 1, counters.snapshot())  # late news of the dead one
    totals.update(1, 1, fresh.snapshot())
    assert dict(totals.items()) == {
        ("opened", "inbound", "mtls"): 3,
        ("denied", "inbound", "unauthenticated"): 1,
        ("bytes", "inbound", "sent"): 10,
        ("bytes", "inbound", "received"): 20,
    }
