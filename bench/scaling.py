"""What a second worker is worth, on a machine whose cores the load generator shares. Pure.

On two cores, the load generator, the backend and both halves of the pair take from one another what a second worker
could use, so connections per second as they come say little. What is asked instead: how many connections per second
could one half accept, had it as many free cores as workers? Two things bound it. A worker has one core at most, so the
busiest one, at its CPU per connection of the whole half, sets the pace; and all the half's processes together, its
supervisor included, have no more than those cores. Both are ratios of CPU time to connections, from which the load
generator's cost has been taken out by not counting it. An uneven spread over the workers, and every cost that a second
worker adds to a connection, are in the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Half:
    """CPU seconds that one half of the pair spent: in all, and by worker."""

    total: float
    workers: tuple[float, ...]

    def capacity(self, connections: int) -> float:
        """Connections per second on as many free cores as it has workers. Raises ValueError where nothing was spent."""
        busiest = max(self.workers, default=0.0)
        if busiest <= 0 or connections <= 0:
            raise ValueError("no connections, or no CPU time: nothing can be said about the capacity")
        return min(connections / busiest, len(self.workers) * connections / self.total)


@dataclass(frozen=True)
class Sample:
    """New connections under one count of workers. `seconds` is wall time; the client's half comes first."""

    connections: int
    seconds: float
    halves: tuple[Half, ...]

    @property
    def rate(self) -> float:
        """Connections per second as they came, everything sharing the cores."""
        return self.connections / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Connections per CPU second of the whole pair."""
        return self.connections / sum(half.total for half in self.halves)


def factor(one: Sample, two: Sample) -> float:
    """Two workers' capacity by one worker's, of the half that gains less. Raises ValueError."""
    return min(
        after.capacity(two.connections) / before.capacity(one.connections)
        for before, after in zip(one.halves, two.halves, strict=True)
    )


def factors(ones: Sequence[Sample], twos: Sequence[Sample]) -> tuple[float, ...]:
    """By round."""
    return tuple(factor(one, two) for one, two in zip(ones, twos, strict=True))
