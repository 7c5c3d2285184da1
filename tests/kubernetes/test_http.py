"""HTTP on one connection, whatever the other side does: what is whole is taken, what is cut off is an error."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.errors import Unreachable
from agent.kubernetes.http import Connection, ConnectionEnded

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next of its answers, and closes where there is none left."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self.answers:
                self.heard.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answers.pop(0))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            return  # whoever asked has left
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def connected(*answers: bytes) -> AsyncIterator[tuple[Connection, Server]]:
    played = Server(*answers)
    server = await asyncio.start_server(played.serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    connection = Connection(reader, writer, "192.0.2.1:6443")
    try:
        yield connection, played
    finally:
        connection.close()
        server.close()
        await server.wait_closed()


async def test_one_connection_carries_one_request_after_another() -> None:
    async with connected(OK, OK) as (connection, server):
        for _ in range(2):
            head = await connection.ask("GET", "/version", [("Accept", "application/json")], None)
            assert (head.status, head.content_type) == (200, "application/json")
            assert await connection.body(100) == b"{}"
            assert connection.reusable
    assert len(server.heard) == 2
    assert b"Host: 192.0.2.1:6443\r\n" in server.heard[0]


async def test_it_is_not_used_again_before_an_answer_is_read_to_its_end() -> None:
    async with connected(OK) as (connection, _):
        await connection.ask("GET", "/", [], None)
        assert not connection.reusable


async def test_it_is_not_used_again_where_the_server_says_so() -> None:
    async with connected(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)) as (connection, _):
        await connection.ask("GET", "/", [], None)
        await connection.body(100)
        assert not connection.reusable


async def test_an_end_before_any_answer_is_told_from_one_in_the_middle() -> None:
    async with connected() as (connection, _):
        with pytest.raises(ConnectionEnded):
            await connection.ask("GET", "/", [], None)
    async with connected(OK[:-1]) as (connection, _):
        await connection.ask("GET", "/", [], None)
        with pytest.raises(Unreachable, match="cut off") as raised:
            await connection.body(100)
        assert not isinstance(raised.value, ConnectionEnded)


async def test_chunks_come_as_they_are_sent() -> None:
    async with connected(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") as (connection, _):
        await connection.ask("GET", "/", [], None)
        assert b"".join([chunk async for chunk in connection.chunks()]) == b"abcde"
        assert connection.reusable


async def test_a_stream_that_is_cut_off_is_no_end() -> None:
    async with connected(CHUNKED + b"3\r\nabc\r\n") as (connection, _):
        await connection.ask("GET", "/", [], None)
        chunks = connection.chunks()
        assert await anext(chunks) == b"abc"
        with pytest.raises(Unreachable, match="cut off"):
            await anext(chunks)


async def test_an_answer_that_is_too_long_is_refused() -> None:
    async with connected(OK.replace(b"Length: 2", b"Length: 200") + b"x" * 200) as (connection, _):
        await connection.ask("GET", "/", [], None)
        with pytest.raises(Unreachable, match="over the limit of 100 bytes"):
            await connection.body(100)


async def test_a_head_that_does_not_end_is_refused() -> None:
    async with connected(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000) as (connection, _):
        with pytest.raises(Unreachable, match="no HTTP"):
            await connection.ask("GET", "/", [], None)


@pytest.mark.parametrize(("value", "seconds"), [(b"7", 7.0), (b"soon", None), (b"-1", None), ("²".encode(), None)])
async def test_how_long_to_wait_is_what_the_server_says(value: bytes, seconds: float | None) -> None:
    busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n"
    async with connected(busy) as (connection, _):
        assert (await connection.ask("GET", "/", [], None)).retry_after == seconds


@given(st.binary(max_size=60), st.booleans())
async def test_whatever_is_answered_is_an_answer_or_unreachable(answer: bytes, begun: bool) -> None:
    async with connected((CHUNKED if begun else b"") + answer) as (connection, _):
        body = b""
        with contextlib.suppress(Unreachable):
            head = await connection.ask("GET", "/", [], None)
            body = await connection.body(1000)
            assert head.status >= 200
        assert len(body) <= len(answer), "nothing that was not sent"
