import pytest

from bench.scaling import Half, Sample, factor, factors


def sample(connections: int, *halves: Half) -> Sample:
    return Sample(connections, 1.0, halves)


ONE = sample(1000, Half(1.0, (0.95,)), Half(1.1, (1.0,)))


def test_one_core_for_the_whole_half_bounds_one_worker() -> None:
    assert Half(1.0, (0.8,)).capacity(1000) == pytest.approx(1000)


def test_the_busiest_worker_bounds_two() -> None:
    assert Half(1.0, (0.7, 0.3)).capacity(1000) == pytest.approx(1000 / 0.7)


def test_two_equal_workers_at_the_same_cost_are_worth_two() -> None:
    assert factor(sample(100, Half(1.0, (1.0,))), sample(100, Half(1.0, (0.5, 0.5)))) == pytest.approx(2.0)


def test_the_half_that_gains_less_decides() -> None:
    two = sample(1000, Half(1.0, (0.5, 0.5)), Half(1.1, (0.9, 0.2)))
    assert factor(ONE, two) == pytest.approx(1.1 / 0.9)
    assert factors([ONE], [two]) == (factor(ONE, two),)


def test_rates_are_by_wall_time_and_by_cpu_time() -> None:
    assert Sample(1000, 2.0, (Half(1.0, (1.0,)), Half(3.0, (3.0,)))).rate == 500
    assert Sample(1000, 2.0, (Half(1.0, (1.0,)), Half(3.0, (3.0,)))).per_cpu_second == 250


def test_nothing_is_said_where_nothing_was_spent() -> None:
    with pytest.raises(ValueError, match="nothing can be said"):
        Half(0.0, (0.0,)).capacity(10)
