"""How much a run takes on."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.figures import MEASURES, RATIOS, measures_of

MEMORY, SCALING = "memory", "scaling"

HEAD_STARTS: Mapping[int, float] = {1: 0.1, 64: 0.5, 512: 1.2}
"""Seconds in which so many connections are opened before the first request is sent."""

LOADS: Mapping[str, int] = {
    "requests_1": 2,
    "requests_64": 2,
    "half_load": 3,
    "connections": 3,
    "bulk_1": 2,
    "neighbours": 2,
}
"""How many times as long as others these last. What the ratios need must not be about its first moments: the first
request on each of 64 connections, with cold caches, is the last hundredth of some thousands."""


@dataclass(frozen=True)
class Plan:
    """`pace` multiplies every time; `bulk` is what iperf3 is told of its length."""

    mode: str
    rounds: int
    measures: tuple[str, ...]
    idle_connections: int = 2000
    seconds: float = 1.0
    pace: float = 1.0
    bulk: tuple[str, str] = ("-t", "1")

    def load_seconds(self, measure: str) -> float:
        """How long one load lasts."""
        return self.seconds * self.pace * LOADS.get(measure, 1)

    def bulk_length(self, streams: int) -> tuple[str, ...]:
        """What iperf3 is told: longer for the one that counts, where it is a time."""
        how, length = self.bulk
        return (how, str(int(length) * LOADS["bulk_1"])) if streams == 1 and how == "-t" else self.bulk

    def head_start(self, connections: int) -> float:
        """How long before it its connections are opened."""
        return HEAD_STARTS[connections] * self.pace


FULL = Plan("full", 5, MEASURES, pace=0.7)
QUICK = Plan("quick", 2, measures_of(list(RATIOS)), idle_connections=500, pace=0.5)
SMOKE = Plan("smoke", 1, MEASURES, idle_connections=50, pace=0.2, bulk=("-n", "20M"))
