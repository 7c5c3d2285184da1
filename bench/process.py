"""Processes on the ground: started in a namespace, ended whatever happens."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

from agent.lab.stage import Player

OPEN_FILES = 65536
"""2,000 connections through a proxy are 4,000 descriptors; the usual limit of 1,024 would measure the limit."""
LISTEN_SECONDS = 10.0
STOP_SECONDS = 5.0
LISTENING = "0A"


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (SigCgt in proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


class ProcessError(Exception):
    """A process did not start, or did not do what it was started for; `str` has its last words."""


class Process:
    """One process in a player's namespace. It gets SIGTERM if this program dies."""

    def __init__(self, player: Player, name: str, words: list[str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *player.command(*words)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # ^C is for the bench, which then ends this one
            )
        self.pid = self._process.pid
        """Of the program itself: setpriv and ip replace themselves with it."""

    def wait_until_listening(self, *ports: int) -> None:
        """Returns when its namespace has listeners on these ports; nothing is sent to them. Raises ProcessError."""
        deadline = time.monotonic() + LISTEN_SECONDS
        while not set(ports) <= self._listening():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"{self.name} does not listen on {ports}: {self.last_words()}")
            time.sleep(0.01)

    def _listening(self) -> set[int]:
        found: set[int] = set()
        with contextlib.suppress(OSError):
            if os.path.samefile(f"/proc/{self.pid}/ns/net", "/proc/self/ns/net"):
                return found  # not in its namespace yet
            for line in Path(f"/proc/{self.pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    found.add(int(fields[1].rpartition(":")[2], 16))
        return found

    def wait_for_words(self, words: str, seconds: float) -> str:
        """The line that begins with these words, once it is said. Raises ProcessError."""
        deadline = time.monotonic() + seconds
        while True:
            for line in self.said().splitlines():
                if line.startswith(words):
                    return line
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"{self.name} did not say {words!r}: {self.last_words()}")
            time.sleep(0.01)

    def said(self) -> str:
        """Everything it said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """The end of what it said."""
        return self.said()[-1000:].strip() or "(nothing)"

    def interrupt(self) -> None:
        """SIGINT, once the program is ready for it: on a machine that stood still it may not have begun."""
        deadline = time.monotonic() + LISTEN_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline and not catches(self.pid, signal.SIGINT):
            time.sleep(0.01)
        self._process.send_signal(signal.SIGINT)

    def end_input(self) -> None:
        """Closes its standard input, which asks the bench's own tools to end."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits for its end. Raises ProcessError."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} did not end within {seconds:g} s: {self.last_words()}") from None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for its whole group."""
        self.end_input()
        if self._process.poll() is None:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def run(player: Player, words: list[str], seconds: float) -> str:
    """Runs a command in a player's namespace to its end; what it printed. Raises ProcessError."""
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "TERM", *player.command(*words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{' '.join(words)} did not end within {seconds:g} s") from None
    if done.returncode != 0:
        raise ProcessError(
            f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-1000:]}{done.stdout[-1000:]}"
        )
    return done.stdout


def allow_many_files() -> None:
    """Raises the limit of open files for this process and whatever it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, PermissionError):
        hard = max(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN_FILES), hard))
