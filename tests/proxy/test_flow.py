"""What happens for every message, over real sockets and on the worker's loop: nothing lost, nothing out of order."""

import asyncio
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
from tests.proxy.test_relay import Joint, Owner, hear, join, leg, settle
from tests.tls.test_machine import ends, joined

SIZES = st.lists(st.sampled_from([1, 40, 4096, 16384, 16385, 262144, 262145, 700_000]), min_size=1, max_size=4)


def on_the_workers_loop(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario

    uvloop.run(bounded())


def words(sizes: list[int]) -> list[bytes]:
    return [hashlib.shake_128(bytes([number])).digest(size) for number, size in enumerate(sizes)]


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


@settings(max_examples=15, deadline=None)
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
        assert asked == b"".join(question)
        assert answered == b"".join(answer)
        close(joint)

    on_the_workers_loop(scenario())


def close(joint: Joint) -> None:
    joint.application.close()
    joint.peer.close()


def test_what_follows_goes_behind_what_waits() -> None:
    """A reader that has stopped: the kernel takes a part, the transport the rest, and the last words come last."""

    async def scenario() -> None:
        joint = await join(buffer=100_000)
        first, last = words([2_000_000, 7])
        saying = spawn(say(joint.peer, [joint.far.seal(first), joint.far.seal(last)]), name="says")
        got = await hear_all(joint.application, len(first) + len(last), None, 100_000)
        await saying
        assert got == first + last
        close(joint)

    on_the_workers_loop(scenario())


def test_the_last_flight_of_the_handshake_goes_in_one_segment_with_the_first_words() -> None:
    async def scenario() -> None:
        bell = Bell(Deadlines())
        application_far, application = await leg(bell)
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
        application_far.close()
        peer_far.close()

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
        while not stopped.paused:  # noqa: ASYNC110 - a leg offers no event for a test to wait on
            await asyncio.sleep(0)
        saying.cancel()
        await asyncio.wait({saying})
        dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        dying.close()
        await say(other, [question])
        outcome, _ = await owner.ended
        assert outcome is (Outcome.RESET_BY_APPLICATION if who == "application" else Outcome.RESET_BY_PEER)
        other.close()

    on_the_workers_loop(scenario())


def test_a_leg_that_was_let_go_takes_nothing_more() -> None:
    async def scenario() -> None:
        far, opening = await leg(Bell(Deadlines()))
        lonely = Leg(Relay(Owner()), opening)
        lonely.received = 1
        with pytest.raises(AttributeError, match="NoneType"):
            lonely.took(b"x")
        opening.reset()
        await settle()
        far.close()

    on_the_workers_loop(scenario())
