import math

import pytest

from bench.statistics import middle, ratios, summary


def test_the_spread_is_the_whole_range_by_the_median() -> None:
    got = summary([10.0, 12.0, 11.0, 9.0, 10.0])
    assert got.median == 10.0
    assert got.spread == pytest.approx(0.3)
    assert got.noisy
    assert got.rounds == (10.0, 12.0, 11.0, 9.0, 10.0)


def test_a_quarter_is_not_yet_noisy() -> None:
    assert not summary([10.0, 12.5, 10.0]).noisy


def test_one_round_has_no_spread() -> None:
    assert summary([7.0]).spread == 0.0


def test_a_median_of_zero_is_noisy_unless_everything_is_zero() -> None:
    assert summary([-1.0, 0.0, 1.0]).spread == math.inf
    assert summary([0.0, 0.0]).spread == 0.0


def test_the_spread_of_negative_figures_is_positive() -> None:
    assert summary([-10.0, -12.0, -11.0]).spread == pytest.approx(2 / 11)


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="without a value"):
        summary([])


def test_ratios_are_within_a_round_and_leave_out_rounds_that_lack_one() -> None:
    assert ratios({0: 10.0, 1: 30.0, 3: 5.0}, {0: 5.0, 1: 10.0, 2: 1.0}) == (2.0, 3.0)


def test_a_reference_of_zero_gives_no_ratio() -> None:
    assert ratios({0: 10.0, 1: 10.0}, {0: 0.0, 1: 5.0}) == (2.0,)


def test_a_rounds_figure_is_the_median_of_its_slices() -> None:
    assert middle([{"p50_1": 3.0, "rps_1": 9.0}, {"p50_1": 1.0}, {"p50_1": 100.0}]) == {"p50_1": 3.0, "rps_1": 9.0}
