"""The metrics page, in Prometheus' text format. Rendered on request, never on a data loop."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.identity.expiry import nearness
from agent.objects.key import PodKey
from agent.telemetry import counters
from agent.telemetry.counters import CounterTotals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    counters.OPENED: (
        "quietwire_connections_opened",
        "Connections relayed, by direction and by what the leg towards the peer is.",
        ("direction", "security"),
    ),
    counters.CLOSED: ("quietwire_connections_closed", "Relayed connections that are over.", ("direction", "outcome")),
    counters.DENIED: ("quietwire_denials", "Connections refused or terminated.", ("direction", "reason")),
    counters.DECIDED: (
        "quietwire_authorizations",
        "Connections by what policy said: allow, audit or deny inbound, deny outbound; audit, deny after a change too.",
        ("verdict", "server", "authorization", "reason"),
    ),
    counters.SHORT: (
        "quietwire_accept_pauses",
        "Times that nobody was accepted for half a second because descriptors or memory had run out, by who listens.",
        ("listener",),
    ),
    counters.BYTES: ("quietwire_bytes", "Application bytes, as the pod's process sees them.", ("direction", "flow")),
}


class Metrics:
    """Renders what the supervisor knows at one moment."""

    def __init__(self, totals: CounterTotals) -> None:
        self._totals = totals

    def render(
        self,
        *,
        live: Mapping[str, int],
        expiries: Mapping[str, float],
        worker_restarts: Mapping[str, int],
        rule_repairs: int,
        pods: Mapping[str, int],
        ports_occupied: Mapping[PodKey, Sequence[str]],
        conntrack_used: float,
        foreign_nat: int,
        capabilities: Mapping[str, int],
        catalog_version: int,
        catalog_remembered: bool,
        catalog_unheard: Mapping[str, float],
        catalog_faults: int,
        identity_faults: int,
        policy_warnings: int,
        above: Mapping[str, float],
        bundle_sequence: int,
        clock_skew: float | None,
        authority_restarts: int,
        now: float,
    ) -> bytes:
        """The page. `live` is by direction, `expiries` POSIX seconds by SPIFFE ID, `pods` by state.

        `ports_occupied` are addresses, by pod; `foreign_nat` is a number of pods, and `capabilities` has one by
        each. `above` says when what is above all
        SVIDs expires: by `issuer`, and `root` with the beginning of its digest. `catalog_unheard` has, by kind, for how
        many seconds nothing has been heard of it.
        """
        families = [
            *self._counted(),
            _gauge(
                "quietwire_connections_live",
                "Connections relayed now.",
                "direction",
                {"inbound": 0, "outbound": 0} | dict(live),
            ),
            _gauge(
                "quietwire_certificate_expiry_timestamp_seconds",
                "When the SVID in force expires, POSIX seconds.",
                "spiffe_id",
                expiries,
            ),
            _gauge(
                "quietwire_pods",
                "Local pods: captured and certified, waiting for it, or left (no pod's any more, inhabited, refused).",
                "state",
                pods,
            ),
            _ports_occupied(ports_occupied),
            GaugeMetricFamily(
                "quietwire_conntrack_used_ratio",
                "Entries of the fullest conntrack table of a pod, as a part of net.netfilter.nf_conntrack_max.",
                value=conntrack_used,
            ),
            GaugeMetricFamily(
                "quietwire_pods_with_foreign_nat",
                "Pods in which nat rules of others come before capture, and what those divert is refused.",
                value=foreign_nat,
            ),
            _gauge(
                "quietwire_pods_with_capability",
                "Pods in which a process has a capability that leads past capture (runtimes grant NET_RAW).",
                "capability",
                capabilities,
            ),
            _by_label(
                "quietwire_worker_restarts",
                "Workers that were replaced: hung, ended by a signal, exited, or not started.",
                "reason",
                worker_restarts,
            ),
            CounterMetricFamily("quietwire_rule_repairs", "Pods whose rules were found changed.", value=rule_repairs),
            GaugeMetricFamily("quietwire_catalog_version", "Version of the catalog in force.", value=catalog_version),
            GaugeMetricFamily(
                "quietwire_catalog_remembered",
                "1 while the catalog is what an agent before this one knew, in part at least.",
                value=catalog_remembered,
            ),
            _gauge(
                "quietwire_catalog_unheard_seconds",
                "For how long nothing has been heard of a kind of objects: what was known of it is in force.",
                "kind",
                catalog_unheard,
            ),
            GaugeMetricFamily("quietwire_catalog_faults", "Manifests that cannot be used.", value=catalog_faults),
            GaugeMetricFamily(
                "quietwire_identity_faults",
                "SVIDs and bundles that could not be replaced: a former one stays in force.",
                value=identity_faults,
            ),
            GaugeMetricFamily(
                "quietwire_policy_warnings", "Policy that is legal, and surely not meant.", value=policy_warnings
            ),
            _gauge(
                "quietwire_authority_expiry_timestamp_seconds",
                "When the issuer and the roots expire, POSIX seconds.",
                "certificate",
                above,
            ),
            _gauge(
                "quietwire_authority_expiry_warning",
                "How near that is: 1 within 30 days, 2 within 7 days, 3 expired.",
                "certificate",
                {which: nearness(not_after, now) for which, not_after in above.items()},
            ),
            GaugeMetricFamily("quietwire_bundle_sequence", "The trust bundle in force.", value=bundle_sequence),
            CounterMetricFamily(
                "quietwire_authority_restarts",
                "Times that this host's authority was replaced.",
                value=authority_restarts,
            ),
        ]
        if clock_skew is not None:
            families.append(
                GaugeMetricFamily(
                    "quietwire_clock_skew_seconds", "The authority's clock, ahead of this one.", value=clock_skew
                )
            )
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Fixed(families))
        return generate_latest(registry)

    def _counted(self) -> list[Metric]:
        families = {
            kind: CounterMetricFamily(name, text, labels=labels) for kind, (name, text, labels) in _COUNTERS.items()
        }
        for (kind, *labels), value in sorted(self._totals.items()):
            families[kind].add_metric(labels, value)
        return list(families.values())


def _ports_occupied(occupied: Mapping[PodKey, Sequence[str]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "quietwire_agent_port_taken",
        "1 for each address in a pod at which something else listens, or did, where the agent should.",
        labels=("pod", "address"),
    )
    for pod, addresses in occupied.items():
        for address in addresses:
            family.add_metric((pod, address), 1)
    return family


def _by_label(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


class _Fixed:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
