"""What an inbound connection is, and that finding out costs an application no time."""

import asyncio
from collections.abc import Callable

import pytest

from agent.outcome import Outcome
from agent.proxy import detect
from agent.proxy.detect import MeshTls, NotMesh, Rejected, Unauthenticated, classify, first_speaker, wait_for_hello
from agent.proxy.opening import MAX_HELD, Bell, Deadlines, Opening
from agent.tasks import spawn
from agent.tls.client_hello import MAX_CLIENT_HELLO, MAX_RECORDS, TLS_1_3, ClientHello, parse
from tests.tls.test_client_hello import NAME, Counted, by_python, records


class Transport(asyncio.Transport):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self._paused = False

    def is_paused(self) -> bool:
        return self._paused

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False


def opening(bell: Bell) -> Opening:
    made = Opening(bell, -1)
    made.connection_made(Transport())
    return made


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n", Unauthenticated(NotMesh.NOT_TLS), id="http"),
        pytest.param(by_python("other.test"), Unauthenticated(NotMesh.OTHER_NAME), id="other name"),
        pytest.param(by_python()[:100], None, id="half a hello"),
        pytest.param(
            b"\x16\x03\x01\x40\x00\x01\x01\x00\x00",
            Unauthenticated(NotMesh.TOO_LARGE, Outcome.CLIENT_HELLO_TOO_LARGE),
            id="too large",
        ),
        pytest.param(
            b"\x16\x03\x01\x00\x00", Unauthenticated(NotMesh.MALFORMED, Outcome.CLIENT_HELLO_MALFORMED), id="malformed"
        ),
    ],
)
def test_first_bytes_are_classified(data: bytes, expected: object) -> None:
    assert classify(parse(data), NAME) == expected


def test_a_hello_for_this_pods_name_is_mesh_tls_in_any_case() -> None:
    hello = parse(by_python())
    assert isinstance(hello, ClientHello)
    assert classify(hello, NAME) == MeshTls(hello)
    assert isinstance(classify(parse(by_python(NAME.upper())), NAME), MeshTls)


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        pytest.param(by_python(old=True), Outcome.TLS_VERSION, id="TLS 1.2"),
        pytest.param(by_python(NAME, ("foreign",)), Outcome.NO_APPLICATION_PROTOCOL, id="foreign ALPN"),
    ],
)
def test_mesh_tls_that_cannot_be_served_is_rejected(data: bytes, outcome: Outcome) -> None:
    found = classify(parse(data), NAME)
    assert isinstance(found, Rejected)
    assert found.outcome is outcome
    assert ("does not offer TLS 1.3" in found.message) is (outcome is Outcome.TLS_VERSION)


def test_of_what_a_stranger_offers_a_refusal_names_a_little() -> None:
    """It goes to the log, twenty times a second."""
    offered = (b"one", b"\xff\n" * 100, *(b"x%03d" % number * 50 for number in range(60)))
    found = classify(ClientHello(NAME, offered, (TLS_1_3,)), NAME)
    assert isinstance(found, Rejected)
    assert found.outcome is Outcome.NO_APPLICATION_PROTOCOL
    assert "the client offers only one, \\xff" in found.message
    assert "and 58 more by ALPN" in found.message
    assert len(found.message) < 500


@pytest.mark.parametrize(("number", "words"), [(1, "x0"), (4, "x0, x1, x2, x3"), (5, "x0, x1, x2, x3 and 1 more")])
def test_what_is_left_out_of_a_strangers_words_is_counted(number: int, words: str) -> None:
    offered = tuple(b"x%d" % each for each in range(number))
    found = classify(ClientHello(NAME, offered, (TLS_1_3,)), NAME)
    assert isinstance(found, Rejected)
    assert found.message.startswith(f"the client offers only {words} by ALPN; ")


async def test_a_hello_that_comes_in_pieces_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    client = opening(Bell(Deadlines()))
    for number, byte in enumerate(by_python()):
        loop.call_later(0.0001 * number, client.keep, bytes([byte]))
    assert isinstance(await wait_for_hello(client, NAME, loop.time() + 10), MeshTls)
    assert bytes(client.held) == by_python(), "nothing was consumed"


@pytest.mark.parametrize("way", ["a ClientHello is waited for", "whoever speaks first decides"])
async def test_a_hello_that_comes_byte_by_byte_is_looked_at_once(way: str) -> None:
    """As large and as much cut up as one may be: what is looked at grows with its length, not with the square of it."""
    loop = asyncio.get_running_loop()
    bell = Bell(Deadlines())
    client, application, deadline = opening(bell), opening(bell), loop.time() + 60
    client.held = held = Counted()
    size = MAX_CLIENT_HELLO - 4
    message = b"\x01" + size.to_bytes(3, "big") + bytes(size)
    cut = records(message, list(range(1, MAX_RECORDS)))

    async def arrive() -> None:
        for byte in cut:
            client.keep(bytes([byte]))
            await asyncio.sleep(0)

    arriving = spawn(arrive(), name="arrives")
    if way == "a ClientHello is waited for":
        found = await wait_for_hello(client, NAME, deadline)
    else:
        found = await first_speaker(client, application, NAME, deadline, lambda: True)
    await arriving
    assert found == Unauthenticated(NotMesh.MALFORMED, Outcome.CLIENT_HELLO_MALFORMED)
    assert held.looked_at < 10 * len(cut)


