"""What the agent must know of a pod's kernel to dial from where the application did: ports, routes, conntrack."""

import errno
import socket
import struct
import sys
from pathlib import Path

from msgspec import Struct

from agent.capture import _conntrack
from agent.capture.address import PeerAddr
from agent.capture.netns import visit

NETLINK_NETFILTER = 12
"""linux/netlink.h; Python has no name for it."""
IP_LOCAL_PORT_RANGE = 51
"""linux/in.h, Linux 6.3."""
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""For both families."""
GET_RULES, RULE, REQUEST_DUMP = 34, 32, 0x301
"""RTM_GETRULE, RTM_NEWRULE (linux/rtnetlink.h); NLM_F_REQUEST | NLM_F_DUMP."""
DONE = 3
"""NLMSG_DONE."""
GET_ADDRESSES, ADDRESS = 22, 20
"""RTM_GETADDR, RTM_NEWADDR."""
MAX_ANSWERS = 64
"""Datagrams that are read; a pod that has more routes by source, and several addresses, as far as we know."""

_HEADER = struct.Struct("=IHHII")
_RULE = struct.Struct("=8BI")
"""struct fib_rule_hdr (linux/fib_rules.h)."""
_ADDRESS = struct.Struct("=4BI")
"""struct ifaddrmsg (linux/if_addr.h): the family, the length of the prefix, flags, scope, and the device."""
_ATTRIBUTE = struct.Struct("=HH")
LOCAL = 2
"""IFA_LOCAL, which each IPv4 address has."""
SOURCE_LENGTH = 2
"""Where it says how long the source's prefix is; 0: every source."""


class Kernel(Struct, frozen=True):
    """What a pod's kernel does."""

    ephemeral: range
    """The ports that connect(2) chooses from (net.ipv4.ip_local_port_range)."""
    routes_by_source: bool
    """A rule asks where a packet comes from: a leg at another address than the application's would go another way."""
    only_address: str | None = None
    """The pod's IPv4 address, where it has one and no other, of global scope."""


def can_share_ports() -> bool:
    """Whether a socket can have a port that connect(2) gave to another one without binding it: see `sockets.dial`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, (1024 << 16 | 1024).to_bytes(4, sys.byteorder))
        except OSError:  # before Linux 6.3: legs have ports of their own
            return False
    return True


def look(netns_fd: int, home_fd: int) -> Kernel:
    """The calling thread visits the namespace: what is read is about who reads it."""
    try:
        return visit(netns_fd, home_fd, lambda: Kernel(_ephemeral(), _routes_by_source(), _only_address()))
    except OSError:  # the namespace cannot be entered: nothing can be dialled there either
        return Kernel(range(0), routes_by_source=True)


def _ephemeral() -> range:
    try:
        first, last = map(int, EPHEMERAL.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # taken for ports that are shared: at worst a leg has another one than it should
        return range(1, 65536)
    return range(first, last + 1)


def _routes_by_source() -> bool:
    try:
        return any(rule[SOURCE_LENGTH] for rule in _dump(GET_RULES, RULE, _RULE.pack(*bytes(8), 0)))
    except OSError:  # then a leg has its application's address, and at worst another port
        return True


def _only_address() -> str | None:
    try:
        found = [_address(each) for each in _dump(GET_ADDRESSES, ADDRESS, _ADDRESS.pack(socket.AF_INET, *bytes(3), 0))]
    except OSError:
        return None
    known = [address for address in found if address is not None]
    return known[0] if len(known) == 1 else None


def _address(body: bytes) -> str | None:
    """Of an answer about an address; None where its scope is not global (a link's, the machine's)."""
    _, _, _, scope, _ = _ADDRESS.unpack_from(body)
    at = _ADDRESS.size
    while scope == 0 and at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if kind == LOCAL and length == _ATTRIBUTE.size + 4:
            return socket.inet_ntoa(body[at + _ATTRIBUTE.size : at + length])
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    return None


def _dump(kind: int, answered: int, wanted: bytes) -> list[bytes]:
    """What route netlink says, an answer each, without its header. Raises OSError, also where it says too much."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(wanted), kind, REQUEST_DUMP, 1, 0) + wanted)
        for _ in range(MAX_ANSWERS):
            data = netlink.recv(65536, socket.MSG_DONTWAIT)  # the kernel has answered before send(2) returned
            at = 0
            while at + _HEADER.size <= len(data):
                length, said, *_ = _HEADER.unpack_from(data, at)
                if said == DONE:
                    return found
                if said != answered or length < _HEADER.size + len(wanted):
                    raise OSError(errno.EBADMSG, "route netlink answers something else")
                found.append(data[at + _HEADER.size : at + length])
                at += (length + 3) & ~3
    raise OSError(errno.EMSGSIZE, "route netlink says too much")


class Conntrack:
    """Asks what conntrack knows of a pod's connections."""

    def __init__(self, netns_fd: int, home_fd: int) -> None:
        """The calling thread visits the namespace. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = visit(netns_fd, home_fd, lambda: socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER))

    def close(self) -> None:
        """Asks no more."""
        self._socket.close()

    def dialler(self, client: PeerAddr, own: tuple[str, int]) -> PeerAddr:
        """Who dialled what was redirected to `own`, by the port that its socket has.

        `client`, who the accepted socket says that it was, where conntrack cannot be asked: at worst a leg has another
        port than the application's own.
        """
        try:
            port = _conntrack.source_port(self._socket.fileno(), *client, *own)
        except OSError:
            return client
        return client if port == client.port else PeerAddr(client.address, port)
