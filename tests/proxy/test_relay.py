"""The relay over real sockets of this machine; what it means on the wire is in tests/netns/test_streams.py."""

import asyncio
import gc
import itertools
import socket
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop

from agent.capture._sockets import prepare
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.proxy import relay as relay_module
from agent.proxy.opening import Bell, Deadlines, Opening, of_dialled
from agent.proxy.relay import Relay
from agent.tls.machine import TlsMachine
from tests.tls.records import towards_server
from tests.tls.test_machine import SERVER, joined

ALLOWED = Permit("Server demo/api", "everybody")
_made: list[tuple[socket.socket, asyncio.Transport]] = []
"""Every leg since the last `put_away`."""


class Owner:
    """Hears how it ended, and keeps no relay."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[tuple[Outcome, str]] = asyncio.get_running_loop().create_future()

    def relay_ended(self, outcome: Outcome, detail: str) -> None:
        self.ended.set_result((outcome, detail))


class Joint(NamedTuple):
    """A relay whose peer's leg is under TLS: the far ends of both legs, and the far end's machine."""

    ended: "asyncio.Future[tuple[Outcome, str]]"
    owner: weakref.ref[Owner]
    """Only the relay holds its owner here: it is gone when the relay is."""
    application: socket.socket
    peer: socket.socket
    far: TlsMachine


@pytest.fixture(autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def joint() -> AsyncIterator[Joint]:
    made = await join()
    yield made
    made.application.close()
    made.peer.close()


async def join(buffer: int = 0, ends: tuple[TlsMachine, TlsMachine] | None = None) -> Joint:
    """`buffer`: bytes that the kernel shall hold of what a leg writes, if not as many as it likes.

    `ends`: the far end's machine, which the test need not use, and the relay's.
    """
    bell = Bell(Deadlines())
    application_far, application = await leg(bell, buffer)
    peer_far, peer = await leg(bell, buffer)
    far, near = ends or joined()
    owner = Owner()
    relay = Relay(owner, ALLOWED, application, peer, near)
    relay.start(application, peer, b"")
    return Joint(owner.ended, weakref.ref(owner), application_far, peer_far, far)


async def leg(bell: Bell, buffer: int = 0) -> tuple[socket.socket, Opening]:
    """A far end, and an opening over the near one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    far.setblocking(False)
    prepare(near.fileno())
    if buffer:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    opening = await of_dialled(near, bell)
    _made.append((far, opening.transport))
    return far, opening


async def put_away() -> None:
    """Ends every leg, whatever it is doing: a loop of uvloop's that is closed before waits for them for ever."""
    for far, transport in _made:
        transport.abort()
        far.close()
    _made.clear()
    await settle()


