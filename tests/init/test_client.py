"""The child that writes rules: its answers belong to their requests, and whatever becomes of it is a result."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from init.client import BatchRequest, BatchResult, run_batch
from init.model import Options

ANSWERS = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    os.fstat(asked["netns_fd"])
    print(json.dumps({
        "ok": asked["options"]["inbound_port"] != 1, "changed": True, "missing": ["a rule"], "notes": [asked["op"]],
        "error": None, "backend": asked["backend"], "stand_ins": True, "privileged": [], "capabilities": None,
        "foreign": None,
    }))
"""
"""As `init batch` answers; fails where it has not got a descriptor."""


class Child:
    """Python code in place of `init batch`."""

    def __init__(self) -> None:
        self.code = ANSWERS
        self._run = subprocess.run

    def run(self, words: Sequence[str], **more: object) -> object:
        assert words == [sys.executable, "-m", "init", "batch"]
        return self._run([sys.executable, "-c", self.code], **more)  # type: ignore[call-overload] # as they are given


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    made = Child()
    monkeypatch.setattr("init.client.subprocess.run", made.run)
    return made


@pytest.fixture
def requests() -> Iterator[list[BatchRequest]]:
    """Two namespaces; what the child answers to the second is no success."""
    fds = [os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]
    yield [
        BatchRequest(7, "check", fds[0], Options(), "nft"),
        BatchRequest(3, "check", fds[1], Options(inbound_port=1), "legacy", processes=True),
    ]
    for fd in fds:
        os.close(fd)


def test_each_answer_is_its_requests_and_the_child_has_their_descriptors(
    child: Child, requests: list[BatchRequest]
) -> None:
    first, second = run_batch(requests, 60)
    assert first == BatchResult(
        7, ok=True, changed=True, missing=("a rule",), notes=("check",), backend="nft", stand_ins=True
    )
    assert (second.id, second.ok, second.backend) == (3, False, "legacy")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('{}'); sys.stderr.write('first\\nlast words\\n'); sys.exit(1)", "init failed: last words"),
        ("import os; os.kill(os.getpid(), 9)", "init failed: exit status -9"),
        (ANSWERS + "    break", "init failed: exit status 0"),
        (ANSWERS + "sys.exit(3)", "init failed: exit status 3"),
        ("print('{\"ok\": tr')", "init failed: exit status 0"),
        ("", "init failed: exit status 0"),
    ],
    ids=[
        "it fails",
        "it is killed",
        "it answers one of two",
        "it answers and fails",
        "it ends in the middle of a line",
        "it says nothing",
    ],
)
def test_a_child_that_fails_is_the_failure_of_all_its_namespaces(
    child: Child, requests: list[BatchRequest], code: str, said: str
) -> None:
    child.code = code
    assert run_batch(requests, 60) == [BatchResult(7, ok=False, error=said), BatchResult(3, ok=False, error=said)]


def test_a_child_that_hangs_is_ended(child: Child, requests: list[BatchRequest]) -> None:
    child.code = "import time; time.sleep(600)"
    results = run_batch(requests, 0.5)
    assert [each.error for each in results] == ["no result in 0.5 s"] * 2


def test_the_real_child_answers_of_a_namespace_that_is_none() -> None:
    """Requests and results as `init batch` itself has them, with options that are not the usual ones."""
    read, write = os.pipe()
    options = Options(skip_outbound_ports=((1, 2),), skip_outbound_subnets=("192.0.2.0/24",))
    (result,) = run_batch([BatchRequest(1, "check", read, options)], 60)
    os.close(read)
    os.close(write)
    assert (result.id, result.ok) == (1, False)
    assert result.error is not None
    assert "init failed" not in result.error
