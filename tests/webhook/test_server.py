"""What the webhooks' port answers, and what a stranger who reaches it may cost."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agent.tasks import spawn
from agent.webhook import server as module
from agent.webhook.certificates import Authority, bundle, new_authority, serving
from agent.webhook.review import NoReviewError
from agent.webhook.server import WebhookServer

NAME = "quietwire-webhook.quietwire.svc"
CA = new_authority(time.time())


async def echo(body: bytes) -> bytes:
    if body == b"nonsense":
        raise NoReviewError("this is no AdmissionReview")
    if body == b"fault":
        raise ZeroDivisionError("a fault of ours")
    return json.dumps({"bytes": len(body)}).encode()


class Caller:
    """A connection with the server, as an API server has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, body: bytes = b"", path: str = "/mutate", method: str = "POST") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
        return int(head.split(" ")[1]), await self.reader.readexactly(int(fields["content-length"]))

    def close(self) -> None:
        self.writer.close()


Dial = Callable[..., Awaitable[Caller]]


@asynccontextmanager
async def serving_on_loopback(made: WebhookServer) -> AsyncIterator[Dial]:
    made.show(serving(CA, [NAME], time.time()))
    port = made.start("127.0.0.1", 0)
    callers: list[Caller] = []

    async def dial(trusted: Authority = CA, name: str = NAME) -> Caller:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=bundle([trusted], time.time()).decode())
        caller = Caller(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))
        callers.append(caller)
        return caller

    try:
        yield dial
    finally:
        for each in callers:
            each.close()
        await made.stop()


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    async with serving_on_loopback(WebhookServer({"/mutate": echo})) as dialled:
        yield dialled


async def test_one_connection_asks_again_and_again(dial: Dial) -> None:
    caller = await dial()
    assert await caller.ask(b"x" * 10) == (200, b'{"bytes": 10}')
    assert await caller.ask(b"x" * 1_000_000) == (200, b'{"bytes": 1000000}')
    assert await caller.ask(method="GET", path="/ready") == (200, b"ready\n")


@pytest.mark.parametrize(
    ("body", "path", "method", "status"),
    [
        (b"nonsense", "/mutate", "POST", 400),
        (b"x", "/elsewhere", "POST", 404),
        (b"x", "/mutate", "PUT", 405),
        (b"fault", "/mutate", "POST", 500),
    ],
)
async def test_what_is_no_question_is_said_so_without_a_traceback(
    dial: Dial, body: bytes, path: str, method: str, status: int
) -> None:
    caller = await dial()
    found, words = await caller.ask(body, path, method)
    assert found == status
    assert b"Traceback" not in words
    assert b"ZeroDivision" not in words
    assert await caller.ask(b"x") == (200, b'{"bytes": 1}'), "and it goes on"


async def test_a_body_that_is_too_large_is_refused_before_it_is_there(dial: Dial) -> None:
    caller = await dial()
    caller.writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
    caller.writer.write(b"x" * (module.MAX_BODY + 1))
    status, words = await caller.answer()
    assert (status, words) == (413, b"a question may have 4194304 bytes\n")


async def test_all_bodies_together_are_bounded_and_what_was_held_is_given_back(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED", 1000)
    caller = await dial()
    assert await caller.ask(b"x" * 1000) == (200, b'{"bytes": 1000}')
    assert await caller.ask(b"x" * 1000) == (200, b'{"bytes": 1000}')
    assert (await caller.ask(b"x" * 1001))[0] == 503
    assert await (await dial()).ask(b"x" * 1000) == (200, b'{"bytes": 1000}')


async def test_no_http_is_answered_with_400(dial: Dial) -> None:
    caller = await dial()
    caller.writer.write(b"\x00\x01\r\n\r\n")
    assert (await caller.answer())[0] == 400


async def test_a_request_that_does_not_come_to_its_end_ends(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    caller = await dial()
    caller.writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx")
    assert await caller.reader.read() == b""


async def test_when_all_places_are_taken_whoever_was_silent_for_longest_makes_room(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    silent, known = await dial(), await dial()
    assert (await known.ask(b"x"))[0] == 200
    assert (await (await dial()).ask(b"x"))[0] == 200
    assert await silent.reader.read() == b""
    assert (await known.ask(b"x"))[0] == 200


async def test_a_certificate_that_is_shown_anew_is_that_of_connections_to_come() -> None:
    made, other = WebhookServer({"/mutate": echo}), new_authority(time.time())
    async with serving_on_loopback(made) as dial:
        before = await dial()
        made.show(serving(other, [NAME], time.time()))
        assert (await before.ask(b"x"))[0] == 200
        assert (await (await dial(other)).ask(b"x"))[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await dial(CA)


async def test_a_caller_that_expects_another_name_is_not_served(dial: Dial) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await dial(name="elsewhere.quietwire.svc")


async def test_at_the_end_what_was_asked_is_answered() -> None:
    made = WebhookServer({"/mutate": echo})
    async with serving_on_loopback(made) as dial:
        idle, asking = await dial(), await dial()
        assert (await idle.ask(b"x"))[0] == 200
        asking.writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
        assert (await (await dial()).ask(b"x"))[0] == 200
        stopping = spawn(made.stop(), name="stopping")
        assert await idle.reader.read() == b""
        asking.writer.write(b"x")
        assert await asking.answer() == (200, b'{"bytes": 2}')
        await stopping


async def test_an_address_that_is_taken_is_named() -> None:
    made = WebhookServer({})
    async with serving_on_loopback(made):
        assert made._listener is not None
        port = made._listener.sock.getsockname()[1]
        with pytest.raises(OSError, match=rf"--listen 127.0.0.1:{port} cannot be listened on"):
            WebhookServer({}).start("127.0.0.1", port)
