"""The load generators, all in the client pod: wrk, iperf3, and connections that do nothing."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ground import CONFIGS, LARGE_PATH, Address, Ground
from bench.process import Process, ProcessError, run

GRACE_SECONDS = 30.0
"""How long a load generator may take beyond its time before it is given up."""
IDLE_SECONDS = 60.0
IPERF_ATTEMPTS = 20
BITS = 8
WRK_SECONDS = 600
"""What wrk is told; it is interrupted earlier, and then reports as if its time were over."""
SAMPLED_AT = 0.8
"""The part of the head start after which `begin` is called: connections are open then, and idle."""


def _nothing() -> None: ...


@dataclass(frozen=True)
class Requests:
    """What wrk counted; latencies in microseconds."""

    requests: int
    seconds: float
    bytes: int
    p50: float
    p99: float
    p999: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Transfer:
    """What iperf3 counted, at the receiving end."""

    bytes: int
    seconds: float

    @property
    def gbit_per_second(self) -> float:
        """Gbit/s, decimal."""
        return self.bytes * BITS / self.seconds / 1e9 if self.seconds else 0.0


def parse_wrk(output: str) -> Requests:
    """Reads the line that configs/wrk-report.lua prints. Raises ProcessError."""
    for line in output.splitlines():
        if line.startswith("report "):
            return Requests(**json.loads(line.removeprefix("report ")))
    raise ProcessError(f"wrk gave no report: {output[-1000:]}")


def parse_iperf(output: str) -> Transfer:
    """Reads iperf3 --json. Raises ProcessError."""
    try:
        said: dict[str, Any] = json.loads(output)
        received = said["end"]["sum_received"]
        return Transfer(int(received["bytes"]), float(received["seconds"]))
    except (ValueError, KeyError) as error:
        raise ProcessError(f"iperf3 gave no result: {output[-1000:]}") from error


def wrk_words(address: Address, path: str, connections: int, environment: dict[str, float]) -> list[str]:
    """The command line of wrk with configs/wrk.lua, whose environment it is; without one, connections are not kept."""
    words = ["env", *(f"{name}={value:g}" for name, value in environment.items())]
    words += ["wrk", "-t1", f"-c{connections}", f"-d{WRK_SECONDS}s", "--timeout", "10s", "-s", str(CONFIGS / "wrk.lua")]
    return [*words, *([] if environment else ["-H", "Connection: close"]), f"http://{address}{path}"]


def keep_alive(
    ground: Ground,
    address: Address,
    connections: int,
    seconds: float,
    head_start: float,
    *,
    rate: float = 0.0,
    begin: Callable[[], None] = _nothing,
    begin_at: float | None = None,
) -> Requests:
    """Requests on kept connections for `seconds`, at `rate` per second if it is given.

    All connections are opened during the head start, before the first request is sent; `begin` is called at a time
    within it, near its end if none is given. Raises ProcessError.
    """
    environment = {"BENCH_HEAD_START": head_start, "BENCH_CONNECTIONS": connections, "BENCH_RATE": rate}
    words = wrk_words(address, "/", connections, environment)
    pause = head_start * SAMPLED_AT if begin_at is None else begin_at
    return _wrk(ground, words, pause, begin, head_start + seconds)


def new_connections(ground: Ground, address: Address, connections: int, seconds: float) -> Requests:
    """One request per connection, so many at a time. Raises ProcessError."""
    return _wrk(ground, wrk_words(address, "/", connections, {}), 0.0, _nothing, seconds)


def _wrk(ground: Ground, words: list[str], pause: float, begin: Callable[[], None], seconds: float) -> Requests:
    process = ground.start(ground.client, "wrk", words)
    end = time.monotonic() + seconds
    try:
        time.sleep(pause)
        begin()
        time.sleep(max(end - time.monotonic(), 0))
        process.interrupt()
        process.wait(GRACE_SECONDS)
        return parse_wrk(process.said())
    finally:
        process.stop()


def iperf(ground: Ground, address: Address, streams: int, amount: tuple[str, ...], *, down: bool) -> Transfer:
    """Runs iperf3, towards the server, or from it (`down`); `amount` says how much. Raises ProcessError."""
    words = ["iperf3", "--json", "-c", address.host, "-p", str(address.port), "-P", str(streams)]
    words += [*amount, *(["-R"] if down else [])]
    for attempt in range(IPERF_ATTEMPTS):
        try:
            return parse_iperf(run(ground.client, words, GRACE_SECONDS))
        except ProcessError as error:
            # Through a proxy, the end of the last test may reach the server after the next one began.
            if "busy" not in str(error) or attempt == IPERF_ATTEMPTS - 1:
                raise
            time.sleep(0.05)
    raise AssertionError


@contextmanager
def idle(ground: Ground, address: Address, connections: int) -> Iterator[Process]:
    """Holds connections open that have had one request each. Raises ProcessError."""
    script = str(Path(__file__).with_name("idle.py"))
    process = ground.start(
        ground.client, "idle", [sys.executable, script, address.host, str(address.port), str(connections)]
    )
    try:
        process.wait_for_words("open ", IDLE_SECONDS)
        yield process
        process.end_input()
        process.wait(GRACE_SECONDS)
    finally:
        process.stop()


@contextmanager
def neighbours(ground: Ground, address: Address, connections: int) -> Iterator[None]:
    """Keeps that many connections busy with large bodies for as long as the block runs. Raises ProcessError."""
    words = wrk_words(address, LARGE_PATH, connections, {"BENCH_RATE": 0})
    process = ground.start(ground.client, "neighbours", words)
    try:
        yield
    finally:
        process.stop()
