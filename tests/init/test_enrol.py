"""The init step's side of the enrolment socket, against an agent that says what the test tells it to."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from init.enrol import EnrolError, enrol


class FakeAgent:
    """Listens; answers one request with these lines, then hangs up or not."""

    def __init__(self, path: Path, *answers: dict[str, str]) -> None:
        self.path = str(path)
        self.answers = list(answers)
        self.hang_up = True
        self.request: dict[str, Any] = {}
        self.same_file = False
        self.done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        with client:
            line, fds, _, _ = socket.recv_fds(client, 4096, 4)
            self.request = json.loads(line)
            self.same_file = [os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/net")) for fd in fds] == [True]
            for fd in fds:
                os.close(fd)
            for answer in self.answers:
                client.sendall(json.dumps(answer).encode() + b"\n")
            if not self.hang_up:
                self.done.wait(10)

    def close(self) -> None:
        if self.done.is_set():
            return
        self.done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    made = FakeAgent(tmp_path / "agent.sock")
    yield made
    made.close()


@pytest.fixture
def netns() -> Iterator[int]:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_the_namespace_is_handed_over_and_every_reason_for_waiting_is_said(agent: FakeAgent, netns: int) -> None:
    agent.answers = [
        {"state": "waiting", "reason": "no manifest names this pod"},
        {"state": "waiting", "reason": "no SVID yet"},
        {"state": "captured", "pod": "demo/web"},
    ]
    said: list[str] = []
    assert enrol(agent.path, netns, "demo/web", 10, said.append) == "demo/web"
    assert said == ["no manifest names this pod", "no SVID yet"]
    assert agent.request == {"version": 1, "op": "enrol", "pod": "demo/web"}
    assert agent.same_file, "the descriptor that arrives is the namespace"


def test_a_refusal_is_an_error_with_the_agents_reason(agent: FakeAgent, netns: int) -> None:
    agent.answers = [{"state": "refused", "reason": "pod demo/web is not on this node"}]
    with pytest.raises(EnrolError, match="demo/web is not on this node"):
        enrol(agent.path, netns, "demo/web", 10, print)


def test_an_agent_that_ends_meanwhile_is_waited_for_and_another_one_is_asked(agent: FakeAgent, netns: int) -> None:
    """As when a DaemonSet is rolled out: a pod that is made in between waits, and does not fail."""
    agent.answers = [{"state": "waiting", "reason": "no SVID yet"}]
    said: list[str] = []
    following: list[FakeAgent] = []

    def say(reason: str) -> None:
        said.append(reason)
        if "no agent listens" in reason:
            following.append(FakeAgent(Path(agent.path), {"state": "captured", "pod": "demo/web"}))
        elif "ended before" in reason:
            agent.close()
            os.unlink(agent.path)

    try:
        assert enrol(agent.path, netns, "demo/web", 10, say) == "demo/web"
    finally:
        for each in following:
            each.close()
    expected = ("no SVID yet", "the agent ended before", "no agent listens")
    assert [each.startswith(words) for each, words in zip(said, expected, strict=True)] == [True] * 3


def test_the_wait_is_bounded_and_the_last_reason_is_told(agent: FakeAgent, netns: int) -> None:
    agent.answers = [{"state": "waiting", "reason": "the authority is away"}]
    agent.hang_up = False
    with pytest.raises(EnrolError, match=r"not captured in 0\.2 s: the authority is away"):
        enrol(agent.path, netns, None, 0.2, lambda _: None)


def test_no_agent_is_an_error_in_the_end_that_says_what_to_do(tmp_path: Path, netns: int) -> None:
    said: list[str] = []
    with pytest.raises(EnrolError, match=r"not captured in 0\.1 s: no agent listens .* start quietwire on this node"):
        enrol(str(tmp_path / "nobody.sock"), netns, None, 0.1, said.append)
    assert len(said) == 1
