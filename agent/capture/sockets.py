"""Sockets as the agent needs them: listeners in a pod, and marked sockets to dial from inside it.

Every function here makes sockets in the network namespace of the calling thread: call them in a visit
(agent.capture.netns).

Each socket is made with SO_LINGER on and zero, which accepted sockets inherit: whatever ends a process, the
kernel then ends its connections with a reset, so that an agent's death is never taken for the end of a
stream. A relay that ended cleanly turns it off just before it closes.
"""

import socket
import struct

from agent.capture.address import PeerAddr
from init.constants import INBOUND_PORT, MARK, OUTBOUND_PORT

BACKLOG = 4096
"""Connections that the kernel queues per listener; net.core.somaxconn of the namespace caps it."""

KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_PROBES = 6
"""A dead peer is found after two minutes: without this, its descriptors stay for ever."""

IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h, for both families; the socket module has no name for it before Python 3.12."""
IPV6_TRANSPARENT = 75
"""linux/in6.h; the socket module has no name for it."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
FINISH_ON_CLOSE = struct.pack("ii", 0, 0)


def listeners(
    *, ipv6: bool, inbound_port: int = INBOUND_PORT, outbound_port: int = OUTBOUND_PORT
) -> dict[str, socket.socket]:
    """One worker's listening sockets for one pod: bound, not yet listening; keys `outbound4`, `inbound6`, ….

    The outbound ones are bound to loopback: REDIRECT in OUTPUT sends there, and nobody else can.
    """
    made: dict[str, socket.socket] = {}
    try:
        made["outbound4"] = _listener(socket.AF_INET, "127.0.0.1", outbound_port)
        made["inbound4"] = _listener(socket.AF_INET, "0.0.0.0", inbound_port)
        if ipv6:
            made["outbound6"] = _listener(socket.AF_INET6, "::1", outbound_port)
            made["inbound6"] = _listener(socket.AF_INET6, "::", inbound_port)
    except OSError:
        for sock in made.values():
            sock.close()
        raise
    return made


def _listener(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _common_options(sock)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def dialling_socket(family: int) -> socket.socket:
    """A non-blocking TCP socket whose traffic the rules leave alone, ready for `connect`."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        _common_options(sock)
    except OSError:
        sock.close()
        raise
    return sock


def bind_transparent(sock: socket.socket, client: PeerAddr) -> None:
    """Gives a dialling socket the client's own address and port; with port 0, connect() chooses one that is free.

    Needs no namespace to be entered: the socket knows its own. Raises OSError (EADDRINUSE: something in the pod listens
    on the client's port).
    """
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    # A port that other connections have may be bound again: connect() looks at all four numbers.
    option = (socket.SOL_SOCKET, socket.SO_REUSEADDR) if client.port else (socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT)
    sock.setsockopt(*option, 1)
    sock.bind((client.address, client.port))


def _common_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
