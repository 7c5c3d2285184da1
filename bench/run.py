"""A whole run: rounds of turns, one contender after the other on fresh ground."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.cli.demo.mesh import MeshError
from agent.cli.demo.stage import Stage, StageError
from bench.contenders import CONTENDERS, SCALED, TWO_WORKERS, two_workers
from bench.contenders.contender import Contender
from bench.ground import Ground
from bench.measures import Turn, take
from bench.plan import Plan
from bench.process import ProcessError
from bench.results import Results
from bench.schedule import left, order, spoken

STAGE = "qwbench"
NETWORK_4, NETWORK_6 = "10.78.0.0/24", "fd78::/64"
SCALING = "scaling"


class TurnError(Exception):
    """A turn could not be finished; `str` says whose, and why."""


def run(plan: Plan, names: Sequence[str], directory: Path, certificates: Path, say: Callable[[str], None]) -> Results:
    """All rounds. Raises TurnError; KeyboardInterrupt passes; the ground is cleared either way."""
    results = Results(tuple(names), plan.rounds)
    scaled = SCALING in plan.measures and SCALED in names
    everyone = [*names, *([TWO_WORKERS] if scaled else [])]
    begun, done, total = time.monotonic(), 0, plan.rounds * len(everyone)
    for number in range(plan.rounds):
        for name in order(everyone, number):
            remaining = left(done, total, time.monotonic() - begun)
            say(
                f"round {number + 1} of {plan.rounds}, {name}, turn {done + 1} of {total}"
                + (f", about {spoken(remaining)} left" if done else "")
            )
            measures = [measure for measure in plan.measures if measure != SCALING or (scaled and name == SCALED)]
            if name == TWO_WORKERS:
                turn = _turn(plan, name, two_workers(), [SCALING], directory / f"{number}-{name}", certificates)
            else:
                turn = _turn(plan, name, CONTENDERS[name](), measures, directory / f"{number}-{name}", certificates)
                results.add(name, number, turn.figures)
            if turn.sample is not None:
                results.samples.setdefault(name, {})[number] = turn.sample
            results.problems += [f"round {number + 1}, {name}: {problem}" for problem in turn.problems]
            done += 1
    return results


def _turn(
    plan: Plan, name: str, contender: Contender, measures: Sequence[str], directory: Path, certificates: Path
) -> Turn:
    ground = Ground(Stage(STAGE, prefix=f"{STAGE}-", ipv4=NETWORK_4, ipv6=NETWORK_6), directory, certificates)
    try:
        ground.open()
        turn = Turn(ground, contender, contender.start(ground), plan)
        take(turn, measures)
    except (StageError, MeshError, ProcessError) as error:
        raise TurnError(f"{name}: {error}") from error
    else:
        return turn
    finally:
        contender.stop()
        ground.close()
