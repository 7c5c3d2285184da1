"""From where a leg dials: what the application chose, wherever that can be had."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.address import OriginalDst, PeerAddr, Source
from agent.proxy.source import of_application, of_client
from init.stand_in import OF_THE_ONLY_ADDRESS, STAND_INS, stand_in

CHOSEN = PeerAddr("10.1.0.2", 40000)
POD = OriginalDst("10.1.0.1", 8080)
PLACE = (POD.address, POD.port)
SERVICE = OriginalDst("10.96.0.10", 80)
ANY = Source("10.1.0.2", 0)
OWN = Source("10.1.0.2", 40000, alone=True)
STAND_IN = Source("250.1.0.2", 40000)


def test_an_application_is_dialled_from_its_client_and_else_from_another_port_of_his() -> None:
    assert of_client(CHOSEN) == (Source(*CHOSEN), ANY)


@pytest.mark.parametrize(
    ("dialled", "keeps_port", "stand_ins", "sources"),
    [
        (POD, True, True, (STAND_IN, ANY)),
        (SERVICE, True, True, (STAND_IN, ANY)),
        (POD, True, False, (ANY,)),
        (SERVICE, True, False, (OWN, ANY)),
        (POD, False, True, (ANY,)),
        (SERVICE, False, True, (ANY,)),
    ],
)
def test_a_leg_has_the_applications_address_and_its_port_where_that_can_be(
    dialled: OriginalDst, sources: tuple[Source, ...], *, keeps_port: bool, stand_ins: bool
) -> None:
    assert of_application(CHOSEN, dialled, PLACE, keeps_port=keeps_port, stand_ins=stand_ins) == sources


def test_an_ipv6_address_that_means_something_everywhere_is_kept() -> None:
    chosen, place = PeerAddr("2001:db8::2", 40000), ("2001:db8::1", 8080)
    kept = of_application(chosen, OriginalDst("2001:db8::99", 80), place, keeps_port=True, stand_ins=False)
    assert kept == (Source("2001:db8::2", 40000, alone=True), Source("2001:db8::2", 0))


@pytest.mark.parametrize(
    ("chosen", "place"),
    [
        (CHOSEN, ("2001:db8::1", 8080)),
        (PeerAddr("2001:db8::2", 40000), ("10.1.0.1", 8080)),
        (PeerAddr("fe80::2", 40000), ("fe80::1", 8080)),
    ],
)
def test_a_source_that_means_nothing_where_the_leg_goes_is_left_to_the_kernel(
    chosen: PeerAddr, place: tuple[str, int]
) -> None:
    assert of_application(chosen, OriginalDst("2001:db8::99", 80), place, keeps_port=True, stand_ins=True) == ()


def test_a_public_address_has_a_stand_in_where_the_pod_has_no_other() -> None:
    public = PeerAddr("192.0.2.2", 40000)
    only = of_application(public, POD, PLACE, keeps_port=True, stand_ins=True, only=public.address)
    assert only == (Source(OF_THE_ONLY_ADDRESS, 40000), Source("192.0.2.2", 0))
    assert of_application(CHOSEN, POD, PLACE, keeps_port=True, stand_ins=True, only=CHOSEN.address)[0] == STAND_IN
    assert of_application(public, POD, PLACE, keeps_port=True, stand_ins=True) == (Source("192.0.2.2", 0),)
    assert of_application(public, SERVICE, PLACE, keeps_port=True, stand_ins=True)[0][:2] == public


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_whatever_stands_in_is_translated_back_to_the_very_address_by_one_pair_of_networks(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """As NETMAP does: the host's bits stay."""
    instead = stand_in(str(address))
    pairs = [(ipaddress.ip_network(one), ipaddress.ip_network(own)) for one, own in STAND_INS[address.version]]
    assert (instead is not None) == any(address in own for _, own in pairs)
    if instead is None:
        return
    ((network, own),) = [pair for pair in pairs if ipaddress.ip_address(instead) in pair[0]]
    assert network.prefixlen == own.prefixlen
    assert not network.overlaps(own)
    offset = int(ipaddress.ip_address(instead)) - int(network.network_address)
    assert own[offset] == address
