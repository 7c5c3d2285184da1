"""How much a run takes on."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.figures import MEASURES, RATIOS, measures_of

MEMORY, SCALING = "memory", "scaling"

HEAD_STARTS: Mapping[int, float] = {1: 0.1, 64: 0.5, 512: 1.2}
"""Seconds in which so many connections are opened before the first request is sent."""


@dataclass(frozen=True)
class Plan:
    """`pace` multiplies every time; `bulk` is what iperf3 is told of its length.

    `repeats` is how often a round takes the measures that the ratios need; the others it takes once.
    """

    mode: str
    rounds: int
    measures: tuple[str, ...]
    idle_connections: int = 2000
    seconds: float = 1.0
    pace: float = 1.0
    bulk: tuple[str, ...] = ("-t", "1")
    repeats: int = 1

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        """What a round takes, in order: everything, and then what counts once more. Memory has only one first time."""
        again = tuple(
            measure for measure in self.measures if measure in measures_of(list(RATIOS)) and measure != MEMORY
        )
        return (self.measures, *(again for _ in range(self.repeats - 1) if again))

    @property
    def load_seconds(self) -> float:
        """How long one load lasts."""
        return self.seconds * self.pace

    def head_start(self, connections: int) -> float:
        """How long before it its connections are opened."""
        return HEAD_STARTS[connections] * self.pace


FULL = Plan("full", 5, MEASURES, pace=0.85, repeats=2)
QUICK = Plan("quick", 2, measures_of(list(RATIOS)), idle_connections=500)
SMOKE = Plan("smoke", 1, MEASURES, idle_connections=50, pace=0.2, bulk=("-n", "20M"))
