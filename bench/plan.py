"""How much a run takes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.contenders import SCALE
from bench.figures import MEASURES, RATIOS, measures_of

MEMORY, SCALING = "memory", "scaling"

HEAD_STARTS: Mapping[int, float] = {1: 0.1, 64: 0.5, 512: 1.2}
"""Seconds in which so many connections are opened before the first request is sent."""

LOADS: Mapping[str, float] = {
    "requests_1": 0.7,
    "requests_64": 0.8,
    "half_load": 1.2,
    "connections": 1.5,
    "neighbours": 1.2,
}
"""How many times as long as others these last. What counts must not be about its first and last moments: the first
request on each of 64 connections, with cold caches, is the last hundredth of some thousands; 64 new connections are
begun and not counted when the time is over."""

SLICES: Mapping[str, int] = {"requests_1": 3, "requests_64": 3, "half_load": 2, "connections": 3}
"""How often everyone takes these in a round, one after the other; the median is the round's figure. A machine that is
shared changes its speed from one second to the next. Who only gives the scale takes them once."""

SECONDS, BRIEF, MEGABYTES = ("-t", "1"), ("-n", "256M"), ("-n", "20M")
"""What iperf3 is told of its length, whose least time is a second."""


@dataclass(frozen=True)
class Plan:
    """`pace` multiplies every time."""

    mode: str
    rounds: int
    measures: tuple[str, ...]
    idle_connections: int = 2000
    seconds: float = 1.0
    pace: float = 1.0
    bulk: tuple[str, ...] = SECONDS
    bulk_of_many: tuple[str, ...] = SECONDS
    slices: Mapping[str, int] = field(default_factory=lambda: SLICES)

    def takes(self, measure: str, contender: str) -> int:
        """How often a contender takes it in a round."""
        return 1 if contender in SCALE else self.slices.get(measure, 1)

    def bulk_length(self, streams: int) -> tuple[str, ...]:
        """What iperf3 is told: the CPU per GB, which one stream gives, counts and has the longer time."""
        return self.bulk if streams == 1 else self.bulk_of_many

    def load_seconds(self, measure: str) -> float:
        """How long one load lasts."""
        return self.seconds * self.pace * LOADS.get(measure, 1)

    def head_start(self, connections: int) -> float:
        """How long before it its connections are opened."""
        return HEAD_STARTS[connections] * self.pace


FULL = Plan("full", 5, MEASURES, pace=0.6, bulk_of_many=BRIEF)
QUICK = Plan("quick", 2, measures_of(list(RATIOS)), idle_connections=500, pace=0.5, slices={})
SMOKE = Plan("smoke", 1, MEASURES, idle_connections=50, pace=0.2, bulk=MEGABYTES, bulk_of_many=MEGABYTES, slices={})
