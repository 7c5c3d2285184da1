"""What of conntrack's entries is to be forgotten; that it is: tests/netns/test_init.py."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from init.conntrack import name_of_untranslated
from init.netfilter import attributes

TCP, UDP = 6, 17
NESTED = 0x8000


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def entry(protocol: int = TCP, status: int = 0x8E, zone: int | None = None) -> bytes:
    """An entry as the kernel tells it: its direction, its number, and some things that do not matter here."""
    addresses = attribute(1 | NESTED, attribute(1, bytes(4)) + attribute(2, bytes(4)))
    ports = attribute(2 | NESTED, attribute(1, bytes([protocol])) + attribute(2, b"\1\2") + attribute(3, b"\3\4"))
    apart = b"" if zone is None else attribute(3, zone.to_bytes(2, "big"))
    return (
        attribute(1 | NESTED, addresses + ports + apart)
        + attribute(2 | NESTED, addresses + ports)
        + attribute(3, status.to_bytes(4, "big"))
        + attribute(8, bytes(4))
        + attribute(12, b"\x0a\x0b\x0c\x0d")
    )


def test_an_untranslated_connection_is_named_by_its_direction_and_number() -> None:
    named = name_of_untranslated(entry())
    assert named is not None
    assert attributes(named) == {kind: attributes(entry())[kind] for kind in (1, 12)}


@pytest.mark.parametrize(
    "spared",
    [entry(UDP), entry(status=0x8E | 0x20), entry(status=0x8E | 0x10), entry(zone=0x539), entry()[:-8], b""],
    ids=["udp", "destination translated", "source translated", "the agent's", "without a number", "nothing"],
)
def test_what_is_spared(spared: bytes) -> None:
    assert name_of_untranslated(spared) is None


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    assert all(len(value) <= len(data) for value in attributes(data).values())
    name_of_untranslated(data)
