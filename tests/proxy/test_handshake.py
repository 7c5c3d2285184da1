"""A handshake over a leg: what goes out when, what is left for the relay, and how it fails."""

import asyncio

import pytest

from agent.outcome import Outcome
from agent.proxy.handshake import shake_hands
from agent.proxy.opening import Bell, Deadlines, Opening
from agent.proxy.refusal import Refusal
from agent.tasks import spawn
from tests.proxy.fakes import Transport, opening
from tests.tls.test_machine import ends


def written(leg: Opening) -> bytes:
    """What went out since it was asked last."""
    transport = leg.transport
    assert isinstance(transport, Transport)
    out, transport.written = transport.written, b""
    return out


def soon(seconds: float = 10) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_clients_last_flight_waits_for_the_relays_first_words() -> None:
    leg = opening(Bell(Deadlines()))
    near, far = ends()
    shaking = spawn(shake_hands(leg, near, soon()), name="shakes hands")
    await asyncio.sleep(0)
    far.receive(written(leg))
    leg.keep(far.outgoing())
    assert await shaking == b""
    assert near.handshake_complete
    assert written(leg) == b"", "and no segment of its own"
    far.receive(near.outgoing())
    assert far.handshake_complete


async def test_what_came_with_a_clients_last_flight_is_handed_on_decrypted() -> None:
    leg = opening(Bell(Deadlines()))
    far, near = ends()
    far.start()
    leg.keep(far.outgoing())
    shaking = spawn(shake_hands(leg, near, soon()), name="shakes hands")
    await asyncio.sleep(0)
    far.receive(written(leg))
    leg.keep(far.outgoing() + far.seal(b"question"))
    assert await shaking == b"question"


async def test_what_is_too_much_for_one_turn_is_kept_behind_what_was_handed_on() -> None:
    """A crowd of tiny records right behind the last flight: nothing is lost, and nothing is opened twice."""
    leg = opening(Bell(Deadlines()))
    far, near = ends()
    far.start()
    leg.keep(far.outgoing())
    shaking = spawn(shake_hands(leg, near, soon()), name="shakes hands")
    await asyncio.sleep(0)
    far.receive(written(leg))
    sealed = [far.seal(bytes([number % 256])) for number in range(600)]
    leg.keep(far.outgoing() + b"".join(sealed))
    first = await shaking
    assert 0 < len(first) < len(sealed)
    assert bytes(leg.held) == b"".join(sealed[len(first) :])
    assert first + near.receive(leg.take()) == bytes(number % 256 for number in range(600))


async def test_what_is_no_handshake_is_refused_with_openssls_alert() -> None:
    leg = opening(Bell(Deadlines()))
    leg.keep(b"\x16\x03\x01\x00\x04junk")
    with pytest.raises(Refusal) as refused:
        await shake_hands(leg, ends()[1], soon())
    assert refused.value.outcome is Outcome.HANDSHAKE_FAILED
    assert refused.value.alert.startswith(b"\x15")
    assert refused.value.message.startswith("TLS failed: ")


@pytest.mark.parametrize(
    ("end", "outcome", "words"),
    [
        ("lost", Outcome.HANDSHAKE_FAILED, "the peer reset the connection in the handshake"),
        ("eof", Outcome.HANDSHAKE_FAILED, "the peer ended the connection in the handshake"),
        ("silence", Outcome.HANDSHAKE_TIMEOUT, "the handshake was not finished in time"),
    ],
)
async def test_a_peer_that_leaves_or_says_nothing_is_told_apart(end: str, outcome: Outcome, words: str) -> None:
    leg = opening(Bell(Deadlines()))
    if end == "lost":
        leg.connection_lost(ConnectionResetError())
    elif end == "eof":
        leg.eof_received()
    with pytest.raises(Refusal) as refused:
        await shake_hands(leg, ends()[0], soon(0.01))
    assert refused.value.message == words
    assert refused.value.outcome is outcome
    assert refused.value.alert == b""
    assert isinstance(refused.value.__cause__, ConnectionResetError) is (end == "lost")
