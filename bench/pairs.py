"""Two checkouts and the nginx pair side by side, in slices of a second: `python -m bench.pairs ../other` (root).

For single changes. A machine's speed drifts by a third within minutes; three that take turns every second, with all
of their processes up all the while, see the same of it, and the median of the ratios within each round moves by two
hundredths where that of whole turns moves by twenty. The other needs a `.venv` of its own (`make bench-smoke`).
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.lab.stage import Stage
from bench import certificates, load, usage
from bench.contenders import CONTENDERS, REFERENCE
from bench.ground import Address, Ground

HERE = Path(__file__).parent.parent
SLICE_SECONDS = 1.0
HEAD_START_SECONDS = 0.3
CONNECTIONS = 64
ROUNDS = 16
THIS, OTHER = "this", "other"


def of_connection(ground: Ground, address: Address, roots: Sequence[int]) -> float:
    """CPU microseconds of the proxies, per new connection."""
    before = usage.cpu_seconds(roots)
    counted = load.new_connections(ground, address, CONNECTIONS, SLICE_SECONDS)
    return (usage.cpu_seconds(roots) - before) * 1e6 / counted.requests


def of_request(ground: Ground, address: Address, roots: Sequence[int]) -> float:
    """CPU microseconds of the proxies, per request on kept connections."""
    before = 0.0

    def begin() -> None:
        nonlocal before
        before = usage.cpu_seconds(roots)

    counted = load.keep_alive(ground, address, CONNECTIONS, SLICE_SECONDS, HEAD_START_SECONDS, begin=begin)
    return (usage.cpu_seconds(roots) - before) * 1e6 / counted.requests


def of_latency(ground: Ground, address: Address, roots: Sequence[int]) -> float:
    """Microseconds that one connection waits for an answer, in the median."""
    del roots
    return load.keep_alive(ground, address, 1, SLICE_SECONDS, HEAD_START_SECONDS).p50


MEASURES = {
    "connection": ("CPU µs per new connection", of_connection),
    "request": ("CPU µs per request, 64 connections", of_request),
    "latency": ("p50 µs, one connection", of_latency),
}


def serve(contender: str, stage: str, measure: str) -> None:
    """One contender, in a process of its own: a line in, a slice of load, what was measured out."""
    _, measured = MEASURES[measure]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # the peers' workers are other users
        (directory / "certificates").mkdir()
        certificates.write(directory / "certificates", datetime.now(UTC))
        ground = Ground(Stage(stage, prefix=f"{stage}-"), directory / "ground", directory / "certificates")
        proxies = CONTENDERS[contender]()
        try:
            ground.open()
            front = proxies.start(ground)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            for _ in sys.stdin:
                sys.stdout.write(json.dumps(measured(ground, front.http, proxies.roots())) + "\n")
                sys.stdout.flush()
        finally:
            proxies.stop()
            ground.close()


def table(rounds: Mapping[str, Sequence[float]], reference: str) -> str:
    """Medians, and the median of the ratios to the reference within each round."""
    lines = [f"{'':10} {'median':>8} {'least':>8}   ratio to {reference}"]
    for name, spent in rounds.items():
        ratio = statistics.median(own / its for own, its in zip(spent, rounds[reference], strict=True))
        lines.append(f"{name:10} {statistics.median(spent):8.0f} {min(spent):8.0f}   {ratio:.3f}")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Runs it; the exit status."""
    given = argparse.ArgumentParser(prog="python -m bench.pairs", description=(__doc__ or "").partition("\n")[0])
    given.add_argument("other", nargs="?", type=Path, help="another checkout of this project")
    given.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"slices of each, {ROUNDS}")
    given.add_argument("--measure", choices=MEASURES, default="connection", help="what is measured; connection")
    given.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    told = given.parse_args(words)
    if told.serve:
        contender, stage = told.serve
        serve(contender, stage, told.measure)
        return 0
    if told.other is None or not (told.other / ".venv/bin/python").exists():
        given.error("give another checkout that has a .venv, for example: python -m bench.pairs ../other")
    children: dict[str, subprocess.Popen[str]] = {}
    rounds: dict[str, list[float]] = {}
    try:
        for number, (name, tree, contender) in enumerate(
            ((REFERENCE, HERE, REFERENCE), (OTHER, told.other.resolve(), "quietwire"), (THIS, HERE, "quietwire"))
        ):
            rounds[name] = []
            children[name] = subprocess.Popen(
                [
                    *(str(tree / ".venv/bin/python"), "-P", __file__),
                    *("--serve", contender, f"qwpair{number}", "--measure", told.measure),
                ],
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            _answer(name, children[name])
        for number in range(told.rounds + 1):
            for name in random.sample(list(children), len(children)):
                spent = float(_answer(name, children[name], "go\n"))
                if number:  # the first warms up
                    rounds[name].append(spent)
    finally:
        for child in children.values():
            child.communicate()
    what, _ = MEASURES[told.measure]
    sys.stdout.write(f"{what}, {told.rounds} rounds\n{table(rounds, REFERENCE)}\n")
    return 0


def _answer(name: str, child: subprocess.Popen[str], said: str = "") -> str:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("a child without pipes")
    child.stdin.write(said)
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"{name} ended; what it said is above")
    return line


if __name__ == "__main__":
    sys.exit(main())
