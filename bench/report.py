"""The results as JSON and as a table. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.contenders import NO_PROXY, REFERENCE
from bench.figures import BY_KEY, FIGURES, RATIOS
from bench.results import Results
from bench.statistics import NOISY, Summary

SCHEMA = 1
NOISE = "~"
"""Stands behind a figure whose spread is above NOISY."""
NOTHING = "-"
SCALING_TITLES = {
    "factor": "two workers by one, connections/s on two free cores",
    "capacity_1": "one worker, connections/s on one free core",
    "capacity_2": "two workers, connections/s on two free cores",
    "connections_per_cpu_second_1": "one worker, connections per CPU second of the pair",
    "connections_per_cpu_second_2": "two workers, connections per CPU second of the pair",
    "connections_per_s_1": "one worker, connections/s as they came",
    "connections_per_s_2": "two workers, connections/s as they came",
}


def document(results: Results, about: Mapping[str, Any]) -> dict[str, Any]:
    """The object that is written to results/latest.json; `about` says when, where and with what it was measured."""
    ratios = {name: {key: results.ratio(name, key) for key in RATIOS} for name in results.contenders}
    scaling = results.scaling()
    return {
        "schema": SCHEMA,
        **about,
        "rounds": results.rounds,
        "spread": "(largest - smallest) / median over the rounds",
        "noisy_above": NOISY,
        f"ratios_to_{REFERENCE}": {
            name: {key: None if got is None else _short(got.median) for key, got in by_key.items()}
            for name, by_key in ratios.items()
        },
        f"ratios_to_{REFERENCE}_by_round": {
            name: {key: summary_object(got) for key, got in by_key.items() if got is not None}
            for name, by_key in ratios.items()
        },
        "figures": {
            name: {
                figure.key: {"unit": figure.unit} | summary_object(got)
                for figure in FIGURES
                if (got := results.figure(name, figure.key)) is not None
            }
            for name in results.contenders
        },
        "scaling": None if scaling is None else {key: summary_object(got) for key, got in scaling.items()},
        "problems": results.problems,
    }


def summary_object(got: Summary) -> dict[str, Any]:
    """Median, spread, whether it is noisy, and every round's value."""
    return {
        "median": _short(got.median),
        "spread": _short(got.spread),
        "noisy": got.noisy,
        "rounds": [_short(value) for value in got.rounds],
    }


def missing(content: Mapping[str, Any], contenders: Sequence[str]) -> list[str]:
    """The figures and ratios that a whole run must have, and this one has not."""
    lacking = [] if content["scaling"] else ["scaling"]
    reference = content["figures"].get(REFERENCE, {})
    for name in contenders:
        figures, ratios = content["figures"].get(name, {}), content[f"ratios_to_{REFERENCE}"].get(name, {})
        wanted = [figure for figure in FIGURES if name != NO_PROXY or not figure.of_proxies]
        lacking += [f"figures.{name}.{figure.key}" for figure in wanted if figure.key not in figures]
        for figure in wanted:
            # In a smoke run the reference may have used less than a tick, and then nobody has a ratio to it.
            measurable = reference.get(figure.key, {}).get("median") != 0
            if figure.key in RATIOS and measurable and ratios.get(figure.key) is None:
                lacking.append(f"ratios_to_{REFERENCE}.{name}.{figure.key}")
    return lacking


def to_json(content: Mapping[str, Any]) -> str:
    """Indented, with each list of numbers on one line."""
    return _json(content, 0) + "\n"


def _json(value: Any, depth: int) -> str:
    if isinstance(value, dict) and value:
        inner = " " * (depth + 1)
        rows = (f"{inner}{json.dumps(key)}: {_json(each, depth + 1)}" for key, each in value.items())
        return "{\n" + ",\n".join(rows) + "\n" + " " * depth + "}"
    return json.dumps(value, ensure_ascii=False)


def ratio_table(results: Results) -> str:
    """Markdown: the ratios that count."""
    rows = [
        (BY_KEY[key].title, [_ratio_cell(results.ratio(name, key)) for name in results.contenders]) for key in RATIOS
    ]
    return _table(f"ratio to {REFERENCE}, less is better", results.contenders, rows)


def figure_table(results: Results) -> str:
    """Markdown: every figure."""
    rows = [
        (
            f"{figure.title} ({figure.unit})" if figure.unit not in {"bytes", "1/s"} else figure.title,
            [_cell(results.figure(name, figure.key), figure.unit) for name in results.contenders],
        )
        for figure in FIGURES
    ]
    return _table("median", results.contenders, rows)


def scaling_table(results: Results) -> str:
    """Markdown: what a second worker is worth; empty where it was not asked."""
    scaling = results.scaling()
    if scaling is None:
        return ""
    return _table("workers", ("",), [(SCALING_TITLES[key], [_cell(got, "")]) for key, got in scaling.items()])


def page(results: Results, about: Mapping[str, Any]) -> str:
    """All tables, with the machine and the date."""
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        (
            f"{about['started'][:10]}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
            f"{machine['system']}, Linux {machine['kernel']}; {versions}. {results.rounds} rounds, "
            f"{about['seconds']} s ({about['mode']})."
        ),
        ratio_table(results),
        figure_table(results),
        scaling_table(results),
        f"`{NOISE}`: the spread over the rounds, (largest - smallest) / median, is above {NOISY:.0%}.",
        *(f"Problem: {problem}" for problem in results.problems),
    ]
    return "\n".join(f"{part.strip()}\n" for part in parts if part)


def _table(title: str, names: tuple[str, ...], rows: list[tuple[str, list[str]]]) -> str:
    lines = [_row(title, list(names)), "|---|" + "---:|" * len(names)]
    lines += [_row(first, cells) for first, cells in rows if any(cell != NOTHING for cell in cells)]
    return "\n".join(lines) + "\n"


def _row(first: str, cells: list[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def _ratio_cell(got: Summary | None) -> str:
    return NOTHING if got is None else f"{got.median:.2f}{_mark(got)}"


def _cell(got: Summary | None, unit: str) -> str:
    return NOTHING if got is None else f"{shown(got.median, unit)}{_mark(got)}"


def _mark(got: Summary) -> str:
    return NOISE if got.noisy else ""


def shown(value: float, unit: str) -> str:
    """A figure for people: three digits at least, bytes as MB or kB (decimal)."""
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB" if abs(value) >= 1e6 else f"{value / 1e3:.1f} kB"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _short(value: float) -> float | None:
    """Five digits are more than any of this is worth; JSON has no infinity."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
