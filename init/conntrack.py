"""Connections that nobody translated while rules were gone: conntrack is made to forget them.

Conntrack decides once per connection. What was opened while a pod's rules were flushed would pass uncaptured, in
plaintext, for as long as it lives. Once it is forgotten its next packet is decided on like a first one, and meets the
rules: captured in the middle of a stream it is reset; what they leave alone goes on. Spoken by netlink directly
(linux/netfilter/nfnetlink_conntrack.h), because conntrack(8) is on few nodes.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator

NETLINK_NETFILTER = 12
CT_GET, CT_DELETE = 0x0101, 0x0102
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE."""
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE = 2, 3
TUPLE_ORIG, STATUS, ID = 1, 3, 12
TUPLE_PROTO, TUPLE_ZONE, PROTO_NUM = 2, 3, 1
TRANSLATED = 0x30
"""IPS_SRC_NAT and IPS_DST_NAT."""
NESTED = 0x8000
ANSWER_SECONDS = 5.0
DATAGRAM_BYTES = 65536

_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")


def forget_untranslated() -> int:
    """Has conntrack forget each TCP connection of the current namespace that was never translated; how many.

    But not what the agent dials, which is in a zone of its own. Raises OSError.
    """
    forgotten = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.bind((0, 0))
        sock.send(_message(CT_GET, REQUEST | DUMP, socket.AF_UNSPEC, b""))
        for family, which in list(_untranslated(sock)):
            sock.send(_message(CT_DELETE, REQUEST | ACK, family, which))
            for kind, body in _messages(sock.recv(DATAGRAM_BYTES)):
                if kind == ERROR and _raise_unless(body, errno.ENOENT):
                    forgotten += 1
    return forgotten


def _untranslated(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """From the answer to a dump: family, and what names the connection, as conntrack wants it back."""
    while True:
        for kind, body in _messages(sock.recv(DATAGRAM_BYTES)):
            if kind == DONE:
                return
            if kind == ERROR:
                _raise_unless(body)
                return
            named = name_of_untranslated(body[_FAMILY.size :])
            if named is not None:
                yield body[0], named


def name_of_untranslated(entry: bytes) -> bytes | None:
    """The attributes that name an entry, where it is TCP, in no zone, and was never translated; else None. Pure."""
    found = attributes(entry)
    direction = attributes(found.get(TUPLE_ORIG, b""))
    protocol = attributes(direction.get(TUPLE_PROTO, b"")).get(PROTO_NUM)
    status = int.from_bytes(found.get(STATUS, b""), "big")
    if protocol != bytes([socket.IPPROTO_TCP]) or TUPLE_ZONE in direction or status & TRANSLATED or ID not in found:
        return None
    return _attribute(TUPLE_ORIG | NESTED, found[TUPLE_ORIG]) + _attribute(ID, found[ID])


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by type; as many as there are whole ones."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + _FAMILY.size + len(body), kind, flags, 0, 0) + _FAMILY.pack(family, 0, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _raise_unless(body: bytes, harmless: int = 0) -> bool:
    """Whether an acknowledgement says yes; False for an error that does no harm, and OSError for others."""
    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    if number not in {0, harmless}:
        raise OSError(number, f"conntrack: {os.strerror(number)}")
    return number == 0
