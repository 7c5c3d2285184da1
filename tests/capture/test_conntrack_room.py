"""What conntrack's answer says of its table, and that one which says nothing is an error."""

import struct

import pytest

from agent.capture.conntrack_room import ENTRIES, GET_STATS, MAX_ENTRIES, Room, decode
from init.netfilter import ERROR, attribute, message


def answer(entries: int, limit: int, kind: int = GET_STATS) -> bytes:
    return message(
        kind, 0, 0, attribute(ENTRIES, struct.pack("!I", entries)) + attribute(MAX_ENTRIES, struct.pack("!I", limit))
    )


def test_entries_and_the_limit_are_told() -> None:
    room = decode(answer(196608, 262144))
    assert room == Room(196608, 262144)
    assert room.used == 0.75


def test_a_limit_of_zero_is_none() -> None:
    assert decode(answer(5, 0)).used == 0.0


@pytest.mark.parametrize("data", [b"", answer(1, 2, ERROR), answer(1, 2)[:10]])
def test_an_answer_that_says_nothing_is_an_error(data: bytes) -> None:
    with pytest.raises(OSError, match="does not say how full"):
        decode(data)
