"""`python -m bench`: measures all contenders in one run, and writes what it found."""

import argparse
import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from agent.lab.stage import RUN
from bench import certificates, chart, machine, report
from bench.contenders import CONTENDERS
from bench.figures import MEASURES, measures_of
from bench.plan import FULL, QUICK, SMOKE, Plan
from bench.process import allow_many_files
from bench.results import Results
from bench.run import STAGE, TurnError, run

RESULTS = Path(__file__).parent / "results"
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXAMPLE = f"""\
examples:
  python -m bench            everything, five rounds, about ten minutes; writes {RESULTS.name}/latest.*
  python -m bench --quick    the ratios that count, two rounds, about two minutes; writes {RESULTS.name}/quick.*
  python -m bench --contenders quietwire,nginx --measures cpu_us_per_connection --rounds 3
                             a part of it, which is printed and not kept; nginx is what the others are compared with
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures Quietwire and its peers side by side, in network namespaces of its own (root).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = made.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const=QUICK, dest="plan", help="about two minutes")
    size.add_argument(
        "--smoke", action="store_const", const=SMOKE, dest="plan", help="only see that everything works, in a minute"
    )
    made.set_defaults(plan=FULL)
    made.add_argument("--contenders", metavar="A,B", help=f"some of {','.join(CONTENDERS)}")
    made.add_argument("--measures", metavar="A,B", help=f"some of {','.join(MEASURES)}; or names of figures")
    made.add_argument("--rounds", type=int, metavar="N", help="how often everyone takes part")
    made.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    made.add_argument("--out", type=Path, metavar="DIR", help="where JSON, tables and chart are written")
    return made


def main(words: list[str] | None = None) -> int:
    """Runs it; the exit status."""
    given = parser()
    told = given.parse_args(words)
    plan: Plan = told.plan
    names = list(CONTENDERS) if told.contenders is None else told.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        given.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    try:
        measures = plan.measures if told.measures is None else measures_of(told.measures.split(","))
    except ValueError as error:
        given.error(str(error))
    if told.rounds is not None and told.rounds < 1:
        given.error("--rounds must be at least 1")
    whole = told.contenders is told.measures is told.rounds is None
    plan = dataclasses.replace(plan, measures=measures, rounds=told.rounds or plan.rounds)
    if os.geteuid() != 0:
        sys.stderr.write("bench makes network namespaces: run it as root, for example sudo make bench\n")
        return EXIT_USAGE
    # Set for SIGINT too: a shell that runs this in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    allow_many_files()
    directory = Path(tempfile.mkdtemp(prefix="quietwire-bench-"))
    directory.chmod(0o755)  # nginx's worker is another user
    try:
        with _alone():
            results, about = _measure(plan, names, directory)
        content = report.document(results, about)
        sys.stdout.write(report.to_json(content) if told.json else report.page(results, about))
        out: Path | None = told.out or (RESULTS if whole and plan.mode != SMOKE.mode else None)
        if plan.mode == SMOKE.mode:
            out = out or directory
        if out is not None:
            _write(out, "latest" if plan.mode == FULL.mode else plan.mode, results, about)
        if whole and plan.measures == MEASURES and (lacking := report.missing(content, names)):
            sys.stderr.write(f"bench: these figures are missing: {', '.join(lacking)}\n")
            return EXIT_FAILED
    except TurnError as error:
        sys.stderr.write(f"bench: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: interrupted; everything is taken down\n")
        return EXIT_INTERRUPTED
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _measure(plan: Plan, names: list[str], directory: Path) -> tuple[Results, dict[str, Any]]:
    started, began = datetime.now(UTC), time.monotonic()
    certificates.write(directory / "certificates", started)
    results = run(plan, names, directory, directory / "certificates", _say)
    described = machine.describe()
    return results, {
        "mode": plan.mode,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "caption": f"{described['processor']}, {described['cores']} cores, {started.date()}",
        "machine": described,
    }


def _write(out: Path, name: str, results: Results, about: Mapping[str, Any]) -> None:
    """Writes NAME.json, NAME.md, NAME.png and NAME.svg."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(report.to_json(report.document(results, about)), encoding="utf-8")
    (out / f"{name}.md").write_text(report.page(results, about), encoding="utf-8")
    try:
        chart.draw(results, about, [out / f"{name}.png", out / f"{name}.svg"])
    except ImportError as error:
        _say(f"no chart: {error}; `make bench` installs what it needs")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One bench at a time: two would measure each other, and have namespaces of the same names."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / f"{STAGE}.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another bench is running: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # A second ^C must not leave half of it behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
