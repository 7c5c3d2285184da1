"""Socket addresses by the role that they play."""

import ipaddress
from functools import lru_cache
from typing import NamedTuple


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


class Source(NamedTuple):
    """Where a leg dials from; port 0 is one that is free."""

    address: str
    port: int
    alone: bool = False
    """It is bound by one leg at a time."""


@lru_cache(maxsize=65536)
def parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as policy wants it; parsing one costs 4 µs, and clients come again."""
    return ipaddress.ip_address(address)


def show(address: str, port: int) -> str:
    """`192.0.2.1:80` or `[2001:db8::1]:80` (RFC 5952, section 6)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
