"""The enrolment socket: who may use it, and what it does with what it does not understand."""

import array
import asyncio
import json
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.capture import accepting
from agent.capture import caller as callers
from agent.capture import enrolment_socket as module
from agent.capture.caller import Caller, CallerUnknown
from agent.capture.enrolment_socket import MAX_REQUEST, EnrolmentSocket, HandedOver
from agent.capture.netns import host_netns
from init.netns import unshare


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
            data = b""
            try:
                while chunk := sock.recv(65536):
                    data += chunk
            except ConnectionResetError:
                pass  # bytes that the agent did not read
            return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path / "enrol" / "enrol.sock")
    made.socket.start(made.socket.bind())
    yield made
    await made.socket.close()
    assert not made.path.exists()


NETNS = "/proc/self/ns/net"
GOOD = b'{"version":1,"op":"enrol","pod":"demo/web"}\n'


async def test_only_its_owner_may_use_it(agent: Agent) -> None:
    assert stat.S_IMODE(agent.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(agent.path.parent.stat().st_mode) == 0o700
    assert [each.name for each in agent.path.parent.iterdir()] == ["enrol.sock"], "what a pod has mounted"


async def test_a_directory_that_is_there_is_made_its_owners_alone_and_stays_for_the_next_agent(tmp_path: Path) -> None:
    directory = tmp_path / "enrol"
    directory.mkdir()
    directory.chmod(0o777)
    inode = directory.stat().st_ino
    for _ in range(2):
        agent = Agent(directory / "enrol.sock")
        agent.socket.start(agent.socket.bind())
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        await agent.socket.close()
        assert directory.stat().st_ino == inode


@pytest.mark.parametrize("wrong", ["a link", "somebody else's", "a file"])
async def test_a_directory_that_others_could_change_is_no_place_for_it(tmp_path: Path, wrong: str) -> None:
    directory, elsewhere = tmp_path / "enrol", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if wrong == "a link":
        directory.symlink_to(elsewhere)
    elif wrong == "a file":
        directory.touch()
    else:
        directory.mkdir()
        os.chown(directory, 65534, 65534)
    with pytest.raises(OSError, match=r"enrol"):
        Agent(directory / "enrol.sock").socket.bind()
    assert list(elsewhere.iterdir()) == []


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
        (b"\n", [NETNS], "no JSON line"),
        (b"[" * 4000 + b"\n", [NETNS], "no JSON line"),
        (b"\xff\xfe\n", [NETNS], "no JSON line"),
        (b"[]\n", [NETNS], "no JSON line"),
        (b'{"op":"enrol"}\n', [NETNS], "no JSON line with version"),
        (b'{"version":2,"op":"enrol","pod":null}\n', [NETNS], "speaks version 1"),
        (b'{"version":1,"op":"leave","pod":null}\n', [NETNS], "not 'leave'"),
        (b'{"version":1,"op":"enrol","pod":7}\n', [NETNS], "knows only enrol"),
        (GOOD, [], "none did"),
        (GOOD, [NETNS, NETNS], "more descriptors came with its request than one"),
        (GOOD, [NETNS] * 200, "more descriptors came with its request than one"),
        (GOOD, ["/proc/self/ns/uts"], "no network namespace"),
        (GOOD, ["/etc/hostname"], "no network namespace"),
        (GOOD + GOOD, [NETNS], "more than one line"),
        (b"x" * (MAX_REQUEST + 10), [NETNS], "longer than 4096 bytes"),
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
    path = tmp_path / "enrol" / "enrol.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    agent = Agent(path)
    agent.socket.start(agent.socket.bind())
    assert (await agent.ask(GOOD, NETNS))[-1]["state"] == "captured"
    await agent.socket.close()


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator["Silent"]:
    made = Silent(tmp_path / "enrol" / "silent.sock")
    made.socket.start(made.socket.bind())
    yield made
    await made.socket.close()


class Silent:
    """An agent whose handler answers nobody until it is told to; notes who came and who went."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.short: asyncio.Queue[OSError] = asyncio.Queue()
        self.socket = EnrolmentSocket(path, self._handle, short=self.short.put_nowait)
        self.came: asyncio.Queue[Caller] = asyncio.Queue()
        self.went: asyncio.Queue[Caller] = asyncio.Queue()

    async def _handle(self, handed: HandedOver) -> None:
        self.came.put_nowait(handed.caller)
        try:
            await asyncio.Event().wait()
        finally:
            self.went.put_nowait(handed.caller)

    def client(self) -> socket.socket:
        """Somebody who connects, and says nothing yet."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect(str(self.path))
        return sock


def send(sock: socket.socket, request: bytes, *paths: str) -> None:
    fds = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
    finally:
        for fd in fds:
            os.close(fd)


async def answer(sock: socket.socket) -> dict[str, Any]:
    """The last line that the agent says before it hangs up."""

    def read() -> dict[str, Any]:
        data = b""
        try:
            while chunk := sock.recv(65536):
                data += chunk
        except ConnectionResetError:
            pass  # it did not read all
        said: dict[str, Any] = json.loads(data.splitlines()[-1])
        return said

    return await asyncio.to_thread(read)


async def test_who_asks_is_told_by_the_kernel(silent: Silent) -> None:
    with silent.client() as sock:
        send(sock, GOOD, NETNS)
        async with asyncio.timeout(10):
            found = await silent.came.get()
    assert (found.pid, found.uid, found.netns) == (os.getpid(), os.geteuid(), host_netns())


@pytest.mark.netns
async def test_a_namespace_that_the_process_is_not_in_itself_is_refused(silent: Silent) -> None:
    """A descriptor can be had of many a namespace: of one that was made for it, of a pod's that was passed on."""

    def another() -> int:
        unshare()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    with ThreadPoolExecutor(1) as thread:
        fd = await asyncio.get_running_loop().run_in_executor(thread, another)
        with silent.client() as sock:
            sock.sendmsg([GOOD], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            said = await answer(sock)
        os.close(fd)
    assert said["state"] == "refused"
    assert f"not the one that process {os.getpid()} itself is in" in said["reason"]
    assert silent.came.empty()


@pytest.mark.parametrize("goes_on", ["hangs up", "sends more", "sends a descriptor"])
async def test_who_hangs_up_or_goes_on_speaking_while_it_waits_is_let_go(silent: Silent, goes_on: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with silent.client() as sock:
        send(sock, GOOD, NETNS)
        async with asyncio.timeout(10):
            came = await silent.came.get()
            match goes_on:
                case "hangs up":
                    sock.shutdown(socket.SHUT_WR)
                case "sends more":
                    send(sock, b"x")
                case _:
                    send(sock, b"x", NETNS)
            assert await silent.went.get() == came
            assert (await answer(sock))["reason"].startswith("it hung up, or sent more than one request")
    while silent.socket._clients:
        await asyncio.wait(silent.socket._clients)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_request_that_does_not_come_has_its_time(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.01)
    with silent.client() as sock:
        send(sock, b'{"version":1', NETNS)
        assert "no request came in 0.01 s" in (await answer(sock))["reason"]


async def test_a_wait_has_an_end(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    with silent.client() as sock:
        send(sock, GOOD, NETNS)
        assert (await answer(sock))["reason"] == "it was not captured in 0.01 s; ask again"


CALLERS: dict[str, tuple[Callable[[int], Caller], int]] = {
    "one process": (lambda _: Caller(7, 0, host_netns(), None, True), module.MAX_CLIENTS_OF_A_PROCESS),
    "one pod": (lambda number: Caller(number, 0, host_netns(), "0-1", True), module.MAX_CLIENTS_OF_A_POD),
    "strangers": (lambda number: Caller(number, 0, host_netns(), None, False), module.MAX_STRANGERS),
}


@pytest.mark.parametrize("kind", list(CALLERS))
async def test_nobody_takes_more_places_than_its_own(
    silent: Silent, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, limit = CALLERS[kind]
    numbers = iter(range(100, 10_000))
    monkeypatch.setattr(callers, "identify", lambda _: make(next(numbers)))
    clients = [silent.client() for _ in range(limit)]
    for sock in clients:
        send(sock, GOOD, NETNS)
    async with asyncio.timeout(10):
        for _ in clients:
            await silent.came.get()
        with silent.client() as one_more:
            said = await answer(one_more)
        assert said["state"] == "refused"
        assert f"is one too many: {limit} of" in said["reason"]
        monkeypatch.setattr(callers, "identify", lambda _: Caller(9, 0, host_netns(), "0-2", False))
        with silent.client() as another:  # of whom there are none yet
            send(another, GOOD, NETNS)
            await silent.came.get()
        clients.pop().close()
        monkeypatch.setattr(callers, "identify", lambda _: make(next(numbers)))
        for _ in range(2):
            await silent.went.get()
        await asyncio.sleep(0)
        with silent.client() as successor:
            send(successor, GOOD, NETNS)
            await silent.came.get()
    for sock in clients:
        sock.close()


async def test_another_user_and_a_process_that_cannot_be_told_get_nothing(
    silent: Silent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mode of the socket keeps others away; this is what is left if somebody changes it."""
    monkeypatch.setattr(callers, "identify", lambda _: Caller(7, 1000, host_netns(), "0-1", False))
    with silent.client() as sock:
        assert "of user 1000" in (await answer(sock))["reason"]

    def unknown(_: socket.socket) -> Caller:
        raise CallerUnknown("process 7 has ended")

    monkeypatch.setattr(callers, "identify", unknown)
    for _ in range(50):
        with silent.client() as sock:
            assert (await answer(sock))["reason"] == "process 7 has ended"
    assert silent.came.empty()
    assert len([record for record in caplog.records if "enrolment refused" in record.message]) == 1, "at a limited rate"


async def test_whoever_is_refused_again_and_again_writes_no_log_of_its_own(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        assert (await agent.ask(b"[]\n", NETNS))[-1]["state"] == "refused"
    told = [record.message for record in caplog.records if "refused" in record.message]
    assert told == [f"enrolment of process {os.getpid()} refused: the request is no JSON line with version, op and pod"]


@pytest.mark.netns
async def test_a_real_process_of_another_user_gets_nothing(silent: Silent) -> None:
    silent.path.chmod(0o666)
    for directory in silent.path.parents:
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(silent.path)!r}); print(s.recv(4096))"
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", code), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert b"is of user 65534" in said
    assert silent.came.empty()


async def test_descriptors_that_ran_out_end_nothing(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come meanwhile wait in the kernel's queue."""
    monkeypatch.setattr(accepting, "SHORTAGE_SECONDS", 0.01)
    with silent.client() as first:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # whatever is open stays so
        try:
            async with asyncio.timeout(10):
                assert (await silent.short.get()).strerror == "Too many open files"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        send(first, GOOD, NETNS)
        async with asyncio.timeout(10):
            assert (await silent.came.get()).pid == os.getpid()
