"""What happens for every message, over real sockets and on the worker's loop: nothing lost, nothing out of order."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outcome import Outcome
from agent.proxy.handshake import shake_hands
from agent.proxy.opening import Bell, Deadlines, Opening
from agent.proxy.relay import Relay, TlsLeg
from agent.tasks import spawn
from agent.tls.machine import TlsMachine
from tests.proxy.test_relay import ALLOWED, Owner, drain, hear, join, leg, put_away, settle
from tests.tls.records import ALERT, before_server, towards_server
from tests.tls.test_machine import SERVER, ends, joined

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
        near = Relay(Owner(), ALLOWED, opening, opening).application
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
        relay = Relay(Owner(), ALLOWED, application, peer, near)
        relay.start(application, peer, b"")
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
        relay = Relay(owner, ALLOWED, application, peer, near)
        relay.start(application, peer, b"")
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
        lonely = Relay(Owner(), ALLOWED, opening, opening).application
        lonely.let_go()
        lonely.received = 1
        with pytest.raises(AttributeError, match="NoneType"):
            lonely.took(b"x")

    on_the_workers_loop(scenario())


AT_ONCE = 512
"""Records that one turn of the loop opens for one connection."""
CLOSE_NOTIFY = b"\x01\x00"


class CountedLeg(TlsLeg):
    """Notes how many bytes each of its callbacks has received."""

    def __init__(self, relay: Relay, opening: Opening, machine: TlsMachine) -> None:
        super().__init__(relay, opening, machine)
        self.at_once: list[int] = []
        self.put_by = asyncio.Event()

    def buffer_updated(self, nbytes: int) -> None:
        before = self.received
        super().buffer_updated(nbytes)
        self._note(before)

    def go_on(self) -> None:
        before = self.received
        super().go_on()
        self._note(before)

    def _note(self, before: int) -> None:
        self.at_once.append(self.received - before)
        if self.behind:
            self.put_by.set()


async def flooded(far: socket.socket, opening: Opening, machine: TlsMachine, application: Opening) -> CountedLeg:
    """A relay whose peer's leg is watched."""
    return watched_relay(Owner(), opening, machine, application, b"")


def watched_relay(owner: Owner, peer: Opening, machine: TlsMachine, application: Opening, first: bytes) -> CountedLeg:
    relay = Relay(owner, ALLOWED, application, peer, machine)
    relay.peer = watched = CountedLeg(relay, peer, machine)
    relay.application.facing(watched)
    watched.facing(relay.application)
    relay.start(application, peer, first)
    return watched


def test_a_crowd_of_tiny_records_is_taken_in_turns_and_heard_whole_with_its_end(tmp_path: Path) -> None:
    """One read brings ten thousand: others get their turn between each few hundred, and nothing is out of order."""

    async def scenario() -> None:
        bell = Bell(Deadlines())
        application_far, application = await leg(bell)
        peer_far, peer = await leg(bell)
        writer, machine = towards_server(tmp_path, SERVER)
        watched = await flooded(peer_far, peer, machine, application)
        said = hashlib.shake_128(b"crowd").digest(10_000)
        crowd = b"".join(writer.record(said[at : at + 1]) for at in range(len(said)))
        saying = spawn(say(peer_far, [crowd + writer.record(CLOSE_NOTIFY, ALERT)]), name="says")
        got = await hear_all(application_far, len(said), None, 65536)
        assert digest(got) == digest(said)
        assert await hear(application_far) == b"", "and its end"
        await saying
        assert max(watched.at_once) == AT_ONCE

    on_the_workers_loop(scenario())


def test_what_came_before_the_relay_began_is_taken_in_turns_too_and_its_end_comes_behind_it(tmp_path: Path) -> None:
    """The end of TCP's stream is known already: it is no truncation, close_notify is among what is put by."""

    async def scenario() -> None:
        bell = Bell(Deadlines())
        application_far, application = await leg(bell)
        peer_far, peer = await leg(bell)
        writer, machine, flight = before_server(tmp_path, SERVER)
        crowd = b"".join(writer.record(b"x") for _ in range(5 * AT_ONCE))
        await say(peer_far, [flight + crowd + writer.record(CLOSE_NOTIFY, ALERT)])
        peer_far.shutdown(socket.SHUT_WR)
        while not (peer.eof and peer.held):
            await settle()
        first = await shake_hands(peer, machine, asyncio.get_running_loop().time() + 10)
        assert len(first) == AT_ONCE, "and the rest is held"
        watched = watched_relay(owner := Owner(), peer, machine, application, first)
        got = await hear_all(application_far, 5 * AT_ONCE, None, 65536)
        assert digest(got) == digest(b"x" * 5 * AT_ONCE)
        assert await hear(application_far) == b"", "and its end"
        assert max(watched.at_once) == AT_ONCE
        assert sum(watched.at_once) == 3 * AT_ONCE, "there were two turns before"
        application_far.close()
        assert (await owner.ended)[0] is Outcome.COMPLETED

    on_the_workers_loop(scenario())


def test_while_the_application_does_not_read_what_was_put_by_waits_and_then_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        bell = Bell(Deadlines())
        application_far, application = await leg(bell, 5000)
        peer_far, peer = await leg(bell)
        writer, machine = towards_server(tmp_path, SERVER)
        watched = await flooded(peer_far, peer, machine, application)
        said = hashlib.shake_128(b"slow reader").digest(8_000_000)
        stream = b"".join(writer.record(said[at : at + 400]) for at in range(0, len(said), 400))
        saying = spawn(say(peer_far, [stream]), name="says")
        while not (watched.paused and watched.behind):
            await settle()
        waits = watched.received
        await settle()
        assert watched.received == waits, "no more is opened than the application's leg may hold"
        assert digest(await hear_all(application_far, len(said), None, 65536)) == digest(said)
        await saying
        assert not watched.behind

    on_the_workers_loop(scenario())


def test_a_reset_while_something_is_put_by_ends_the_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        bell = Bell(Deadlines())
        application_far, application = await leg(bell)
        peer_far, peer = await leg(bell)
        writer, machine = towards_server(tmp_path, SERVER)
        watched = await flooded(peer_far, peer, machine, application)
        await say(peer_far, [b"".join(writer.record(b"x") for _ in range(10 * AT_ONCE))])
        await watched.put_by.wait()
        application_far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        application_far.close()
        with pytest.raises(ConnectionError):
            await drain(peer_far)
        await settle()
        assert watched.lost
        assert not watched.behind, "nothing of it is kept"

    on_the_workers_loop(scenario())


def test_a_peer_that_asks_for_new_keys_and_reads_no_answer_is_ended(tmp_path: Path) -> None:
    """It sends a word for each, so it sends data enough; only the answers would grow and grow."""

    async def scenario() -> None:
        writer, machine = towards_server(tmp_path, SERVER)
        joint = await join(5000, (machine, machine))
        joint.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)

        async def ask() -> None:
            with contextlib.suppress(ConnectionError):
                while not joint.ended.done():
                    await say(joint.peer, [b"".join(writer.key_update() + writer.record(b"x") for _ in range(100))])

        async def read() -> None:
            with contextlib.suppress(ConnectionError):
                while await hear(joint.application):
                    pass

        await asyncio.gather(ask(), read())
        outcome, detail = await joint.ended
        assert outcome is Outcome.TLS_FLOOD
        assert "reads no answer" in detail

    on_the_workers_loop(scenario())
