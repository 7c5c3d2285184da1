"""The metrics page: every family, with what it was given."""

from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.telemetry.counters import Counters, CounterTotals
from agent.telemetry.metrics import Metrics


def test_the_metrics_page_has_every_family() -> None:
    totals = CounterTotals()
    counters = Counters()
    counters.opened("outbound", "plain")
    counters.closed("outbound", Outcome.COMPLETED)
    totals.update(0, 1, counters.snapshot())
    page = Metrics(totals).render(
        live={"inbound": 3}, expiries={"spiffe://a/b": 5.0}, worker_restarts={"hung": 1}, rule_repairs=2,
        pods={"captured": 4},
        ports_occupied={PodKey("demo/a"): ["0.0.0.0:4143"]},
        conntrack_used=0.25,
        foreign_nat=6,
        capabilities={"NET_ADMIN": 1, "NET_RAW": 7},
        catalog_version=7, catalog_remembered=True, catalog_unheard={"Pod": 12.0},
        catalog_faults=0, identity_faults=5, policy_warnings=2,
        above={"issuer": 9.0, "root aa": 9.0 + 8 * 86400}, bundle_sequence=3,
        clock_skew=-2.0,
        authority_restarts=0,
        now=8.0,
    ).decode()  # fmt: skip
    for wanted in (
        'quietwire_connections_opened_total{direction="outbound",security="plain"} 1.0',
        'quietwire_connections_closed_total{direction="outbound",outcome="completed"} 1.0',
        'quietwire_connections_live{direction="inbound"} 3.0',
        'quietwire_certificate_expiry_timestamp_seconds{spiffe_id="spiffe://a/b"} 5.0',
        'quietwire_pods{state="captured"} 4.0',
        "quietwire_conntrack_used_ratio 0.25",
        'quietwire_worker_restarts_total{reason="hung"} 1.0',
        "quietwire_pods_with_foreign_nat 6.0",
        'quietwire_pods_with_capability{capability="NET_RAW"} 7.0',
        "quietwire_catalog_version 7.0",
        "quietwire_catalog_remembered 1.0",
        'quietwire_catalog_unheard_seconds{kind="Pod"} 12.0',
        "quietwire_identity_faults 5.0",
        'quietwire_authority_expiry_timestamp_seconds{certificate="issuer"} 9.0',
        'quietwire_authority_expiry_warning{certificate="issuer"} 2.0',
        'quietwire_authority_expiry_warning{certificate="root aa"} 1.0',
        "quietwire_bundle_sequence 3.0",
        "quietwire_clock_skew_seconds -2.0",
    ):
        assert wanted in page
