"""What a contender does in a round, and the figures that come of it."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench import load, usage
from bench.contenders.contender import Contender, Front
from bench.ground import Ground
from bench.plan import Plan
from bench.scaling import Half, Sample

MICRO = 1e6
GIGA = 1e9
WARM_UP_CONNECTIONS = 64
NEIGHBOURS = 512
HALF = 0.5
LENGTHENED = (1.0, 4.0, 16.0)
"""How much longer a load lasts, each time that nothing was answered."""
SETTLE_SECONDS = 3.0
SETTLE_STEP = 0.06
SETTLED = 0.2
"""The part of one core's time, below which proxies count as idle: one tick in SETTLE_STEP is not."""


@dataclass
class Turn:
    """One contender on its ground in one round, and what it gave so far."""

    ground: Ground
    contender: Contender
    front: Front
    plan: Plan
    figures: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sample: Sample | None = None
    """Of Quietwire only: who spent what on new connections."""

    @property
    def proxied(self) -> bool:
        """Whether there are proxies whose CPU and memory can be asked for."""
        return bool(self.contender.roots())

    def cpu(self) -> float:
        """CPU seconds of the proxies so far."""
        return usage.cpu_seconds(self.contender.roots())

    def check(self, what: str, counted: load.Requests) -> None:
        """Notes errors that the load generator met."""
        if counted.errors:
            self.problems.append(f"{what}: {counted.errors} errors beside {counted.requests} requests")


def answered(turn: Turn, what: str, load_once: Callable[[float], load.Requests]) -> load.Requests:
    """Applies a load; again, and longer, where nothing was answered in time (a machine that is busy elsewhere)."""
    for lengthened in LENGTHENED:
        counted = load_once(turn.plan.load_seconds(what) * lengthened)
        if counted.requests:
            break
        turn.problems.append(f"{what}: no request was answered in {counted.seconds:.1f} s")
    turn.check(what, counted)
    return counted


def take(turn: Turn, measure: str) -> None:
    """Takes one measure, and waits until the proxies have done with it. Raises ProcessError."""
    _MEASURES[measure](turn)
    settle(turn)


def warm_up(turn: Turn) -> None:
    """Where no memory is measured, which would see it."""
    with load.idle(turn.ground, turn.front.http, WARM_UP_CONNECTIONS):
        pass


def memory_after_storm(turn: Turn) -> None:
    """At the end of a round."""
    if turn.proxied:
        turn.figures["memory_after_storm"] = float(usage.memory_bytes(turn.contender.roots()))


def settle(turn: Turn) -> None:
    """Waits until the proxies have done with their connections, or for SETTLE_SECONDS."""
    deadline = time.monotonic() + SETTLE_SECONDS
    spent = turn.cpu()
    while turn.proxied and time.monotonic() < deadline:
        time.sleep(SETTLE_STEP)
        before, spent = spent, turn.cpu()
        if spent - before < SETTLED * SETTLE_STEP:
            return


def memory(turn: Turn) -> None:
    """Idle, after the first request; and with connections that do nothing."""
    count = turn.plan.idle_connections
    with load.idle(turn.ground, turn.front.http, 1):
        pass
    before = usage.memory_bytes(turn.contender.roots())
    with load.idle(turn.ground, turn.front.http, count):
        after = usage.memory_bytes(turn.contender.roots())
    if turn.proxied:
        turn.figures["memory_idle"] = float(before)
        turn.figures["memory_per_idle_connection"] = (after - before) / count


def requests(connections: int) -> Callable[[Turn], None]:
    """Keep-alive requests as fast as they are answered."""

    def measure(turn: Turn) -> None:
        before = 0.0

        def begin() -> None:
            nonlocal before
            before = turn.cpu()

        def once(seconds: float) -> load.Requests:
            head_start = turn.plan.head_start(connections)
            return load.keep_alive(turn.ground, turn.front.http, connections, seconds, head_start, begin=begin)

        counted = answered(turn, f"requests_{connections}", once)
        spent = turn.cpu() - before
        turn.figures |= {
            f"rps_{connections}": counted.rate,
            f"p50_{connections}": counted.p50,
            f"p99_{connections}": counted.p99,
            f"p999_{connections}": counted.p999,
        }
        if connections == 64 and turn.proxied:
            turn.figures["cpu_us_per_request"] = spent * MICRO / counted.requests

    return measure


