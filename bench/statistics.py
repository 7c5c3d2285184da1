"""Medians, spreads, and ratios to the reference. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

NOISY = 0.25
"""A figure whose spread is above this is marked."""


@dataclass(frozen=True)
class Summary:
    """One figure over the rounds. `spread` is (largest - smallest) / median, the whole range and not a part of it."""

    median: float
    spread: float
    rounds: tuple[float, ...]

    @property
    def noisy(self) -> bool:
        """Whether the spread is above NOISY."""
        return self.spread > NOISY


def summary(values: Sequence[float]) -> Summary:
    """Of one value per round. Raises ValueError where there is none."""
    if not values:
        raise ValueError("a figure without a value")
    middle = median(values)
    extent = max(values) - min(values)
    return Summary(middle, extent / abs(middle) if middle else (0.0 if extent == 0 else float("inf")), tuple(values))


def middle(slices: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the slices of a round that have it."""
    keys = {key: None for each in slices for key in each}
    return {key: median(each[key] for each in slices if key in each) for key in keys}


def ratios(values: Mapping[int, float], reference: Mapping[int, float]) -> tuple[float, ...]:
    """Value by reference, for each round that has both: what disturbed a round disturbed both alike."""
    return tuple(values[number] / reference[number] for number in sorted(values) if reference.get(number))
