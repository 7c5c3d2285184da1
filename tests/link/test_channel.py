"""The channel: frames and descriptors arrive together and in order, and an end is noticed."""

import asyncio
import contextlib
import os
import resource
import socket
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.link import channel as channel_module
from agent.link.channel import Channel, ChannelClosed


class Note(msgspec.Struct, frozen=True, tag="note"):
    """A message with a body."""

    body: bytes


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """A message without one."""


Message = Note | Ping


def pair() -> tuple[Channel[Message], Channel[Message]]:
    one, other = socket.socketpair()
    return Channel(one, Message), Channel(other, Message)


async def test_messages_arrive_in_order() -> None:
    one, other = pair()
    sent = [Note(bytes([number]) * number * 1000) for number in range(200)]
    for message in sent:
        one.send(message)
    assert [(await other.receive())[0] for _ in sent] == sent
    one.close()
    other.close()


async def test_a_message_larger_than_any_buffer_arrives_whole() -> None:
    one, other = pair()
    large = Note(os.urandom(8 << 20))
    one.send(large)
    one.send(Ping())
    assert (await other.receive())[0] == large
    assert (await other.receive())[0] == Ping()
    await one.flushed()
    one.close()
    other.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 6)), max_size=12))
def test_descriptors_come_with_the_message_that_they_were_sent_with(plan: list[tuple[int, int]]) -> None:
    async def exchange() -> None:
        one, other = pair()
        expected = []
        for size, count in plan:
            files = [os.memfd_create("test") for _ in range(count)]
            identities = [os.fstat(fd).st_ino for fd in files]
            one.send(Note(bytes(size)), tuple(files))
            for fd in files:
                os.close(fd)
            expected.append((size, identities))
        for size, identities in expected:
            message, fds = await other.receive()
            assert isinstance(message, Note)
            assert len(message.body) == size
            assert [os.fstat(fd).st_ino for fd in fds] == identities
            for fd in fds:
                os.close(fd)
        one.close()
        other.close()

    asyncio.run(exchange())


async def test_the_end_is_said_after_what_had_arrived() -> None:
    one, other = pair()
    one.send(Ping())
    one.close()
    assert (await other.receive())[0] == Ping()
    with pytest.raises(ChannelClosed, match="the other process ended"):
        await other.receive()
    with pytest.raises(ChannelClosed):
        await other.receive()
    other.send(Ping())  # into nowhere: no error, the reader knows


async def test_what_is_no_frame_closes_the_channel() -> None:
    raw, theirs = socket.socketpair()
    other: Channel[Message] = Channel(theirs, Message)
    raw.send(b"\xff\xff\xff\xff\x00")
    with pytest.raises(ChannelClosed, match="no frame of ours"):
        await other.receive()
    raw.close()


@pytest.mark.parametrize(
    ("header", "limit"), [((1001, 0), 1000), ((8, 17), 1000), ((1 << 31, 0), channel_module.MAX_FRAME)]
)
async def test_a_frame_that_is_larger_than_any_of_ours_is_not_waited_for(
    header: tuple[int, int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MAX_FRAME", limit)
    raw, theirs = socket.socketpair()
    other: Channel[Message] = Channel(theirs, Message)
    with raw:
        raw.send(struct.pack("!IB", *header))
        async with asyncio.timeout(10):
            with pytest.raises(ChannelClosed, match="no frame of ours"):
                await other.receive()


async def test_a_message_that_would_be_refused_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_FRAME", 100)
    for message, fds in ((Note(bytes(101)), ()), (Ping(), (0,) * 17)):
        one, other = pair()
        one.send(message, fds)
        with pytest.raises(ChannelClosed, match="too large to be sent"):
            await one.receive()
        with pytest.raises(ChannelClosed, match="the other process ended"):
            await other.receive()
        other.close()


UNDECODABLE = {
    "no msgpack": b"\xc1",
    "cut short": msgspec.msgpack.encode(Note(b"body"))[:-1],
    "something behind it": msgspec.msgpack.encode(Ping()) + b"\x00",
    "unknown": msgspec.msgpack.encode({"type": "policy"}),
    "another type": msgspec.msgpack.encode({"type": "note", "body": 7}),
    "nothing": b"",
}


@pytest.mark.parametrize("body", UNDECODABLE.values(), ids=UNDECODABLE.keys())
async def test_what_cannot_be_decoded_closes_the_channel_and_its_peer_hears_of_it(body: bytes) -> None:
    """Whoever went on would not know what it was told: of a policy that is tighter now, say."""
    raw, theirs = socket.socketpair()
    other: Channel[Message] = Channel(theirs, Message)
    good = msgspec.msgpack.encode(Ping())
    raw.settimeout(10)
    with raw:
        raw.send(b"".join(struct.pack("!IB", len(each), 0) + each for each in (good, body, good)))
        async with asyncio.timeout(10):
            assert (await other.receive())[0] == Ping()
            with pytest.raises(ChannelClosed, match="a message cannot be decoded"):
                await other.receive()
        assert await asyncio.to_thread(raw.recv, 1) == b""


@given(st.binary(max_size=300))
def test_whatever_arrives_a_channel_gives_messages_or_closes(data: bytes) -> None:
    async def feed() -> None:
        raw, theirs = socket.socketpair()
        other: Channel[Message] = Channel(theirs, Message)
        with raw:
            raw.send(data)
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ChannelClosed):
                async with asyncio.timeout(10):
                    while True:
                        assert isinstance((await other.receive())[0], Message)

    asyncio.run(feed())


async def test_descriptors_that_are_announced_and_do_not_come_close_it() -> None:
    raw, theirs = socket.socketpair()
    other: Channel[Message] = Channel(theirs, Message)
    body = msgspec.msgpack.encode(Ping())
    with raw:
        raw.send(struct.pack("!IB", len(body), 2) + body)
        async with asyncio.timeout(10):
            with pytest.raises(ChannelClosed, match="came with 0 descriptors, and said 2"):
                await other.receive()


async def test_descriptors_that_cannot_be_taken_close_it() -> None:
    one, other = pair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.send(Ping(), (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        async with asyncio.timeout(10):
            with pytest.raises(ChannelClosed, match="descriptors were cut off"):
                await other.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.close()


async def test_descriptors_that_cannot_be_duplicated_are_an_error_and_none_is_left_behind() -> None:
    one, other = pair()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.send(Ping(), (0, 1, 99_999))
    assert len(os.listdir("/proc/self/fd")) == before
    one.send(Ping())
    assert (await other.receive())[0] == Ping()
    one.close()
    other.close()


async def test_messages_that_nobody_takes_are_left_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_UNREAD", 10)
    one, other = pair()
    sent = [Note(bytes([number]) * 100_000) for number in range(100)]
    for message in sent:
        one.send(message)
    assert (await other.receive())[0] == sent[0]
    for _ in range(50):
        await asyncio.sleep(0)
    assert other._messages.qsize() < 15, "what one read brings, and no more"
    async with asyncio.timeout(10):
        assert [(await other.receive())[0] for _ in sent[1:]] == sent[1:]
    one.close()
    other.close()


async def test_a_process_that_does_not_read_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_PENDING", 1 << 20)
    one, other = pair()
    one.send(Note(bytes(2 << 20)))
    with pytest.raises(ChannelClosed, match="does not read"):
        await one.receive()
    other.close()
