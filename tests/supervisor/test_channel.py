"""The channel: frames and descriptors arrive together and in order, and an end is noticed."""

import asyncio
import os
import socket

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.supervisor import channel as channel_module
from agent.supervisor.channel import Channel, ChannelClosed


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


async def test_a_process_that_does_not_read_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_PENDING", 1 << 20)
    one, other = pair()
    one.send(Note(bytes(2 << 20)))
    with pytest.raises(ChannelClosed, match="does not read"):
        await one.receive()
    other.close()
