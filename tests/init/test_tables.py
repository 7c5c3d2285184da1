"""Tables in bytes: counters are taken out, nothing else is, and bytes that are no entries are not taken for any."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from init.model import Family
from init.tables import _ENTRY, zero_counters

counters = st.integers(0, 2**64 - 1)
families = st.sampled_from(Family)
rules = st.tuples(st.binary(min_size=1, max_size=84), st.integers(0, 2**32 - 1), counters, counters, st.binary())


def table(family: Family, entries: list[tuple[bytes, int, int, int, bytes]]) -> bytearray:
    """A table as the kernel gives it: match, what the kernel keeps for itself, two counters, target."""
    layout = _ENTRY[family]
    made = bytearray()
    for match, origin, packets, octets, target in entries:
        head = bytearray(layout.pack(0, layout.size, layout.size + len(target), origin, packets, octets))
        head[: len(match)] = match
        made += head + target
    return made


@given(families, st.lists(rules, max_size=8))
def test_only_counters_are_taken_out(family: Family, entries: list[tuple[bytes, int, int, int, bytes]]) -> None:
    found = table(family, entries)
    assert zero_counters(found, _ENTRY[family])
    assert found == table(family, [(match, origin, 0, 0, target) for match, origin, _, _, target in entries])


@given(families, st.lists(rules, min_size=1, max_size=4), st.data())
def test_bytes_that_end_within_an_entry_are_no_table(
    family: Family, entries: list[tuple[bytes, int, int, int, bytes]], data: st.DataObject
) -> None:
    whole = table(family, entries)
    last = len(table(family, entries[-1:]))
    assert not zero_counters(whole[: -data.draw(st.integers(1, last - 1))], _ENTRY[family])


@given(families, st.integers(0, 111))
def test_an_entry_that_says_it_is_shorter_than_any_ends_the_walk(family: Family, length: int) -> None:
    layout = _ENTRY[family]
    assert not zero_counters(bytearray(layout.pack(0, 0, length, 0, 0, 0)), layout)


def test_entries_are_as_long_as_the_kernels() -> None:
    assert {family: layout.size for family, layout in _ENTRY.items()} == {Family.IPV4: 112, Family.IPV6: 168}
    assert struct.calcsize("P") == 8, "of a 64-bit kernel"
