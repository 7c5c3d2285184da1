"""The admin server always answers, whatever is sent."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import h11
import pytest

from agent.telemetry.admin import MAX_HEADER, AdminServer, Response


@pytest.fixture
async def server() -> AsyncIterator[AdminServer]:
    async def live(query: Mapping[str, str]) -> Response:
        return Response.text("alive\n")

    made = AdminServer({"/live": live})
    await made.start("127.0.0.1", 0)
    yield made
    await made.close()


async def ask(server: AdminServer, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /live HTTP/1.1", b"200"),
        (b"HEAD /live HTTP/1.1", b"200"),
        (b"GET /live?x=1 HTTP/1.1", b"200"),
        (b"GET /nothing HTTP/1.1", b"404"),
        (b"POST /live HTTP/1.1", b"405"),
        (b"nonsense", b"400"),
    ],
)
async def test_the_admin_server_answers(server: AdminServer, request_line: bytes, status: bytes) -> None:
    answer = await ask(server, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1] == status


async def test_a_header_without_end_is_refused(server: AdminServer) -> None:
    answer = await ask(server, b"GET /live HTTP/1.1\r\nx: " + b"y" * (2 * MAX_HEADER))
    assert answer.split(b" ")[1] == b"431"


async def test_a_connection_is_kept_alive(server: AdminServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for _ in range(3):
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/live", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        body = b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(1000))
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert body == b"alive\n"
    writer.close()
    await writer.wait_closed()
