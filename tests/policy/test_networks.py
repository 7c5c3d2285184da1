"""Networks as the data path asks them, against Python's own."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.networks import Address, Network, NetworkMatch, address_set, number_of

FOUR = st.integers(0, 2**32 - 1)


def networks(version: int) -> st.SearchStrategy[Network]:
    """Few that differ, so that they overlap."""
    bits = 32 if version == 4 else 128
    base = st.sampled_from([0, 1, 2, 3, 255, 256]).map(lambda low: (10 << (bits - 8)) + low)
    prefix = st.sampled_from([0, 1, 8, bits - 8, bits - 2, bits - 1, bits])
    return st.builds(
        lambda number, length: ipaddress.ip_network((number, length), strict=False), base_of(base, bits), prefix
    )


def base_of(numbers: st.SearchStrategy[int], bits: int) -> st.SearchStrategy[str]:
    kind = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
    return numbers.map(lambda number: str(kind(number)))


ANY = networks(4) | networks(6)
MATCHES = st.lists(
    st.builds(NetworkMatch, ANY, st.lists(ANY, max_size=2).map(tuple)),
    max_size=5,
).map(tuple)
ADDRESSES = ANY.map(lambda network: network.network_address) | st.ip_addresses()


@given(MATCHES, ADDRESSES)
def test_an_address_is_meant_where_a_network_has_it_and_leaves_it_not_out(
    matches: tuple[NetworkMatch, ...], address: Address
) -> None:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    expected = any(
        address in each.network and not any(address in left_out for left_out in each.excepts) for each in matches
    )
    number, six = number_of(address)
    assert address_set(matches).has(number, six=six) is expected


@given(FOUR)
def test_a_mapped_address_is_the_one_that_it_maps(number: int) -> None:
    assert number_of(ipaddress.IPv6Address((0xFFFF << 32) + number)) == number_of(ipaddress.IPv4Address(number))


def test_a_number_alone_says_nothing_of_the_family() -> None:
    """::a00:1 is no 10.0.0.1, and 0.0.0.0/0 is nobody of IPv6."""
    four, six = ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")
    number, is_six = number_of(ipaddress.ip_address("::a00:1"))
    assert is_six
    assert not address_set((NetworkMatch(four),)).has(number, six=is_six)
    assert address_set((NetworkMatch(six),)).has(number, six=is_six)
    assert address_set((NetworkMatch(six, (four,)),)).has(number, six=is_six)
