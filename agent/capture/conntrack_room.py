"""How full a namespace's conntrack table is: in a full one the kernel drops whatever would open a connection.

The limit is the node's (net.netfilter.nf_conntrack_max), and each namespace's table is counted by itself. Asked by
netlink (linux/netfilter/nfnetlink_conntrack.h).
"""

import socket
from typing import NamedTuple

from init.netfilter import DATAGRAM_BYTES, GENERAL_BYTES, NETLINK_NETFILTER, REQUEST, attributes, message, messages

GET_STATS = 0x0105
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET_STATS."""
ENTRIES, MAX_ENTRIES = 1, 2
"""CTA_STATS_GLOBAL_ENTRIES, CTA_STATS_GLOBAL_MAX_ENTRIES."""


class Room(NamedTuple):
    """Entries that a table has, and may have; a limit of 0 is none."""

    entries: int
    limit: int

    @property
    def used(self) -> float:
        """The part of the limit that is used."""
        return self.entries / self.limit if self.limit else 0.0


def ask() -> Room:
    """Of the calling thread's namespace. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        sock.send(message(GET_STATS, REQUEST, socket.AF_UNSPEC, b""))
        return decode(sock.recv(DATAGRAM_BYTES))  # the kernel has answered before send returns


def decode(answer: bytes) -> Room:
    """What an answer says. Pure. Raises OSError where it is none."""
    for kind, body in messages(answer):
        if kind == GET_STATS:
            found = attributes(body[GENERAL_BYTES:])
            return Room(
                int.from_bytes(found.get(ENTRIES, b""), "big"), int.from_bytes(found.get(MAX_ENTRIES, b""), "big")
            )
    raise OSError("conntrack does not say how full its table is")
