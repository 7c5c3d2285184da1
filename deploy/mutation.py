"""Mutates one package in a copy of this checkout, runs its tests against each mutant, and lists what no test notices.

As in `mutation.py agent/policy 900 tests/policy`; without tests, those that mirror the package. It is bounded in time:
what was not tried by then is counted, and tried the next time; `--only` says what is tried first. Only Python is
mutated; tests that need root are left out, so that what only scenarios notice is listed as well.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / ".cache" / "mutation"
"""One for each package: what mutmut knows of one is nothing that it may know of another."""
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "mutants", "*.egg-info", "dist")
CONFIG = """
[tool.mutmut]
source_paths = ["agent", "init"]
only_mutate = ["{package}/*"]
also_copy = ["docs", "deploy", "bench", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "Makefile"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not netns"]
pytest_add_cli_args_test_selection = [{tests}]
use_git_change_detection = false
"""


def copied(copy: Path, package: str, tests: list[str], *, fresh: bool) -> None:
    """Brings the copy up to date, and keeps what is known of mutants unless a fresh start is wanted."""
    if fresh:
        shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT, dirs_exist_ok=True)
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(CONFIG.format(package=package, tests=", ".join(f'"{each}"' for each in tests)))


def run(copy: Path, command: list[str], out: IO[bytes], seconds: float) -> int:
    """Runs it in the copy with all that it starts, and ends all of that when time is up. The status; 0 then."""
    process = subprocess.Popen(["nice", *command], cwd=copy, stdout=out, stderr=out, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Runs it; 0 when it ran, 1 when the tests of the package do not pass as they are, 2 for usage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("package", help="a directory of Python, as agent/policy")
    parser.add_argument("seconds", nargs="?", type=float, default=900.0, help="bound on the run (default 900)")
    parser.add_argument("tests", nargs="*", help="tests to try mutants with")
    parser.add_argument(
        "--only", action="append", default=[], help="mutants to try, as agent.policy.index.*; again for more"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    given = parser.parse_args()
    package = given.package.strip("/")
    tests = given.tests or [f"tests/{package.removeprefix('agent/')}"]
    for path in (package, *tests):
        if not (ROOT / path).exists():
            parser.error(f"there is no {path} in {ROOT}")
    copy = COPIES / package.replace("/", "-")
    copied(copy, package, tests, fresh=given.fresh)
    mutmut = str(Path(sys.executable).with_name("mutmut"))
    log = copy / "run.log"
    with log.open("wb") as out:
        ran = run(copy, [mutmut, "run", *given.only], out, given.seconds)
    said = subprocess.run(
        [mutmut, "results", "--all", "true"], cwd=copy, stdout=subprocess.PIPE, text=True, check=False
    ).stdout
    found = [line.strip().partition(": ")[::2] for line in said.splitlines() if ": " in line]
    for name, verdict in found:
        if verdict == "survived":
            print(name)
    counted = Counter(verdict for _, verdict in found)
    print(", ".join(f"{count} {verdict}" for verdict, count in counted.most_common()) or "no mutant was tried")
    print(f"what a mutant is: cd {copy} && {mutmut} show NAME; the run's own words: {log}")
    if not counted or (ran and not counted["killed"]):
        sys.stderr.write(f"the tests do not pass as they are, or nothing could be mutated: see {log}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
