"""Who lives in a namespace, asked of real processes and threads."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.capture.inhabitants import inhabitants, number_here
from init.netns import unshare

pytestmark = pytest.mark.netns


class Resident:
    """A thread of this process that is in a network namespace of its own."""

    def __init__(self) -> None:
        self.number = 0
        self._ready, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()
        assert self._ready.wait(10)

    def _live(self) -> None:
        unshare()
        self.number = number_here()
        self._ready.set()
        self._done.wait(60)

    def end(self) -> None:
        self._done.set()
        self._thread.join(10)


@pytest.fixture
def resident() -> Iterator[Resident]:
    made = Resident()
    yield made
    made.end()


def test_a_process_that_lives_in_a_namespace_is_named() -> None:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "stat -Lc %i /proc/self/net/tcp; exec sleep 60"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        try:
            found = inhabitants([number])
        finally:
            process.kill()
    assert list(found) == [number]
    assert f"process {process.pid}" in found[number]
    assert inhabitants([number]) == {}, "it has ended"


def test_a_single_thread_counts_and_ones_own_processes_only_visit(resident: Resident) -> None:
    assert f"process {os.getpid()} " in inhabitants([resident.number])[resident.number]
    assert inhabitants([resident.number], ours={os.getpid()}) == {}
    assert inhabitants([]) == {}


def test_where_processes_cannot_be_seen_every_namespace_is_taken_for_inhabited(tmp_path: Path) -> None:
    assert set(inhabitants([1, 2], proc=tmp_path)) == {1, 2}, "not the host's pid namespace"
    (tmp_path / "2").mkdir()
    (tmp_path / "2/comm").write_text("kthreadd\n")
    (tmp_path / "7/task/7/net").mkdir(parents=True)
    (tmp_path / "7/task/7/net/tcp").symlink_to("tcp")  # ELOOP: neither an answer, nor an end
    assert "process 7, which cannot be looked at," in inhabitants([1], proc=tmp_path)[1]
