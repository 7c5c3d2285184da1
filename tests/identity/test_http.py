"""One request and its answer: what is sent, and every way in which an answer can be cut off."""

import asyncio
from typing import Any

import h11
import pytest

from agent.identity import http
from agent.identity.http import Answer, exchange


class Writer:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        return


async def answered(answer: bytes, body: bytes | None = None, **headers: str) -> tuple[Answer, bytes]:
    """What came back, and what was sent."""
    reader, writer = asyncio.StreamReader(), Writer()
    reader.feed_data(answer)
    reader.feed_eof()
    stream: Any = writer
    return await exchange(reader, stream, "POST" if body else "GET", "/v1/it", body, headers), writer.written


OK = b"HTTP/1.1 200 OK\r\n"


async def test_a_request_is_sent_whole_and_asks_for_the_connections_end() -> None:
    _, sent = await answered(OK + b"Content-Length: 0\r\n\r\n", b'{"a": 1}', **{"If-None-Match": '"7"'})
    head, _, body = sent.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/it HTTP/1.1"
    assert set(lines[1:]) == {
        b"Host: authority",
        b"Connection: close",
        b'If-None-Match: "7"',
        b"Content-Type: application/json",
        b"Content-Length: 8",
    }
    assert body == b'{"a": 1}'
    _, sent = await answered(OK + b"Content-Length: 0\r\n\r\n")
    assert sent == b"GET /v1/it HTTP/1.1\r\nHost: authority\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", Answer(200, b"hello", None)),
        (OK + b"\r\nuntil the end", Answer(200, b"until the end", None)),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", Answer(200, b"hello", None)),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", Answer(304, b"", None)),
        (
            OK + b"Server: x\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 0\r\n\r\n",
            Answer(200, b"", 784887151.0),
        ),
        (OK + b"Date: yesterday\r\nContent-Length: 0\r\n\r\n", Answer(200, b"", None)),
        (OK + b"Date: \xff\xfe\r\nContent-Length: 0\r\n\r\n", Answer(200, b"", None)),
    ],
)
async def test_an_answer_is_read_to_its_end(answer: bytes, expected: Answer) -> None:
    found, _ = await answered(answer)
    assert found == expected


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 2", OK, OK + b"Content-Length: 5\r\n\r\nhell"])
async def test_an_answer_that_is_cut_off_is_none(cut: bytes) -> None:
    with pytest.raises((EOFError, h11.RemoteProtocolError)):
        await answered(cut)


async def test_an_answer_that_does_not_begin_is_an_end_and_no_error_of_http() -> None:
    with pytest.raises(EOFError, match="the connection ended before the answer"):
        await answered(b"")


async def test_an_answer_that_is_too_long_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 4)
    assert (await answered(OK + b"Content-Length: 4\r\n\r\nhell"))[0].body == b"hell"
    with pytest.raises(EOFError, match="too long"):
        await answered(OK + b"Content-Length: 5\r\n\r\nhello")
