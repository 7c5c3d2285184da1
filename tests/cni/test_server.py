"""The socket of the runtime's program: who is heard, what bounds him, and what an agent that ends leaves."""

import asyncio
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agent.cni import server
from agent.cni.request import MAX_BYTES, CniError, Code, Request
from agent.cni.server import CniSocket
from tests.cni.asked import configuration, environment, frame

Handler = Callable[[Request], Awaitable[bytes]]
Serve = Callable[[Handler], CniSocket]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cni" / "cni.sock"


@pytest.fixture
async def serve(path: Path) -> AsyncIterator[Serve]:
    made: list[CniSocket] = []

    def make(handler: Handler) -> CniSocket:
        made.append(CniSocket(path, handler))
        made[-1].start(made[-1].bind())
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def ask(path: Path, data: bytes) -> bytes:
    """What is answered, until the end."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


QUESTION = frame(environment("ADD"), configuration("192.0.2.7/24", version="1.0.0"))


async def test_a_question_is_answered_with_what_the_plugin_prints(path: Path, serve: Serve) -> None:
    asked: list[Request] = []

    async def handler(request: Request) -> bytes:
        asked.append(request)
        return b"printed"

    serve(handler)
    assert await ask(path, QUESTION) == b"0 7\nprinted"
    assert [each.pod for each in asked] == ["demo/api"]


async def test_an_error_has_the_version_of_the_question(path: Path, serve: Serve) -> None:
    async def handler(_: Request) -> bytes:
        raise CniError(Code.TRY_AGAIN, "not now", "because")

    serve(handler)
    said = await ask(path, QUESTION)
    assert said.startswith(b"1 ")
    assert said.endswith(b'{"cniVersion":"1.0.0","code":11,"msg":"not now","details":"because"}\n')
    assert b'"cniVersion":"1.1.0"' in await ask(path, b"something else")


def test_only_its_owner_reaches_it(path: Path) -> None:
    CniSocket(path, answers_nothing).bind().close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def open_to_all(path: Path) -> None:
    """As it must not be."""
    for each in (path.parent, *path.parents[1:5]):
        each.chmod(each.stat().st_mode | 0o111)
    path.chmod(0o666)


async def answers_nothing(_: Request) -> bytes:
    return b""


@pytest.mark.netns
async def test_another_user_is_not_heard_even_where_the_modes_would_let_him(
    path: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    serve(answers_nothing)
    open_to_all(path)
    script = f"""
import os, socket
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect({str(path)!r})
    print(sock.recv(10))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    assert said == b"b''\n"
    assert "of user 65534" in caplog.text


async def test_one_too_many_is_told_so_in_the_log_and_others_are_answered(
    path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    going, all_here = asyncio.Event(), asyncio.Semaphore(0)

    async def handler(_: Request) -> bytes:
        all_here.release()
        await going.wait()
        return b""

    serve(handler)
    waiting = [asyncio.create_task(ask(path, QUESTION)) for _ in range(2)]  # noqa: TID251 - the test's own
    for _ in range(2):
        await all_here.acquire()
    reader, writer = await asyncio.open_unix_connection(str(path))
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert "one too many: 2 wait" in caplog.text
    going.set()
    assert await asyncio.gather(*waiting) == [b"0 0\n"] * 2
    assert await ask(path, QUESTION) == b"0 0\n"


async def test_who_says_too_little_or_too_much_is_let_go(
    path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.05)
    serve(answers_nothing)
    reader, writer = await asyncio.open_unix_connection(str(path))
    assert await reader.read() == b"", "no question came in time"
    writer.close()
    await writer.wait_closed()
    assert "in time" in caplog.text
    monkeypatch.setattr(server, "REQUEST_SECONDS", 5.0)
    assert b"longer than" in await ask(path, b"x" * (MAX_BYTES + 65537))


async def test_an_agent_that_ends_answers_nobody_who_waits(path: Path, serve: Serve) -> None:
    here = asyncio.Event()

    async def handler(_: Request) -> bytes:
        here.set()
        await asyncio.Event().wait()
        return b"never"

    made = serve(handler)
    waiting = asyncio.create_task(ask(path, QUESTION))  # noqa: TID251 - the test's own
    await here.wait()
    await made.close()
    assert await waiting == b""
    with pytest.raises(FileNotFoundError):
        await ask(path, QUESTION)
