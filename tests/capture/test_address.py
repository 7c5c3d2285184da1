"""Addresses as people write them."""

from agent.capture.address import OriginalDst, PeerAddr


def test_addresses_are_written_as_people_write_them() -> None:
    assert str(OriginalDst("192.0.2.1", 80)) == "192.0.2.1:80"
    assert str(PeerAddr("2001:db8::1", 80)) == "[2001:db8::1]:80"
