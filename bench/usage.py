"""CPU time and memory of process trees, from /proc.

CPU time is utime + stime of every process of a tree, as proc_pid_stat(5) has them: in clock ticks of 10 ms, threads
that have ended included. Memory is the anonymous and the shared part of the proportional set size (PSS) of
smaps_rollup: a page that n processes share counts 1/n for each; one of a file, which whoever else runs the same program
has too, does not count. Kernel memory, socket buffers above all, is in neither.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """What is used of one line of /proc/PID/stat."""

    pid: int
    parent: int
    cpu_seconds: float


def parse_stat(line: str, tick: float = TICK) -> Stat:
    """Reads a line of /proc/PID/stat; the name in parentheses may hold anything. Raises ValueError."""
    before, _, after = line.rpartition(")")
    fields = after.split()
    if len(fields) < 15:
        raise ValueError(f"{line!r} is no line of /proc/PID/stat")
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return Stat(int(before.split()[0]), int(fields[1]), (utime + stime + cutime + cstime) * tick)


def parse_pss(rollup: str) -> int:
    """Bytes of anonymous and shared memory, proportional, in the text of smaps_rollup. Raises ValueError."""
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    try:
        return sum(int(fields[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    except KeyError as error:
        raise ValueError(f"no {error} in smaps_rollup") from None


def tree(roots: Iterable[int], stats: Iterable[Stat]) -> list[Stat]:
    """The processes of these roots and everything below them."""
    everything = list(stats)
    children: dict[int, list[Stat]] = {}
    for stat in everything:
        children.setdefault(stat.parent, []).append(stat)
    wanted = set(roots)
    found, queue = [], [stat for stat in everything if stat.pid in wanted]
    while queue:
        stat = queue.pop()
        found.append(stat)
        queue += [child for child in children.get(stat.pid, ()) if child.pid not in wanted]
    return found


def processes() -> list[Stat]:
    """Every process of the machine."""
    found = []
    for directory in PROC.iterdir():
        if directory.name.isdigit():
            try:
                found.append(parse_stat((directory / "stat").read_text(encoding="utf-8", errors="replace")))
            except (OSError, ValueError):
                continue  # it has just ended
    return found


def cpu_by_process(roots: Iterable[int]) -> dict[int, float]:
    """CPU seconds so far, by process of the trees."""
    return {stat.pid: stat.cpu_seconds for stat in tree(roots, processes())}


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU seconds so far of the trees."""
    return sum(cpu_by_process(roots).values())


def memory_bytes(roots: Iterable[int]) -> int:
    """Memory of the trees' own, bytes."""
    total = 0
    for stat in tree(roots, processes()):
        with contextlib.suppress(OSError):  # it has just ended
            total += parse_pss((PROC / str(stat.pid) / "smaps_rollup").read_text(encoding="ascii"))
    return total


def title(pid: int) -> str:
    """What a process calls itself; empty when it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
