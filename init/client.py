"""For programs that must not touch iptables or netlink themselves: runs `init.batch` as a child. Blocking."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from init.model import Options


@dataclass(frozen=True)
class BatchRequest:
    """One namespace; `id` comes back with the result.

    `op` is apply, check, repair (a check that applies what is missing) or remove, and the same in all of a batch.
    """

    id: int
    op: str
    netns_fd: int
    options: Options = field(default_factory=Options)
    backend: str = "auto"
    processes: bool = False
    """Say which processes in there capture cannot hold: costs a look at every process of the machine."""


@dataclass(frozen=True)
class BatchResult:
    """What came of one request: see init.engine.Result."""

    id: int
    ok: bool
    changed: bool = False
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    backend: str | None = None
    stand_ins: bool = False
    privileged: tuple[str, ...] = ()
    capabilities: tuple[str, ...] | None = None
    foreign: tuple[str, ...] | None = None


def run_batch(requests: Sequence[BatchRequest], timeout: float) -> list[BatchResult]:
    """Does all requests in one child process, within `timeout` seconds; never raises for a namespace's sake."""
    lines = "".join(
        json.dumps(
            {
                "op": request.op,
                "netns_fd": request.netns_fd,
                "options": asdict(request.options),
                "backend": request.backend,
                "processes": request.processes,
            }
        )
        + "\n"
        for request in requests
    )
    fds = sorted({request.netns_fd for request in requests})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "init", "batch"],
            input=lines,
            capture_output=True,
            text=True,
            timeout=timeout,
            pass_fds=fds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [BatchResult(request.id, ok=False, error=f"no result in {timeout:g} s") for request in requests]
    try:
        answers = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:  # it was ended in the middle of a line
        answers = []
    if done.returncode != 0 or len(answers) != len(requests):
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return [BatchResult(request.id, ok=False, error=f"init failed: {said[0]}") for request in requests]
    return [
        BatchResult(
            request.id,
            ok=answer["ok"],
            changed=answer["changed"],
            missing=tuple(answer["missing"]),
            notes=tuple(answer["notes"]),
            error=answer["error"],
            backend=answer["backend"],
            stand_ins=answer["stand_ins"],
            privileged=tuple(answer["privileged"]),
            capabilities=None if answer["capabilities"] is None else tuple(answer["capabilities"]),
            foreign=None if answer["foreign"] is None else tuple(answer["foreign"]),
        )
        for request, answer in zip(requests, answers, strict=True)
    ]
