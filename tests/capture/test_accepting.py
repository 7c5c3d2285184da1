"""Accepting: without descriptors nobody is lost, nothing spins, and somebody hears of it."""

import asyncio
import errno
import os
import re
import resource
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from agent.capture import _sockets, accepting
from agent.capture.accepting import ACCEPTED_AT_ONCE, TOLD_SECONDS, Listener, Told, advice


class Place:
    """A listener, and what became of who came."""

    def __init__(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        self.taken: asyncio.Queue[socket.socket] = asyncio.Queue()
        self.short: asyncio.Queue[OSError] = asyncio.Queue()
        self.address = sock.getsockname()
        self.listener = Listener(
            sock, self.taken.put_nowait, name="this place", told=Told(), short=self.short.put_nowait
        )

    async def serve(self) -> bytes:
        """Takes the next connection, and what it says."""
        async with asyncio.timeout(10):
            sock = await self.taken.get()
            with sock:
                assert sock.gettimeout() == 0
                return await asyncio.get_running_loop().sock_recv(sock, 100)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    yield made
    made.listener.close()
    made.listener.close()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """What is open stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_who_comes_without_descriptors_waits_and_is_served_when_there_are_some(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "SHORTAGE_SECONDS", 0.02)
    with socket.create_connection(place.address) as client:
        client.sendall(b"hello")
        with no_descriptors():
            async with asyncio.timeout(10):
                for _ in range(3):
                    assert (await place.short.get()).errno == errno.EMFILE
                    assert place.listener.paused
                    assert not asyncio.get_running_loop().remove_reader(place.listener.sock.fileno())
            assert place.taken.empty()
        assert await place.serve() == b"hello"
    (line,) = caplog.messages
    assert line == (
        "this place: nobody is accepted for 0.02 s, and who comes waits in the kernel's queue: Too many open files: "
        "this process may open no more descriptors: raise its limit (LimitNOFILE= of its unit, ulimit -n)"
    )


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
async def test_whatever_keeps_it_from_accepting_it_asks_again_only_after_a_pause(
    place: Place, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "SHORTAGE_SECONDS", 0.02)
    asked = 0

    def failing(fd: int) -> int:
        nonlocal asked
        asked += 1
        if asked <= 3:
            raise OSError(number, os.strerror(number))
        return real(fd)

    real = _sockets.accept
    monkeypatch.setattr(_sockets, "accept", failing)
    with socket.create_connection(place.address) as client:
        client.sendall(b"hello")
        assert await place.serve() == b"hello"
    assert place.short.qsize() == 3, "each of them was a pause"
    assert os.strerror(number) in caplog.text


async def test_a_connection_that_had_failed_before_keeps_nobody_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [errno.ECONNABORTED, errno.EPERM, errno.EPROTO]

    def failing(fd: int) -> int:
        if failed:
            raise OSError(failed.pop(), "")
        return real(fd)

    real = _sockets.accept
    monkeypatch.setattr(_sockets, "accept", failing)
    with socket.create_connection(place.address) as client:
        client.sendall(b"hello")
        assert await place.serve() == b"hello"
    assert place.short.empty()


async def test_a_crowd_is_accepted_in_turns(place: Place) -> None:
    crowd = [socket.create_connection(place.address) for _ in range(2 * ACCEPTED_AT_ONCE + 1)]
    place.listener._accept()
    assert place.taken.qsize() == ACCEPTED_AT_ONCE
    async with asyncio.timeout(10):
        for _ in crowd:
            (await place.taken.get()).close()
    for sock in crowd:
        sock.close()


async def test_who_is_taken_may_close_the_listener() -> None:
    taken: list[socket.socket] = []

    def take(sock: socket.socket) -> None:
        taken.append(sock)
        listener.close()

    sock = socket.create_server(("127.0.0.1", 0))
    crowd = [socket.create_connection(sock.getsockname()) for _ in range(3)]
    listener = Listener(sock, take, name="a place", told=Told())
    listener._accept()
    assert len(taken) == 1
    assert sock.fileno() == -1
    for each in (*taken, *crowd):
        each.close()


async def test_nothing_is_left_of_a_listener_that_is_closed_while_it_pauses(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "SHORTAGE_SECONDS", 0.0)
    with socket.create_connection(place.address), no_descriptors():
        async with asyncio.timeout(10):
            await place.short.get()
        place.listener.close()
        for _ in range(10):
            await asyncio.sleep(0)
    assert place.short.empty()


def test_a_line_is_told_at_a_rate_and_says_how_many_were_not() -> None:
    told = Told()
    assert told.may("a", 100.0) == 0
    assert told.may("b", 100.0) == 0, "of another kind"
    assert [told.may("a", 100.0 + TOLD_SECONDS * part) for part in (0.1, 0.5, 0.9)] == [None, None, None]
    assert told.may("a", 100.0 + TOLD_SECONDS) == 3
    assert told.may("a", 100.0 + 2 * TOLD_SECONDS) == 0


def test_each_shortage_comes_with_what_to_do() -> None:
    for number in accepting.SHORTAGES:
        assert len(advice(OSError(number, os.strerror(number)))) > len(os.strerror(number)) + 20
    assert advice(OSError(errno.EPERM, "no")) == "no"


def test_nobody_in_the_agent_accepts_in_another_way() -> None:
    """A loop's own listeners lose connections without a word."""
    agent = Path(accepting.__file__).parents[1]
    ways = ("create_server", "start_server", "start_unix_server", "create_unix_server", "sock_accept", r"sock\.accept")
    other = re.compile(rf"({'|'.join(ways)})\(")
    found = {
        str(path.relative_to(agent))
        for path in agent.rglob("*.py")
        if path.name != "accepting.py" and path.parent.name != "demo" and other.search(path.read_text())
    }
    assert found == set()


def test_under_uvloop_too_nobody_is_lost_and_a_real_process_does_not_spin(tmp_path: Path) -> None:
    """The process accepts with the limit of its own lowered; it asks the kernel once for each pause."""
    reader, writer = os.pipe()
    address = tmp_path / "listening.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(address))
    sock.listen()
    child = os.fork()
    if not child:
        os._exit(uvloop.run(_starved(sock, writer)))
    os.close(writer)
    sock.close()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(address))
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
        assert os.read(reader, 100) == b"3 pauses, 4 wake-ups"
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    assert status == 0


async def _starved(sock: socket.socket, writer: int) -> int:
    accepting.SHORTAGE_SECONDS = 0.05
    pauses = wakes = 0
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def short(_: OSError) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def counted(fd: int) -> int:
        nonlocal wakes
        wakes += bool(select.select([fd], [], [], 0)[0])
        return real(fd)

    real, _sockets.accept = _sockets.accept, counted
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    Listener(sock, taken.put_nowait, name="a process", told=Told(), short=short)
    async with asyncio.timeout(20):
        client = await taken.get()
        client.setblocking(True)
        client.sendall(client.recv(100))
    os.write(writer, f"{pauses} pauses, {wakes} wake-ups".encode())
    return 0
