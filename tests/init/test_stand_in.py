"""Stand-ins: which address stands for which, and that no two are ever the same."""

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from init.stand_in import OF_THE_ONLY_ADDRESS, STAND_INS, stand_in


@pytest.mark.parametrize(
    ("address", "instead"),
    [
        ("10.1.2.3", "250.1.2.3"),
        ("192.168.255.1", "251.168.255.1"),
        ("172.31.0.1", "252.31.0.1"),
        ("172.32.0.1", None),
        ("100.127.0.1", "253.127.0.1"),
        ("2001:db8::1", "4001:db8::1"),
        ("fd00::1", "ef00::1"),
        ("fe80::1", None),
        ("192.0.2.1", None),
    ],
)
def test_the_network_is_another_and_the_rest_stays(address: str, instead: str | None) -> None:
    assert stand_in(address) == instead


def test_only_a_public_ipv4_address_that_is_the_pods_only_one_has_the_one_for_that() -> None:
    assert stand_in("192.0.2.1", only=True) == OF_THE_ONLY_ADDRESS
    assert stand_in("10.1.2.3", only=True) == "250.1.2.3"
    assert stand_in("fe80::1", only=True) is None


def test_no_network_of_stand_ins_overlaps_another_or_what_a_pod_can_have() -> None:
    """What is translated back must be told by its network alone."""
    for pairs in STAND_INS.values():
        every = [ipaddress.ip_network(each) for pair in pairs for each in pair]
        assert [(one, two) for one, two in itertools.combinations(every, 2) if one.overlaps(two)] == []
    only = ipaddress.ip_address(OF_THE_ONLY_ADDRESS)
    assert not any(only in ipaddress.ip_network(each) for pair in STAND_INS[4] for each in pair)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_two_addresses_never_have_one_stand_in(one: ipaddress.IPv4Address, two: ipaddress.IPv4Address) -> None:
    first, second = stand_in(str(one)), stand_in(str(two))
    assert first is None or second is None or (first == second) == (one == two)
    assert first is None or stand_in(first) is None, "a stand-in has none itself"
