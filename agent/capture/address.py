"""Socket addresses by the role that they play, and the original destination that REDIRECT hides."""

import ipaddress
import socket
import struct
from functools import lru_cache
from typing import NamedTuple, Protocol

SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST in linux/netfilter_ipv6/ip6_tables.h has the same number."""

_V4_MAPPED = "::ffff:"


class OriginalDst(NamedTuple):
    """What the application dialled, before REDIRECT."""

    address: str
    port: int

    def __str__(self) -> str:
        return show(self.address, self.port)


class PeerAddr(NamedTuple):
    """Who dialled."""

    address: str
    port: int

    def __str__(self) -> str:
        return show(self.address, self.port)


class HasSocketOptions(Protocol):
    """The part of a socket that is needed here; uvloop's transports give one."""

    @property
    def family(self) -> int: ...  # noqa: D102 - as in socket.socket

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...  # noqa: D102 - as in socket.socket


@lru_cache(maxsize=65536)
def parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as policy wants it; parsing one costs 4 µs, and clients come again."""
    return ipaddress.ip_address(address)


def show(address: str, port: int) -> str:
    """`192.0.2.1:80` or `[2001:db8::1]:80` (RFC 5952, section 6)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def original_dst(sock: HasSocketOptions) -> OriginalDst:
    """Where a captured connection was going. Raises OSError (ENOENT) where conntrack does not know the connection."""
    if sock.family == socket.AF_INET:
        raw = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, packed = struct.unpack_from("!2xH4s", raw)
        return OriginalDst(socket.inet_ntop(socket.AF_INET, packed), port)
    raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    port, packed = struct.unpack_from("!2xH4x16s", raw)
    return OriginalDst(socket.inet_ntop(socket.AF_INET6, packed), port)


def peer_addr(name: tuple[object, ...]) -> PeerAddr:
    """The peer of a transport, from its `peername`; a scope (fe80::1%eth0) is dropped."""
    address, port = name[0], name[1]
    if not isinstance(address, str) or not isinstance(port, int):
        raise TypeError(f"not an internet address: {name!r}")
    return PeerAddr(address.partition("%")[0].removeprefix(_V4_MAPPED), port)
