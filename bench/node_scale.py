"""What many pods on one node cost: `python -m bench.node_scale [--pods 300]` (root).

Makes the pods as namespaces on a bridge, runs a real `quietwire up` for them, and prints one JSON object: seconds until
all are captured and certified after the first start and after another one, for which they are refused; CPU seconds of a
look at the rules of all (the agent looks every 30 s), of the first one and of one that finds them untouched; seconds
until a new pod, and all pods after kill -9 of a worker, are captured; memory and descriptors of each process.
"""

import argparse
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.capture.netns import NetnsThread
from agent.lab.mesh import Mesh
from agent.lab.stage import Player, Stage
from bench import usage
from init import agent_mark
from init.client import BatchRequest, run_batch
from init.model import Options
from init.netns import open_netns

NODE = "node-a"
BATCH_SECONDS = 600.0
READY_SECONDS = 60.0


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 2)


def verify(players: list[Player]) -> float:
    """CPU seconds of a look at everybody's rules."""
    fds = [open_netns(player.netns) for player in players]
    key, visits = agent_mark.draw(), NetnsThread()
    marks = [visits.executor.submit(visits.run, fd, lambda: agent_mark.mark_of_namespace(key)).result() for fd in fds]
    visits.close()
    requests = [
        BatchRequest(number, "check", fd, Options(mark=mark))
        for number, (fd, mark) in enumerate(zip(fds, marks, strict=True))
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = run_batch(requests, BATCH_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for fd in fds:
        os.close(fd)
    faults = [result.error or result.missing for result in results if not result.ok]
    if faults:
        raise SystemExit(f"the rules of {len(faults)} pods are not in force: {faults[0]}")
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def captured(mesh: Mesh, pods: int) -> bool:
    """Whether so many pods are captured, and nobody waits."""
    body = json.loads(mesh.ask("/ready"))
    return bool(body["ready"]) and body["pods"] == pods


def until(holds: Callable[[], bool], what: str, mesh: Mesh) -> None:
    """Waits for something."""
    deadline = time.monotonic() + READY_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {READY_SECONDS:g} s: {what}\n{mesh.last_words()}")
        time.sleep(0.01)


def until_captured(mesh: Mesh, pods: int) -> None:
    """Waits for that."""
    until(lambda: captured(mesh, pods), f"{pods} pods are captured", mesh)


def kill_worker(mesh: Mesh, pods: int) -> None:
    """Kill -9 of a worker, until its successor listens for everybody."""
    (victim,) = _workers(mesh, 0)
    os.kill(victim, signal.SIGKILL)
    until(lambda: _workers(mesh, 0) not in ([], [victim]), "the worker has a successor", mesh)
    until_captured(mesh, pods)


def processes(mesh: Mesh) -> list[dict[str, Any]]:
    """Memory and descriptors of each of the agent's processes."""
    found = []
    for pid in _tree(mesh):
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue  # it has just ended
        sizes = {name: int(re.findall(rf"^{name}: +(\d+) kB", rollup, re.MULTILINE)[0]) for name in ("Rss", "Pss")}
        found.append(
            {
                "process": usage.title(pid),
                "rss_mb": round(sizes["Rss"] / 1024),
                "pss_mb": round(sizes["Pss"] / 1024),
                "descriptors": len(descriptors),
            }
        )
    return found


def _tree(mesh: Mesh) -> list[int]:
    return [] if mesh.pid is None else list(usage.cpu_by_process([mesh.pid]))


def _workers(mesh: Mesh, index: int) -> list[int]:
    return [each for each in _tree(mesh) if usage.title(each) == f"quietwire worker {index} {NODE}"]


def measure(stage: Stage, mesh: Mesh, pods: int) -> dict[str, Any]:
    """Everything; the stage is open and empty."""
    players = [stage.add(f"p{number}") for number in range(pods)]
    for player in players:
        mesh.pod(player)
    found: dict[str, Any] = {"pods": pods, "first_start_s": seconds(mesh.start)}
    found["verify_first_cpu_s"], found["verify_cpu_s"] = verify(players), verify(players)
    late = stage.add("late")
    mesh.pod(late)
    found["new_pod_s"] = seconds(lambda: until_captured(mesh, pods + 1))
    found["worker_replaced_s"] = seconds(lambda: kill_worker(mesh, pods + 1))
    found["processes"] = processes(mesh)
    found["stop_s"] = seconds(mesh.stop)
    found["restart_s"] = seconds(mesh.start)
    return found


def main() -> int:
    """Prints the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=300, help="at most 1000, which is a bridge's limit")
    parser.add_argument("--workers", type=int, default=2)
    flags = parser.parse_args()
    stage = Stage("scale", prefix="scale-", ipv4="10.77.0.0/16")
    with tempfile.TemporaryDirectory(prefix="quietwire-scale-") as directory:
        mesh = Mesh(
            Path(directory),
            node=NODE,
            trust_domain="example.test",
            flags=("--drain-timeout=1", f"--workers={flags.workers}"),
            access_log=False,
        )
        try:
            stage.open()
            print(json.dumps(measure(stage, mesh, flags.pods), indent=2))
        finally:
            mesh.stop()
            stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
