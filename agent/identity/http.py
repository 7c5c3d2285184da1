"""One HTTP request and its answer over a stream that is there: RFC 9112, with Connection: close."""

import asyncio
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import h11
from msgspec import Struct

MAX_ANSWER = 16 * 1024 * 1024


class Answer(Struct, frozen=True):
    """What came back. `date` is the server's clock, POSIX seconds; None where it does not say."""

    status: int
    body: bytes
    date: float | None


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    body: bytes | None,
    more: Mapping[str, str],
) -> Answer:
    """Sends and receives. Raises EOFError, OSError, h11.RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "authority"), ("Connection", "close"), *more.items()]
    if body is not None:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    out = connection.send(h11.Request(method=method, target=target, headers=headers)) or b""
    if body is not None:
        out += connection.send(h11.Data(data=body)) or b""
    out += connection.send(h11.EndOfMessage()) or b""
    writer.write(out)
    await writer.drain()
    status, date, answer = 0, None, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(65536)
            if not data and status == 0:
                raise EOFError("the connection ended before the answer")
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            status, date = event.status_code, _date(event)
        elif isinstance(event, h11.Data):
            answer += event.data
            if len(answer) > MAX_ANSWER:
                raise EOFError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, bytes(answer), date)
        elif isinstance(event, h11.ConnectionClosed):
            raise EOFError("the connection ended before the answer")


def _date(response: h11.Response) -> float | None:
    for name, value in response.headers:
        if name == b"date":
            try:
                return parsedate_to_datetime(value.decode("ascii")).timestamp()
            except ValueError:
                return None
    return None
