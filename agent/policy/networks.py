"""Networks of clients: as they were written, and as numbers, which is how the data path asks."""

import ipaddress
from functools import lru_cache

from msgspec import Struct

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = 0xFFFF
"""Bits 32 to 127 of an IPv4-mapped address (RFC 4291, section 2.5.5.2): it is meant as IPv4."""


class NetworkMatch(Struct, frozen=True):
    """Addresses of a network without some parts of it."""

    network: Network
    excepts: tuple[Network, ...] = ()


_Part = tuple[int, int]
"""Mask and base of one network."""
_Entry = tuple[_Part, ...]
"""What one network leaves out."""


class AddressSet:
    """Networks prepared for look-ups: one per length of prefix that occurs, however many networks there are."""

    __slots__ = ("_four", "_six")

    def __init__(self, networks: tuple[NetworkMatch, ...]) -> None:
        four: dict[int, dict[int, list[_Entry]]] = {}
        six: dict[int, dict[int, list[_Entry]]] = {}
        for each in networks:
            mask, base = _part(each.network)
            excepts = tuple(_part(left_out) for left_out in each.excepts if left_out.version == each.network.version)
            family = four if each.network.version == 4 else six
            family.setdefault(mask, {}).setdefault(base, []).append(excepts)
        self._four = tuple(four.items())
        self._six = tuple(six.items())

    def has(self, number: int, *, six: bool) -> bool:
        """Whether an address, as `number_of` gives it, is meant. One of the other family never is."""
        for mask, bases in self._six if six else self._four:
            for excepts in bases.get(number & mask, ()):
                for left_out, base in excepts:
                    if number & left_out == base:
                        break
                else:
                    return True
        return False


def number_of(address: Address) -> tuple[int, bool]:
    """An address as a number, and whether it is IPv6; one that is mapped is IPv4."""
    number = int(address)
    if address.version == 4:
        return number, False
    return (number & 0xFFFFFFFF, False) if number >> 32 == _MAPPED else (number, True)


@lru_cache(maxsize=4096)
def address_set(networks: tuple[NetworkMatch, ...]) -> AddressSet:
    """The same networks are prepared once: which of several authorizations are alike in them is seen by identity."""
    return AddressSet(networks)


def _part(network: Network) -> _Part:
    return int(network.netmask), int(network.network_address)
