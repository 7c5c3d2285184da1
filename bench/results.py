"""What the turns gave, and what follows from it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.contenders import REFERENCE, SCALED, TWO_WORKERS
from bench.scaling import Sample, factors
from bench.statistics import Summary, ratios, summary


@dataclass
class Results:
    """By contender and round (the first is 0): the figures, and the samples of new connections by worker."""

    contenders: tuple[str, ...]
    rounds: int
    taken: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    samples: dict[str, dict[int, Sample]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, contender: str, number: int, figures: Mapping[str, float]) -> None:
        """Keeps one turn's figures."""
        self.taken.setdefault(contender, {})[number] = dict(figures)

    def values(self, contender: str, key: str) -> dict[int, float]:
        """One figure by round."""
        return {number: got[key] for number, got in self.taken.get(contender, {}).items() if key in got}

    def figure(self, contender: str, key: str) -> Summary | None:
        """One figure over the rounds, or None where it was not taken."""
        values = self.values(contender, key)
        return summary(list(values.values())) if values else None

    def ratio(self, contender: str, key: str) -> Summary | None:
        """One figure as a ratio to the reference in the same round, over the rounds; None where one was not taken."""
        by_round = ratios(self.values(contender, key), self.values(REFERENCE, key))
        return summary(by_round) if by_round else None

    def scaling(self) -> dict[str, Summary] | None:
        """What a second worker is worth, or None where it was not asked."""
        ones, twos = self.samples.get(SCALED, {}), self.samples.get(TWO_WORKERS, {})
        numbers = sorted(ones.keys() & twos.keys())
        if not numbers:
            return None
        one, two = [ones[number] for number in numbers], [twos[number] for number in numbers]
        return {
            "factor": summary(factors(one, two)),
            "connections_per_cpu_second_1": summary([sample.per_cpu_second for sample in one]),
            "connections_per_cpu_second_2": summary([sample.per_cpu_second for sample in two]),
            "capacity_1": summary([_capacity(sample) for sample in one]),
            "capacity_2": summary([_capacity(sample) for sample in two]),
            "connections_per_s_1": summary([sample.rate for sample in one]),
            "connections_per_s_2": summary([sample.rate for sample in two]),
        }


def _capacity(sample: Sample) -> float:
    return min(half.capacity(sample.connections) for half in sample.halves)
