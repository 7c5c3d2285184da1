"""Every figure: its key, unit, and which way is better."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Figure:
    """One number that a measure gives."""

    key: str
    title: str
    unit: str
    better: Better
    measure: str

    @property
    def of_proxies(self) -> bool:
        """Whether it is about the proxies, and so about nothing where there is none."""
        return self.key.startswith(("cpu_", "memory_"))


def _requests(connections: int) -> tuple[Figure, ...]:
    measure, beside = f"requests_{connections}", f"{connections} connection{'s' if connections > 1 else ''}"
    return (
        Figure(f"rps_{connections}", f"requests/s, {beside}", "1/s", "higher", measure),
        Figure(f"p50_{connections}", f"latency p50, {beside}", "µs", "lower", measure),
        Figure(f"p99_{connections}", f"latency p99, {beside}", "µs", "lower", measure),
        Figure(f"p999_{connections}", f"latency p99.9, {beside}", "µs", "lower", measure),
    )


def _bulk(streams: int) -> tuple[Figure, ...]:
    beside = f"{streams} stream{'s' if streams > 1 else ''}"
    return (
        Figure(f"up_gbps_{streams}", f"client to server, {beside}", "Gbit/s", "higher", f"bulk_{streams}"),
        Figure(f"down_gbps_{streams}", f"server to client, {beside}", "Gbit/s", "higher", f"bulk_{streams}"),
    )


FIGURES: tuple[Figure, ...] = (
    Figure("cpu_us_per_request", "CPU per request", "µs", "lower", "requests_64"),
    Figure("cpu_us_per_connection", "CPU per new connection", "µs", "lower", "connections"),
    Figure("cpu_s_per_gb", "CPU per GB", "s", "lower", "bulk_1"),
    *_requests(1),
    *_requests(64),
    *_requests(512),
    Figure("p50_64_half_load", "latency p50, 64 connections at half load", "µs", "lower", "half_load"),
    Figure("p99_64_half_load", "latency p99, 64 connections at half load", "µs", "lower", "half_load"),
    Figure("offered_64_half_load", "offered at half load", "1/s", "higher", "half_load"),
    Figure("rps_64_half_load", "reached at half load", "1/s", "higher", "half_load"),
    Figure("p50_1_neighbours", "latency p50 beside 512 bulk-loaded connections", "µs", "lower", "neighbours"),
    Figure("p99_1_neighbours", "latency p99 beside 512 bulk-loaded connections", "µs", "lower", "neighbours"),
    Figure("connections_per_s", "new connections/s", "1/s", "higher", "connections"),
    Figure("p50_connection", "latency p50, new connection", "µs", "lower", "connections"),
    Figure("p99_connection", "latency p99, new connection", "µs", "lower", "connections"),
    Figure("p999_connection", "latency p99.9, new connection", "µs", "lower", "connections"),
    *_bulk(1),
    *_bulk(2),
    *_bulk(8),
    Figure("cpu_s_per_gb_up", "CPU per GB, client to server", "s", "lower", "bulk_1"),
    Figure("cpu_s_per_gb_down", "CPU per GB, server to client", "s", "lower", "bulk_1"),
    Figure("memory_idle", "memory, idle", "bytes", "lower", "memory"),
    Figure("memory_per_idle_connection", "memory per idle connection", "bytes", "lower", "memory"),
    Figure("memory_after_storm", "memory after the storm", "bytes", "lower", "memory"),
)

BY_KEY = {figure.key: figure for figure in FIGURES}

RATIOS = (
    "cpu_us_per_request",
    "cpu_us_per_connection",
    "cpu_s_per_gb",
    "p50_1",
    "p99_64_half_load",
    "memory_per_idle_connection",
)
"""The figures that count, as ratios to the reference: `ratios_to_nginx`."""

MEASURES = (
    "memory",
    "requests_1",
    "requests_64",
    "half_load",
    "requests_512",
    "connections",
    "scaling",
    "bulk_1",
    "bulk_2",
    "bulk_8",
    "neighbours",
)
"""In the order in which a round takes them."""


def measures_of(names: list[str]) -> tuple[str, ...]:
    """The measures that give these names, which are measures or figures. Raises ValueError."""
    wanted = set()
    for name in names:
        if name in MEASURES:
            wanted.add(name)
        elif name in BY_KEY:
            wanted.add(BY_KEY[name].measure)
        else:
            raise ValueError(
                f"{name!r} is neither a measure ({', '.join(MEASURES)}) nor a figure ({', '.join(BY_KEY)})"
            )
    return tuple(measure for measure in MEASURES if measure in wanted)
