"""Connections that nobody translated while rules were gone: conntrack is made to forget them.

Conntrack decides once per connection. What was opened while a pod's rules were flushed would pass uncaptured, in
plaintext, for as long as it lives. Once it is forgotten its next packet is decided on like a first one, and meets the
rules: captured in the middle of a stream it is reset; what they leave alone goes on. Spoken by netlink directly
(linux/netfilter/nfnetlink_conntrack.h), because conntrack(8) is on few nodes.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator

from init.netfilter import (
    ACK,
    DATAGRAM_BYTES,
    DONE,
    DUMP,
    ERROR,
    GENERAL_BYTES,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    attributes,
    message,
    messages,
)

CT_GET, CT_DELETE = 0x0101, 0x0102
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE."""
TUPLE_ORIG, STATUS, ID = 1, 3, 12
TUPLE_PROTO, TUPLE_ZONE, PROTO_NUM = 2, 3, 1
TRANSLATED = 0x30
"""IPS_SRC_NAT and IPS_DST_NAT."""
NESTED = 0x8000
ANSWER_SECONDS = 5.0


def forget_untranslated() -> int:
    """Has conntrack forget each TCP connection of the current namespace that was never translated; how many.

    But not what the agent dials, which is in a zone of its own. Raises OSError.
    """
    forgotten = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.bind((0, 0))
        sock.send(message(CT_GET, REQUEST | DUMP, socket.AF_UNSPEC, b""))
        for family, which in list(_untranslated(sock)):
            sock.send(message(CT_DELETE, REQUEST | ACK, family, which))
            for kind, body in messages(sock.recv(DATAGRAM_BYTES)):
                if kind == ERROR and _raise_unless(body, errno.ENOENT):
                    forgotten += 1
    return forgotten


def _untranslated(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """From the answer to a dump: family, and what names the connection, as conntrack wants it back."""
    while True:
        for kind, body in messages(sock.recv(DATAGRAM_BYTES)):
            if kind == DONE:
                return
            if kind == ERROR:
                _raise_unless(body)
                return
            named = name_of_untranslated(body[GENERAL_BYTES:])
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
    return attribute(TUPLE_ORIG | NESTED, found[TUPLE_ORIG]) + attribute(ID, found[ID])


def _raise_unless(body: bytes, harmless: int = 0) -> bool:
    """Whether an acknowledgement says yes; False for an error that does no harm, and OSError for others."""
    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    if number not in {0, harmless}:
        raise OSError(number, f"conntrack: {os.strerror(number)}")
    return number == 0
