"""The processes of a cluster: started, written down, ended. Never one that only has a number of ours."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

END_SECONDS = 5.0
"""From SIGTERM to SIGKILL; and from there to an error."""
LOOK_SECONDS = 0.05


class Process(Struct, frozen=True):
    """One that was started here; `started` is the kernel's time of it, for numbers are used again (proc(5), stat)."""

    name: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it has not ended; a zombie has."""
        found = _stat(self.pid)
        return found is not None and found[0] not in {"Z", "X"} and found[1] == self.started

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Processes:
    """Those of one cluster, in the order in which they were started, in a file that outlives us."""

    def __init__(self, record: Path, logs: Path) -> None:
        self._record = record
        self._logs = logs

    def start(self, name: str, words: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        """Starts it in a session of its own; what it says goes to its log. Raises OSError."""
        with self.log(name).open("ab") as log:
            pid = os.posix_spawnp(
                words[0],
                list(words),
                os.environ if environ is None else environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                ],
                setsid=True,
            )
        return self.note(name, pid)

    def note(self, name: str, pid: int) -> Process:
        """Writes down one that somebody of ours has started. Raises ProcessLookupError."""
        found = _stat(pid)
        if found is None:
            raise ProcessLookupError(f"{name} (process {pid}) has ended at once")
        with self._record.open("a") as record:
            record.write(f"{pid} {found[1]} {name}\n")
        return Process(name, pid, found[1])

    def log(self, name: str) -> Path:
        """What a process has said so far."""
        return self._logs / f"{name}.log"

    def last_words(self, name: str, lines: int = 15) -> str:
        """The end of its log."""
        try:
            said = self.log(name).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "(it said nothing)"
        return "\n".join(said[-lines:])

    @property
    def all(self) -> list[Process]:
        """Everything that was ever started, also what has ended."""
        try:
            lines = self._record.read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            pid, started, name = line.split(" ", 2)
            found.append(Process(name, int(pid), int(started)))
        return found

    def named(self, name: str) -> Process | None:
        """The newest of that name which lives."""
        return next((each for each in reversed(self.all) if each.name == name and each.alive), None)

    def end(self, processes: Sequence[Process], seconds: float = END_SECONDS) -> None:
        """Ends them, the last first: asks, waits so many seconds, and then does not ask. Raises TimeoutError."""
        for process in reversed(processes):
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(process.alive for process in processes):
            time.sleep(LOOK_SECONDS)
        for process in reversed(processes):
            process.signal(signal.SIGKILL)
        deadline = time.monotonic() + END_SECONDS
        while any(process.alive for process in processes):
            if time.monotonic() > deadline:
                names = ", ".join(process.name for process in processes if process.alive)
                raise TimeoutError(f"{names}: still there {END_SECONDS:g} s after SIGKILL")
            time.sleep(LOOK_SECONDS)


def _stat(pid: int) -> tuple[str, int] | None:
    """Its state, and when it was started, in clock ticks since boot; None: there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])
