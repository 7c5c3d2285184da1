"""Messages of nfnetlink, the netlink of netfilter's parts (linux/netfilter/nfnetlink.h). Pure."""

import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
"""linux/netlink.h; Python has no name for it."""
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE = 2, 3
DATAGRAM_BYTES = 65536

_HEADER = struct.Struct("=IHHII")
_GENERAL = struct.Struct("=BBH")
"""struct nfgenmsg: the family, a version, a number."""
GENERAL_BYTES = _GENERAL.size
_ATTRIBUTE = struct.Struct("=HH")


def pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Netlink attributes, type and value, in order; as many as there are whole ones."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The same by type."""
    return dict(pairs(data))


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    """One message; `body` is attributes."""
    return (
        _HEADER.pack(_HEADER.size + GENERAL_BYTES + len(body), kind, flags, 0, 0) + _GENERAL.pack(family, 0, 0) + body
    )


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
