"""What a full run takes on."""

import pytest

from bench.contenders import CONTENDERS, SCALE
from bench.figures import BY_KEY, RATIOS
from bench.plan import FULL, QUICK, SMOKE, Plan


def test_a_full_run_has_the_rounds_that_a_median_and_a_spread_need() -> None:
    assert FULL.rounds >= 5


@pytest.mark.parametrize("plan", [FULL, QUICK], ids=lambda plan: plan.mode)
def test_every_ratio_that_counts_is_measured(plan: Plan) -> None:
    assert {BY_KEY[key].measure for key in RATIOS} <= set(plan.measures)


def test_everyone_who_is_compared_takes_a_measure_equally_often() -> None:
    compared = [name for name in CONTENDERS if name not in SCALE]

    for measure in FULL.measures:
        assert len({FULL.takes(measure, name) for name in compared}) == 1


def test_the_ends_of_the_scale_take_a_sliced_measure_once() -> None:
    assert FULL.takes("requests_64", "nginx") == 3
    assert [FULL.takes("requests_64", name) for name in SCALE] == [1, 1]


def test_the_cpu_of_a_gigabyte_has_the_longer_time() -> None:
    assert FULL.bulk_length(1) == ("-t", "1")
    assert FULL.bulk_length(2) == FULL.bulk_length(8) == ("-n", "256M")


def test_a_smoke_run_moves_megabytes() -> None:
    assert {SMOKE.bulk_length(streams) for streams in (1, 2, 8)} == {("-n", "20M")}
