import json
from typing import Any

import pytest

from bench import report
from bench.contenders import CONTENDERS, REFERENCE, SCALED, TWO_WORKERS
from bench.figures import BY_KEY, FIGURES, MEASURES, RATIOS, measures_of
from bench.plan import FULL, QUICK, SMOKE
from bench.results import Results
from bench.scaling import Half, Sample

ABOUT: dict[str, Any] = {
    "mode": "full",
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 600,
    "machine": {
        "processor": "a processor",
        "cores": 2,
        "memory_gb": 8,
        "kernel": "6.1",
        "system": "a system",
        "versions": {"nginx": "1.22.1"},
    },
}


@pytest.fixture
def results() -> Results:
    """Two rounds; a contender's figure is its place, times the round's own disturbance."""
    made = Results(tuple(CONTENDERS), 2)
    for place, name in enumerate(CONTENDERS, 1):
        for number, disturbance in enumerate((1.0, 1.5)):
            made.add(
                name,
                number,
                {
                    figure.key: 1000.0 * place * disturbance
                    for figure in FIGURES
                    if name != "direct" or not figure.of_proxies
                },
            )
    for name, workers in ((SCALED, (1.0,)), (TWO_WORKERS, (0.5, 0.5))):
        made.samples[name] = {number: Sample(100, 1.0, (Half(1.0, workers),) * 2) for number in range(2)}
    return made


def test_a_disturbance_of_a_whole_round_is_not_in_the_ratios(results: Results) -> None:
    ratio = results.ratio("quietwire", "cpu_us_per_request")
    figure = results.figure("quietwire", "cpu_us_per_request")
    assert ratio is not None
    assert figure is not None
    assert ratio.median == pytest.approx(2.0)
    assert ratio.spread == pytest.approx(0.0)
    assert figure.noisy


def test_the_document_has_every_ratio_for_quietwire_and_every_peer(results: Results) -> None:
    content = json.loads(report.to_json(report.document(results, ABOUT)))
    for name in ("quietwire", "nginx", "haproxy", "stunnel", "bare"):
        assert set(content["ratios_to_nginx"][name]) == set(RATIOS)
        assert all(isinstance(value, float) for value in content["ratios_to_nginx"][name].values())
    assert content["ratios_to_nginx"][REFERENCE] == dict.fromkeys(RATIOS, 1.0)
    assert content["ratios_to_nginx"]["direct"]["cpu_s_per_gb"] is None
    assert content["scaling"]["factor"]["median"] == 2.0
    assert content["figures"]["nginx"]["p50_1"]["noisy"] is True
    assert report.missing(content, list(CONTENDERS)) == []


def test_a_spread_without_bound_is_null_in_the_json() -> None:
    results = Results(("bare",), 2)
    results.add("bare", 0, {"memory_per_idle_connection": -1.0})
    results.add("bare", 1, {"memory_per_idle_connection": 1.0})
    content = json.loads(report.to_json(report.document(results, ABOUT)))
    assert content["figures"]["bare"]["memory_per_idle_connection"]["spread"] is None
    assert content["figures"]["bare"]["memory_per_idle_connection"]["noisy"] is True


def test_what_is_missing_is_named(results: Results) -> None:
    del results.taken["stunnel"][0]["p50_1"], results.taken["stunnel"][1]["p50_1"]
    results.samples.clear()
    content = report.document(results, ABOUT)
    assert set(report.missing(content, list(CONTENDERS))) == {
        "scaling",
        "figures.stunnel.p50_1",
        "ratios_to_nginx.stunnel.p50_1",
    }


def test_the_page_marks_what_is_noisy_and_says_where_and_when(results: Results) -> None:
    results.problems.append("round 1, bare: a problem")
    page = report.page(results, ABOUT)
    assert "2026-01-02, a processor, 2 cores, 8 GB" in page
    assert "| CPU per request | - | 0.67 | 1.00 | 1.33 | 1.67 | 2.00 |" in page
    assert "7 500~" in page
    assert "Problem: round 1, bare: a problem" in page


def test_a_run_without_the_reference_has_figures_and_no_ratios() -> None:
    results = Results(("quietwire",), 1)
    results.add("quietwire", 0, {"p50_1": 100.0})
    assert results.ratio("quietwire", "p50_1") is None
    assert results.scaling() is None
    assert report.document(results, ABOUT)["figures"]["quietwire"]["p50_1"]["median"] == 100.0
    assert "| latency p50, 1 connection (µs) | 100 |" in report.page(results, ABOUT)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234567.0, "1/s", "1 234 567"),
        (12.345, "µs", "12.3"),
        (0.5, "s", "0.5"),
        (2_500_000, "bytes", "2.5 MB"),
        (70_100, "bytes", "70.1 kB"),
        (-400, "bytes", "-0.4 kB"),
    ],
)
def test_figures_as_people_read_them(value: float, unit: str, text: str) -> None:
    assert report.shown(value, unit) == text


def test_measures_are_named_by_themselves_or_by_their_figures() -> None:
    assert measures_of(["cpu_us_per_connection", "requests_1"]) == ("requests_1", "connections")
    with pytest.raises(ValueError, match="neither a measure"):
        measures_of(["nonsense"])


def test_every_figure_belongs_to_a_measure_and_every_ratio_to_a_figure() -> None:
    assert len(BY_KEY) == len(FIGURES)
    assert {figure.measure for figure in FIGURES} | {"scaling"} == set(MEASURES)
    assert set(RATIOS) <= set(BY_KEY)
    assert FULL.rounds >= 5
    assert FULL.idle_connections == 2000
    assert SMOKE.measures == FULL.measures == MEASURES
    assert measures_of(list(RATIOS)) == QUICK.measures
