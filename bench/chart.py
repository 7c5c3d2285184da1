"""The ratios to the reference as a picture; the only part that needs matplotlib (the extra `bench`)."""

from collections.abc import Mapping
from pathlib import Path

from bench.contenders import REFERENCE
from bench.figures import BY_KEY, RATIOS
from bench.results import Results

COLOURS = {
    "quietwire": "#1b6ca8",
    "nginx": "#4c9f70",
    "haproxy": "#e0a030",
    "stunnel": "#a05195",
    "bare": "#8fb8d8",
    "direct": "#b0b0b0",
}
BAR = 0.8
INCHES = (11.0, 7.0)
ROOM = 1.4
"""The axis ends at so many times the largest median: one round that was slowed down must not hide the others."""


def draw(results: Results, about: Mapping[str, object], paths: list[Path]) -> None:
    """Writes the chart to each path, in the format of its suffix. Raises ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra: the bench runs without a chart too

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    with mpl.rc_context({"svg.hashsalt": "quietwire", "font.size": 10}):
        figure, axes = plt.subplots(figsize=INCHES, layout="constrained")
        keys = [key for key in RATIOS if any(results.ratio(name, key) for name in results.contenders)]
        medians = [got.median for key in keys for name in results.contenders if (got := results.ratio(name, key))]
        end = ROOM * max(medians, default=1.0)
        height = BAR / max(len(results.contenders), 1)
        for place, name in enumerate(results.contenders):
            for row, key in enumerate(keys):
                got = results.ratio(name, key)
                if got is None:
                    continue
                slowest = max(got.rounds)
                middle = row - BAR / 2 + (place + 0.5) * height
                axes.barh(
                    middle,
                    got.median,
                    height * 0.9,
                    color=COLOURS.get(name, "#555555"),
                    hatch="//" if got.noisy else None,
                    edgecolor="white",
                    xerr=[[got.median - min(got.rounds)], [min(slowest, end) - got.median]],
                    error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
                )
                axes.annotate(
                    f"{got.median:.2f}" + (f" (to {slowest:.1f})" if slowest > end else ""),
                    (min(slowest, end), middle),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    size=8,
                )
        axes.axvline(1.0, color="#333333", linewidth=1)
        axes.set_yticks(range(len(keys)), [BY_KEY[key].title for key in keys])
        axes.set_xlabel(f"ratio to {REFERENCE}, less is better (bars: median, lines: all rounds, hatched: noisy)")
        axes.set_title(f"Quietwire and its peers, {about.get('caption', '')}".rstrip(", "))
        for name in results.contenders:
            axes.barh(0, 0, color=COLOURS.get(name, "#555555"), label=name)
        figure.legend(loc="outside lower center", ncols=len(results.contenders), frameon=False)
        axes.set_ylim(len(keys) - 0.5, -0.5)
        axes.set_xlim(0, end * 1.08)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for path in paths:
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
