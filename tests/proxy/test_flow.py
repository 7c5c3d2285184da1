"""What happens for every message, over real sockets and on the worker's loop: nothing lost, nothing out of order."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outcome import Outcome
from agent.proxy.opening import Bell, Deadlines
from agent.proxy.relay import Leg, Relay, TlsLeg
from agent.tasks import spawn
from agent.tls.machine import TlsMachine
from tests.proxy.test_relay import Owner, hear, join, leg, put_away, settle
from tests.tls.test_machine import ends, joined

SIZES = st.lists(st.sampled_from([1, 40, 4096, 16384, 16385, 262144, 262145, 700_000]), min_size=1, max_size=4)


def on_the_workers_loop(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        try:
            async with asyncio.timeout(30):
                await scenario
        finally:
            await put_away()

    uvloop.run(bounded())


def words(sizes: list[int]) -> list[bytes]:
    return [hashlib.shake_128(bytes([number])).digest(size) for number, size in enumerate(sizes)]


def digest(data: bytes) -> str:
    """What is compared: pytest would show the difference of megabytes, for minutes."""
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()}"


async def say(sock: socket.socket, said: list[bytes]) -> None:
    for each in said:
        await asyncio.get_running_loop().sock_sendall(sock, each)


async def hear_all(sock: socket.socket, length: int, far: TlsMachine | None, at_once: int) -> bytes:
    """Reads a little at a time, so that the sender's socket is full again and again."""
    got = bytearray()
    while len(got) < length:
        data = await asyncio.get_running_loop().sock_recv(sock, at_once)
        assert data, "no end before its time"
        got += data if far is None else far.receive(data)
    return bytes(got)


@settings(max_examples=15)
@given(SIZES, SIZES, st.sampled_from([7777, 65536]), st.sampled_from([0, 100_000]))
def test_both_ends_hear_what_the_other_says_whole_and_in_order(
    there: list[int], back: list[int], at_once: int, buffer: int
) -> None:
    async def scenario() -> None:
        joint = await join(buffer)
        question, answer = words(there), words(back)
        sealed = [joint.far.seal(each) for each in answer]
        asked, answered, *_ = await asyncio.gather(
            hear_all(joint.peer, sum(there), joint.far, at_once),
            hear_all(joint.application, sum(back), None, at_once),
            say(joint.application, question),
            say(joint.peer, sealed),
        )
        assert digest(asked) == digest(b"".join(question))
        assert digest(answered) == digest(b"".join(answer))

    on_the_workers_loop(scenario())


def test_what_follows_goes_behind_what_waits_even_where_the_kernel_has_room_again() -> None:
    """The transport holds a part, and hears in the loop's next turn that it may go on. What comes before that waits."""

    async def scenario() -> None:
        far, opening = await leg(Bell(Deadlines()), buffer=100_000)
        near = Leg(Relay(Owner()), opening)
        first, last = words([8_000_000, 7])
        near.forward(first)
        assert near.transport.get_write_buffer_size() > 0, "the kernel did not take all"
        got = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                got += far.recv(1_000_000)
        near.forward(last)
        got += await hear_all(far, len(first) + len(last) - len(got), None, 1_000_000)
        assert digest(got) == digest(first + last)

    on_the_workers_loop(scenario())


def test_the_last_flight_of_the_handshake_goes_in_one_segment_with_the_first_words() -> None:
    async def scenario() -> None:
        bell = Bell(Deadlines())
        _, application = await leg(bell)
        peer_far, peer = await leg(bell)
        near, far = ends()
        near.start()
        far.receive(near.outgoing())
        near.receive(far.outgoing())
        assert near.handshake_complete
        assert near.out_used, "its Finished waits"
        application.keep(b"question")
        relay = Relay(Owner())
        relay.start(Leg(relay, application), application, TlsLeg(relay, peer, near), peer, b"")
        assert far.receive(await hear(peer_far)) == b"question", "one read brings both"

    on_the_workers_loop(scenario())


@pytest.mark.parametrize("who", ["application", "peer"])
def test_an_error_that_only_sending_hears_of_is_the_legs_that_has_it(who: str) -> None:
    """The one that dies is not being read: its reading is paused, because the other one does not take its bytes."""

    async def scenario() -> None:
        bell, owner = Bell(Deadlines()), Owner()
        application_far, application = await leg(bell)
        peer_far, peer = await leg(bell)
        far, near = joined()
        relay = Relay(owner)
        relay.start(Leg(relay, application), application, TlsLeg(relay, peer, near), peer, b"")
        flood = bytes(6_000_000)
        if who == "application":
            dying, other, unread, question = application_far, peer_far, flood, far.seal(b"x")
        else:
            dying, other, unread, question = peer_far, application_far, far.seal(flood), b"x"
        stopped = getattr(relay, who)
        saying = spawn(say(dying, [unread]), name="says")
        while not stopped.paused:
            await settle()
        saying.cancel()
        await asyncio.wait({saying})
        dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        dying.close()
        await say(other, [question])
        outcome, _ = await owner.ended
        assert outcome is (Outcome.RESET_BY_APPLICATION if who == "application" else Outcome.RESET_BY_PEER)

    on_the_workers_loop(scenario())


def test_a_leg_that_was_let_go_takes_nothing_more() -> None:
    async def scenario() -> None:
        _, opening = await leg(Bell(Deadlines()))
        lonely = Leg(Relay(Owner()), opening)
        lonely.received = 1
        with pytest.raises(AttributeError, match="NoneType"):
            lonely.took(b"x")

    on_the_workers_loop(scenario())
