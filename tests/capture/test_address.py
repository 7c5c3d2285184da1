"""Addresses as the kernel gives them."""

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.address import OriginalDst, PeerAddr, original_dst, peer_addr


class Redirected:
    """A socket whose original destination is what the test says."""

    def __init__(self, family: int, raw: bytes) -> None:
        self.family = family
        self._raw = raw
        self.asked: tuple[int, int, int] | None = None

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        self.asked = (level, option, size)
        return self._raw


@given(st.ip_addresses(v=4).map(str), st.integers(0, 65535))
def test_an_ipv4_destination_is_read_from_sockaddr_in(address: str, port: int) -> None:
    raw = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(address) + bytes(8)
    sock = Redirected(socket.AF_INET, raw)
    assert original_dst(sock) == OriginalDst(address, port)
    assert sock.asked == (socket.SOL_IP, 80, 16)


@given(st.ip_addresses(v=6), st.integers(0, 65535), st.integers(0, 2**20))
def test_an_ipv6_destination_is_read_from_sockaddr_in6(address: object, port: int, flow: int) -> None:
    packed = socket.inet_pton(socket.AF_INET6, str(address))
    raw = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, flow) + packed + struct.pack("=I", 3)
    sock = Redirected(socket.AF_INET6, raw)
    found = original_dst(sock)
    assert socket.inet_pton(socket.AF_INET6, found.address) == packed
    assert found.port == port
    assert sock.asked == (socket.IPPROTO_IPV6, 80, 28)


def test_a_connection_that_conntrack_does_not_know_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        with accepted, pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
            original_dst(accepted)
        assert caught.value.errno in {errno.ENOENT, errno.ENOPROTOOPT}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("192.0.2.1", 5), PeerAddr("192.0.2.1", 5)),
        (("::ffff:192.0.2.1", 5, 0, 0), PeerAddr("192.0.2.1", 5)),
        (("fe80::1%eth0", 5, 0, 2), PeerAddr("fe80::1", 5)),
    ],
)
def test_a_peer_is_told_by_its_plain_address(name: tuple[object, ...], expected: PeerAddr) -> None:
    assert peer_addr(name) == expected


def test_a_name_of_another_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match="not an internet address"):
        peer_addr((b"/run/socket", None))


def test_addresses_are_written_as_people_write_them() -> None:
    assert str(OriginalDst("192.0.2.1", 80)) == "192.0.2.1:80"
    assert str(PeerAddr("2001:db8::1", 80)) == "[2001:db8::1]:80"
