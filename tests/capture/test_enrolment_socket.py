"""The enrolment socket: who may use it, and what it does with what it does not understand."""

import array
import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.capture.enrolment_socket import MAX_REQUEST, EnrolmentSocket, HandedOver


class Agent:
    """A listening enrolment socket; notes what was handed over, and answers `captured`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handed: list[tuple[str | None, bool]] = []
        self.socket = EnrolmentSocket(path, self._handle)

    async def _handle(self, handed: HandedOver) -> None:
        self.handed.append((handed.pod, os.path.samestat(os.fstat(handed.netns_fd), os.stat("/proc/self/ns/net"))))
        handed.waiting("one thing is missing")
        handed.captured(handed.pod or "demo/found")

    async def ask(self, request: bytes, *paths: str) -> list[dict[str, Any]]:
        """Sends bytes and the descriptors of these files; every answer until the agent hangs up."""
        fds = [os.open(path, os.O_RDONLY) for path in paths]
        try:
            return await asyncio.to_thread(self._ask, request, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _ask(self, request: bytes, fds: list[int]) -> list[dict[str, Any]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(str(self.path))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg([request], rights)
            sock.shutdown(socket.SHUT_WR)
            data = b""
            try:
                while chunk := sock.recv(65536):
                    data += chunk
            except ConnectionResetError:
                pass  # bytes that the agent did not read
            return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path / "agent.sock")
    await made.socket.start()
    yield made
    await made.socket.close()
    assert not made.path.exists()


NETNS = "/proc/self/ns/net"
GOOD = b'{"version":1,"op":"enrol","pod":"demo/web"}\n'


async def test_only_its_owner_may_use_it(agent: Agent) -> None:
    assert stat.S_IMODE(agent.path.stat().st_mode) == 0o600


async def test_a_namespace_that_is_handed_over_is_answered_when_it_is_captured(agent: Agent) -> None:
    assert await agent.ask(GOOD, NETNS) == [
        {"state": "waiting", "reason": "one thing is missing"},
        {"state": "captured", "pod": "demo/web"},
    ]
    assert (await agent.ask(b'{"version":1,"op":"enrol"}\n', NETNS))[-1] == {"state": "captured", "pod": "demo/found"}
    assert agent.handed == [("demo/web", True), (None, True)]


@pytest.mark.parametrize(
    ("request_bytes", "paths", "words"),
    [
        (b"", [NETNS], "no JSON line"),
        (b"\xff\xfe\n", [NETNS], "no JSON line"),
        (b"[]\n", [NETNS], "no JSON line"),
        (b'{"op":"enrol"}\n', [NETNS], "no JSON line with version"),
        (b'{"version":2,"op":"enrol","pod":null}\n', [NETNS], "speaks version 1"),
        (b'{"version":1,"op":"leave","pod":null}\n', [NETNS], "not 'leave'"),
        (b'{"version":1,"op":"enrol","pod":7}\n', [NETNS], "knows only enrol"),
        (GOOD, [], "0 came"),
        (GOOD, [NETNS, NETNS], "2 came"),
        (GOOD, ["/proc/self/ns/uts"], "no network namespace"),
        (GOOD, ["/etc/hostname"], "no network namespace"),
        (b"x" * (MAX_REQUEST + 10), [NETNS], "no JSON line"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
async def test_what_is_no_request_is_refused_with_the_reason(
    agent: Agent, request_bytes: bytes, paths: list[str], words: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    answers = await agent.ask(request_bytes, *paths)
    assert [answer["state"] for answer in answers] == ["refused"]
    assert words in answers[0]["reason"]
    assert agent.handed == []
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors that came along are closed"


async def test_a_socket_that_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    agent = Agent(path)
    await agent.socket.start()
    assert (await agent.ask(GOOD, NETNS))[-1]["state"] == "captured"
    await agent.socket.close()