def half_load(turn: Turn) -> None:
    """Half of what this contender has just reached with 64 connections."""
    if "rps_64" not in turn.figures:
        requests(64)(turn)
    offered = max(turn.figures["rps_64"] * HALF, 1.0)

    def once(seconds: float) -> load.Requests:
        head_start = turn.plan.head_start(64)
        return load.keep_alive(turn.ground, turn.front.http, 64, seconds, head_start, rate=offered)

    counted = answered(turn, "half_load", once)
    turn.figures |= {
        "offered_64_half_load": offered,
        "rps_64_half_load": counted.rate,
        "p50_64_half_load": counted.p50,
        "p99_64_half_load": counted.p99,
    }


def connections(turn: Turn) -> None:
    """A new connection for every request, 64 at a time."""
    roots = turn.contender.roots()
    before: list[dict[int, float]] = []

    def once(seconds: float) -> load.Requests:
        before[:] = [usage.cpu_by_process([root]) for root in roots]
        return load.new_connections(turn.ground, turn.front.http, 64, seconds)

    counted = answered(turn, "connections", once)
    after = [usage.cpu_by_process([root]) for root in roots]
    turn.figures |= {
        "connections_per_s": counted.rate,
        "p50_connection": counted.p50,
        "p99_connection": counted.p99,
        "p999_connection": counted.p999,
    }
    spent = [
        {pid: seconds - earlier.get(pid, 0.0) for pid, seconds in later.items()}
        for earlier, later in zip(before, after, strict=True)
    ]
    if spent:
        total = sum(sum(half.values()) for half in spent)
        turn.figures["cpu_us_per_connection"] = total * MICRO / counted.requests
    if workers := turn.contender.workers():
        turn.sample = Sample(
            counted.requests,
            counted.seconds,
            tuple(
                Half(sum(half.values()), tuple(half.get(pid, 0.0) for pid in theirs))
                for half, theirs in zip(spent, workers, strict=True)
            ),
        )


def scaling(turn: Turn) -> None:
    """New connections once more, beside those of the other; and before, where nothing has warmed the proxies up."""
    if turn.sample is None:
        connections(turn)
    connections(turn)


def bulk(streams: int) -> Callable[[Turn], None]:
    """iperf3, each way."""

    def measure(turn: Turn) -> None:
        spent, moved = 0.0, 0
        for way in ("up", "down"):
            before = turn.cpu()
            got = load.iperf(turn.ground, turn.front.bulk, streams, turn.plan.bulk_length(streams), down=way == "down")
            cost = turn.cpu() - before
            turn.figures[f"{way}_gbps_{streams}"] = got.gbit_per_second
            if streams == 1 and turn.proxied:
                turn.figures[f"cpu_s_per_gb_{way}"] = cost * GIGA / got.bytes
            spent, moved = spent + cost, moved + got.bytes
        if streams == 1 and turn.proxied:
            turn.figures["cpu_s_per_gb"] = spent * GIGA / moved

    return measure


def neighbours(turn: Turn) -> None:
    """One connection's latency, which is open already, while others begin to carry as much as they can."""
    own, crowd = turn.plan.head_start(1), turn.plan.head_start(NEIGHBOURS)

    def once(seconds: float) -> load.Requests:
        with contextlib.ExitStack() as others:
            return load.keep_alive(
                turn.ground,
                turn.front.http,
                1,
                seconds,
                own + crowd,
                begin=lambda: others.enter_context(load.neighbours(turn.ground, turn.front.http, NEIGHBOURS)),
                begin_at=own,
            )

    counted = answered(turn, "neighbours", once)
    turn.figures |= {"p50_1_neighbours": counted.p50, "p99_1_neighbours": counted.p99}


_MEASURES: dict[str, Callable[[Turn], None]] = {
    "memory": memory,
    "requests_1": requests(1),
    "requests_64": requests(64),
    "half_load": half_load,
    "requests_512": requests(512),
    "connections": connections,
    "bulk_1": bulk(1),
    "bulk_2": bulk(2),
    "bulk_8": bulk(8),
    "neighbours": neighbours,
    "scaling": scaling,
}
