"""Processes that are written down, so that somebody later can end them and nobody else's."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster.processes import Process, Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "processes", tmp_path)
    yield made
    made.end(made.all)
    for each in made.all:
        try:
            os.waitpid(each.pid, 0)
        except ChildProcessError:
            continue


def test_somebody_later_finds_what_was_started_and_ends_it(processes: Processes, tmp_path: Path) -> None:
    started = processes.start("sleeper", ["sleep", "100"])
    later = Processes(tmp_path / "processes", tmp_path)
    assert later.all == [started]
    assert later.named("sleeper") == started
    later.end(later.all)
    assert not started.alive
    assert later.named("sleeper") is None


def test_whoever_does_not_hear_is_ended_all_the_same(processes: Processes) -> None:
    deaf = processes.start("deaf", ["sh", "-c", "trap '' TERM; echo heard; while :; do sleep 0.1; done"])
    while "heard" not in processes.last_words("deaf"):
        assert deaf.alive
    processes.end([deaf], 0.2)
    assert not deaf.alive


def test_another_ones_process_with_our_number_is_left_alone(processes: Processes) -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        mine = processes.note("mine", other.pid)
        reused = Process(mine.name, mine.pid, mine.started - 1)
        assert not reused.alive
        reused.signal(signal.SIGKILL)
        processes.end([reused])
        assert other.poll() is None
        other.kill()


def test_one_that_has_ended_and_was_not_waited_for_is_not_alive(processes: Processes) -> None:
    started = processes.start("short", ["true"])
    processes.end([started])
    assert not started.alive


def test_one_that_cannot_be_started_is_an_error(processes: Processes) -> None:
    with pytest.raises(FileNotFoundError):
        processes.start("nobody", ["/nowhere/nobody"])
    assert processes.all == []


def test_its_last_words_are_kept(processes: Processes) -> None:
    started = processes.start("speaker", ["sh", "-c", "for i in $(seq 40); do echo line $i; done; exec sleep 100"])
    while "line 40" not in processes.last_words("speaker"):
        assert started.alive
    assert processes.last_words("speaker", 2) == "line 39\nline 40"
    assert processes.last_words("nobody") == "(it said nothing)"
