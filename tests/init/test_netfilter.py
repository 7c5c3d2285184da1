"""Messages of nfnetlink: what is written is read again, and what the kernel cut off ends nothing."""

import itertools
import struct

from hypothesis import example, given
from hypothesis import strategies as st

from init.netfilter import ERROR, GENERAL_BYTES, REQUEST, attribute, attributes, message, messages, pairs

KINDS = st.integers(1, 0x3FFF)
ATTRIBUTES = st.lists(st.tuples(KINDS, st.binary(max_size=9)), max_size=5)


def body(written: list[tuple[int, bytes]]) -> bytes:
    return b"".join(attribute(kind, value) for kind, value in written)


@given(ATTRIBUTES)
def test_attributes_are_read_as_they_were_written_and_padded(written: list[tuple[int, bytes]]) -> None:
    data = body(written)
    assert len(data) % 4 == 0
    assert list(pairs(data)) == written
    assert attributes(data) == dict(written)


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), ATTRIBUTES), max_size=3))
def test_messages_of_a_datagram_are_told_apart(written: list[tuple[int, list[tuple[int, bytes]]]]) -> None:
    data = b"".join(message(kind, REQUEST, 2, body(each)) for kind, each in written)
    found = [(kind, list(pairs(content[GENERAL_BYTES:]))) for kind, content in messages(data)]
    assert found == written


def test_what_marks_an_attribute_as_nested_or_in_network_order_is_no_part_of_its_type() -> None:
    for flag in (0x8000, 0x4000):
        assert attributes(attribute(7 | flag, b"abc")) == {7: b"abc"}


@given(st.binary(max_size=64))
@example(bytes(64))
def test_no_bytes_whatever_are_read_for_ever(data: bytes) -> None:
    """A length of zero would be read again and again."""
    assert len(list(itertools.islice(pairs(data), 100))) <= len(data) // 4
    assert len(list(itertools.islice(messages(data), 100))) <= len(data) // 16


def test_a_header_is_as_the_kernel_has_it() -> None:
    data = message(ERROR, REQUEST, 10, attribute(1, b"x"))
    assert struct.unpack("=IHHIIBBH", data[:20]) == (28, ERROR, REQUEST, 0, 0, 10, 0, 0)
    assert struct.unpack("=HHc3x", data[20:]) == (5, 1, b"x")