async def test_silence_is_ended_by_the_deadline() -> None:
    loop = asyncio.get_running_loop()
    found = await wait_for_hello(opening(Bell(Deadlines())), NAME, loop.time() + 0.01)
    assert found == Unauthenticated(NotMesh.SILENT, Outcome.HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize("event", [Opening.eof_received, lambda leg: leg.connection_lost(None)])
async def test_an_end_before_the_hello_is_noticed(event: Callable[[Opening], object]) -> None:
    loop = asyncio.get_running_loop()
    client = opening(Bell(Deadlines()))
    client.keep(by_python()[:20])
    loop.call_soon(event, client)
    assert await wait_for_hello(client, NAME, loop.time() + 10) == Unauthenticated(NotMesh.ENDED)


async def speakers(act: Callable[[Opening, Opening], None], still: Callable[[], bool] = lambda: True) -> object:
    loop = asyncio.get_running_loop()
    bell = Bell(Deadlines())
    client, application = opening(bell), opening(bell)
    loop.call_soon(act, client, application)
    async with asyncio.timeout(5):
        return await first_speaker(client, application, NAME, loop.time() + 0.2, still)


async def test_a_client_that_speaks_first_decides() -> None:
    assert await speakers(lambda client, _: client.keep(b"hello")) == Unauthenticated(NotMesh.NOT_TLS)
    assert isinstance(await speakers(lambda client, _: client.keep(by_python())), MeshTls)


async def test_an_application_that_speaks_first_is_held_only_briefly() -> None:
    found = await speakers(lambda _, application: application.keep(b"220 ready"))
    assert found == Unauthenticated(NotMesh.APPLICATION_FIRST)


async def test_a_hello_that_was_on_its_way_while_the_application_spoke_is_mesh_tls() -> None:
    def act(client: Opening, application: Opening) -> None:
        application.keep(b"220 ready")
        client.keep(by_python())

    assert isinstance(await speakers(act), MeshTls)


async def test_the_beginning_of_a_hello_is_waited_for_though_the_application_speaks() -> None:
    def act(client: Opening, application: Opening) -> None:
        client.keep(by_python()[:50])
        application.keep(b"220 ready")

    assert await speakers(act) == Unauthenticated(NotMesh.SILENT)


@pytest.mark.parametrize("event", [Opening.eof_received, lambda leg: leg.connection_lost(None)])
async def test_a_client_that_ends_without_a_word_is_waited_for_no_more(event: Callable[[Opening], object]) -> None:
    def act(client: Opening, _: Opening) -> None:
        event(client)

    assert await speakers(act) == Unauthenticated(NotMesh.ENDED)


async def test_a_hello_may_come_as_long_as_the_application_is_held_however_much_that_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "HOLD_SECONDS", 60.0)
    loop = asyncio.get_running_loop()

    def act(client: Opening, application: Opening) -> None:
        application.keep(b"220 ready")
        loop.call_later(0.001, application.keep, b"220 ready still")
        loop.call_later(0.002, client.keep, by_python())

    assert isinstance(await speakers(act), MeshTls)


async def test_while_nobody_speaks_nothing_is_looked_at_for_an_hour() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines()
    bell = Bell(deadlines)
    client, application, begun = opening(bell), opening(bell), loop.time()
    waiting = spawn(first_speaker(client, application, NAME, begun, lambda: True), name="waits")
    await asyncio.sleep(0)
    (until,) = deadlines._waiters.values()
    assert begun + detect.SILENCE_SECONDS <= until < begun + detect.SILENCE_SECONDS + 60
    client.eof_received()
    assert await waiting == Unauthenticated(NotMesh.ENDED)


async def test_a_policy_that_changes_while_nobody_speaks_ends_the_wait() -> None:
    allowed = [True]

    def act(client: Opening, _: Opening) -> None:
        allowed.clear()
        client.bell.ring()

    assert await speakers(act, lambda: bool(allowed)) == Unauthenticated(NotMesh.SILENT)


async def test_what_is_held_is_bounded_and_reading_goes_on_once_it_is_taken() -> None:
    client = opening(Bell(Deadlines()))
    transport = client.transport
    assert isinstance(transport, Transport)
    client.keep(bytes(MAX_HELD - 1))
    assert not transport.is_paused()
    client.keep(b"x")
    assert transport.is_paused()
    assert len(client.take()) == MAX_HELD
    assert not transport.is_paused()