async def hear(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def drain(sock: socket.socket) -> None:
    """Reads until there is an error, and takes no clean end."""
    while await hear(sock):
        pass
    pytest.fail("a clean end")


async def settle() -> None:
    """Lets the transports' last callbacks be called."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("nothing", [None, "allow", Denial("Server demo/api", Outcome.DENIED_BY_DEFAULT)], ids=str)
async def test_there_is_no_relay_that_nobody_allowed(nothing: Any) -> None:
    bell = Bell(Deadlines())
    _, application = await leg(bell)
    _, peer = await leg(bell)
    with pytest.raises(TypeError, match="needs a Permit or a Passage"):
        Relay(Owner(), nothing, application, peer)
    await put_away()


async def test_what_ended_cleanly_is_freed_without_the_garbage_collector(joint: Joint) -> None:
    joint.far.send(b"question")
    joint.peer.sendall(joint.far.outgoing())
    assert await hear(joint.application) == b"question"
    joint.application.sendall(b"answer")
    joint.application.shutdown(socket.SHUT_WR)
    got = b""
    while not joint.far.peer_closed:
        got += joint.far.receive(await hear(joint.peer))
    assert got == b"answer"
    joint.far.close()
    joint.peer.sendall(joint.far.outgoing())
    assert (await joint.ended)[0] is Outcome.COMPLETED
    assert await hear(joint.application) == b""
    await settle()
    assert joint.owner() is None


def test_nothing_of_the_set_up_is_kept_while_the_connection_lives() -> None:
    """On the worker's own loop: its transports keep methods of a former protocol that the new one has not."""

    def every() -> list[Opening]:
        return [each for each in gc.get_objects() if isinstance(each, Opening)]

    async def openings() -> int:
        former = every()  # of other tests, which the collector has not met yet
        joint = await join()
        joint.application.sendall(b"words")
        heard = joint.far.receive(await hear(joint.peer))
        assert heard == b"words", "and the relay goes on"
        found = sum(all(each is not other for other in former) for each in every())
        joint.application.close()
        joint.peer.close()
        return found

    assert uvloop.run(openings()) == 0


@pytest.mark.parametrize("who", ["application", "peer"])
async def test_what_was_reset_is_freed_without_the_garbage_collector(joint: Joint, who: str) -> None:
    dying = joint.application if who == "application" else joint.peer
    dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    dying.close()
    outcome, _ = await joint.ended
    assert outcome is (Outcome.RESET_BY_APPLICATION if who == "application" else Outcome.RESET_BY_PEER)
    await settle()
    assert joint.owner() is None


async def test_a_reset_right_behind_the_first_words_is_no_clean_end(joint: Joint) -> None:
    joint.application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    joint.application.sendall(b"half an answer")
    joint.application.close()  # the relay has read nothing yet
    assert (await joint.ended)[0] is Outcome.RESET_BY_APPLICATION
    with pytest.raises(ConnectionResetError):
        await drain(joint.peer)


async def test_what_is_ended_while_its_last_bytes_wait_is_reset_and_not_cut_short() -> None:
    bell = Bell(Deadlines())
    sends, application = await leg(bell)
    reads, peer = await leg(bell)
    owner = Owner()
    relay = Relay(owner, ALLOWED, application, peer)
    relay.start(application, peer, b"")
    reads.shutdown(socket.SHUT_WR)
    assert await hear(sends) == b""
    while relay.peer.transport.get_write_buffer_size() == 0:  # until the kernel takes no more
        relay.peer.transport.write(bytes(65536))
    sends.shutdown(socket.SHUT_WR)
    await settle()
    assert relay.peer.transport.is_closing()
    relay.failed(Outcome.TERMINATED, "a policy changed")
    with pytest.raises(ConnectionResetError):
        await drain(reads)
    sends.close()
    reads.close()


async def test_a_stream_that_is_cut_without_close_notify_is_freed_too(joint: Joint) -> None:
    joint.peer.shutdown(socket.SHUT_WR)
    assert await joint.ended == (Outcome.TRUNCATED, "the peer's TLS stream ended without close_notify")
    await settle()
    assert joint.owner() is None


@pytest.mark.parametrize("put_by", [False, True])
def test_a_fault_of_ours_in_the_midst_of_a_stream_is_said_to_be_ours(tmp_path: Path, put_by: bool) -> None:
    """In what the loop calls when it has read, and in the turn that takes up what was put by."""

    async def scenario() -> None:
        bell, calls = Bell(Deadlines()), itertools.count()
        _, application = await leg(bell)
        peer_far, peer = await leg(bell)
        writer, machine = towards_server(tmp_path, SERVER)

        def remember(_: TlsMachine) -> bool:
            if next(calls) == int(put_by):
                raise ValueError("a fault")
            return False

        owner = Owner()
        relay = Relay(owner, ALLOWED, application, peer, machine, remember)
        relay.start(application, peer, b"")
        peer_far.setblocking(True)
        peer_far.sendall(b"".join(writer.record(b"x") for _ in range(600)))
        async with asyncio.timeout(10):
            outcome, detail = await owner.ended
        assert outcome is Outcome.FAILED
        assert "see the log" in detail
        await put_away()

    uvloop.run(scenario())


class Pair(NamedTuple):
    """A relay of which both legs are plain, and their far ends."""

    owner: Owner
    relay: Relay
    application: socket.socket
    peer: socket.socket


async def plain_pair() -> Pair:
    bell = Bell(Deadlines())
    application_far, application = await leg(bell)
    peer_far, peer = await leg(bell)
    owner = Owner()
    relay = Relay(owner, ALLOWED, application, peer)
    relay.start(application, peer, b"")
    return Pair(owner, relay, application_far, peer_far)


def end_by_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


@pytest.mark.parametrize("why", ["it is half-closed", "its reading is paused"])
@pytest.mark.parametrize("who", ["application", "peer"])
async def test_a_reset_that_nobody_hears_of_is_found_by_a_sweep_and_is_the_legs_that_has_it(who: str, why: str) -> None:
    pair = await plain_pair()
    dying, other = (pair.application, pair.peer) if who == "application" else (pair.peer, pair.application)
    watched = getattr(pair.relay, who)
    if why == "it is half-closed":
        dying.shutdown(socket.SHUT_WR)
        assert await hear(other) == b""
    else:
        watched.paused = True
        watched.transport.pause_reading()
    pair.relay.sweep()
    assert not pair.owner.ended.done(), "it lives"
    end_by_reset(dying)
    await settle()
    assert not pair.owner.ended.done(), "nobody polls it"
    pair.relay.sweep()
    outcome, detail = await pair.owner.ended
    assert outcome is (Outcome.RESET_BY_APPLICATION if who == "application" else Outcome.RESET_BY_PEER)
    assert detail == f"the {who} reset the connection"
    assert pair.relay.over
    pair.relay.sweep()
    await put_away()


async def test_a_leg_that_is_read_or_gone_is_not_asked_whether_it_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is read the loop hears; and whose number a closed descriptor is by now nobody knows."""
    asked: list[int] = []

    def has_died(fd: int) -> bool:
        asked.append(fd)
        return True

    monkeypatch.setattr(relay_module, "has_died", has_died)
    monkeypatch.setattr(relay_module, "cork", asked.append)
    pair = await plain_pair()
    one = pair.relay.application
    assert not one.is_dead()
    one.ended = True
    assert one.is_dead()
    one.ended, one.paused = False, True
    assert one.is_dead()
    assert asked == [one.fd] * 2
    one.cork()
    assert asked == [one.fd] * 3
    one.lost = True
    assert not one.is_dead()
    one.cork()
    one.lost = False
    one.transport.close()
    assert not one.is_dead()
    one.cork()
    assert asked == [one.fd] * 3
    await put_away()


async def test_a_clean_end_is_said_once_and_is_over() -> None:
    pair = await plain_pair()
    for said, hears in ((pair.application, pair.peer), (pair.peer, pair.application)):
        said.sendall(b"last words")
        said.shutdown(socket.SHUT_WR)
        assert await hear(hears) == b"last words"
        assert await hear(hears) == b""
    assert await pair.owner.ended == (Outcome.COMPLETED, "")
    assert pair.relay.over
    pair.relay.failed(Outcome.TERMINATED, "too late")
    pair.relay.both_ended()
    pair.relay.sweep()
    await put_away()


async def test_tls_that_fails_as_the_last_words_are_sent_ends_the_connection_with_its_reason() -> None:
    bell = Bell(Deadlines())
    _, application = await leg(bell)
    _, peer = await leg(bell)
    _, near = joined()
    near.close()
    owner = Owner()
    Relay(owner, ALLOWED, application, peer, near).peer.forward_with_end(b"last words")
    outcome, detail = await owner.ended
    assert outcome is Outcome.HANDSHAKE_FAILED
    assert detail.startswith("TLS failed: ")
    await put_away()
