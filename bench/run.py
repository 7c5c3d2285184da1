"""A whole run: rounds in which all contenders are up, each on ground of its own, and take each measure in turn."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.lab.mesh import MeshError
from agent.lab.stage import Stage, StageError
from bench import measures
from bench.contenders import CONTENDERS, SCALED, TWO_WORKERS, two_workers
from bench.ground import Ground
from bench.measures import Turn
from bench.plan import MEMORY, SCALING, Plan
from bench.process import ProcessError
from bench.results import Results
from bench.schedule import left, order, spoken
from bench.statistics import middle

STAGE = "qwbench"
NETWORK_4, NETWORK_6 = "10.78.0.0/24", "fd78::/64"
FAILURES = (StageError, MeshError, ProcessError)


class TurnError(Exception):
    """A measure could not be taken; `str` says whose, and why."""


def run(plan: Plan, names: Sequence[str], directory: Path, certificates: Path, say: Callable[[str], None]) -> Results:
    """All rounds. Raises TurnError; KeyboardInterrupt passes; the grounds are cleared either way."""
    results = Results(tuple(names), plan.rounds)
    begun, done, total = time.monotonic(), 0, plan.rounds * (1 + len(plan.measures))

    def step(number: int, what: str) -> None:
        nonlocal done
        remaining = f", about {spoken(left(done, total, time.monotonic() - begun))} left" if done else ""
        done += 1
        say(f"round {number + 1} of {plan.rounds}, {what}, step {done} of {total}{remaining}")

    for number in range(plan.rounds):
        _round(plan, number, directory, certificates, results, step)
    return results


def _round(
    plan: Plan, number: int, directory: Path, certificates: Path, results: Results, step: Callable[[int, str], None]
) -> None:
    """One measure after the other, each by all: what disturbs the machine for some seconds disturbs them alike."""
    turns: dict[str, Turn] = {}
    scaled = SCALING in plan.measures and SCALED in results.contenders
    try:
        step(number, "everyone starts")
        for place, name in enumerate((*results.contenders, *([TWO_WORKERS] if scaled else []))):
            turns[name] = _started(name, plan, place, directory / f"{number}-{name}", certificates)
        for place, measure in enumerate(plan.measures):
            step(number, measure)
            taking = [name for name in turns if _takes(name, measure)]
            slices: dict[str, list[dict[str, float]]] = {name: [] for name in taking}
            for again in range(plan.slices.get(measure, 1)):
                due = [name for name in taking if plan.takes(measure, name) > again]
                for name in order(due, number + place + again):
                    slices[name].append(_slice(name, turns[name], measure))
            for name in taking:
                turns[name].figures |= middle(slices[name])
        for name, turn in turns.items():
            if MEMORY in plan.measures:
                measures.memory_after_storm(turn)
            if name != TWO_WORKERS:
                results.add(name, number, turn.figures)
            if turn.sample is not None:
                results.samples.setdefault(name, {})[number] = turn.sample
    finally:
        for turn in turns.values():
            turn.contender.stop()
            turn.ground.close()
    for name, turn in turns.items():
        results.problems += [f"round {number + 1}, {name}: {problem}" for problem in turn.problems]


def _takes(name: str, measure: str) -> bool:
    if name == TWO_WORKERS:  # which is to be as warm as the one that it is compared with
        return measure in ("connections", SCALING)
    return measure != SCALING or name == SCALED


def _started(name: str, plan: Plan, place: int, directory: Path, certificates: Path) -> Turn:
    ground = Ground(
        Stage(f"{STAGE}{place}", prefix=f"{STAGE}{place}-", ipv4=NETWORK_4, ipv6=NETWORK_6), directory, certificates
    )
    contender = two_workers() if name == TWO_WORKERS else CONTENDERS[name]()
    try:
        ground.open()
        turn = Turn(ground, contender, contender.start(ground), plan)
        if MEMORY not in plan.measures:
            measures.warm_up(turn)
    except BaseException as error:
        contender.stop()
        ground.close()
        if isinstance(error, FAILURES):
            raise TurnError(f"{name}: {error}") from error
        raise
    return turn


def _slice(name: str, turn: Turn, measure: str) -> dict[str, float]:
    """Takes a measure once; what it gave."""
    before = turn.figures
    turn.figures = dict(before)
    try:
        measures.take(turn, measure)
    except FAILURES as error:
        raise TurnError(f"{name}, {measure}: {error}") from error
    taken, turn.figures = turn.figures, before
    return {key: value for key, value in taken.items() if key not in before}
