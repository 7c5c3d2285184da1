"""Sockets as the agent needs them: listeners in a pod, and marked sockets to dial from inside it.

`listeners` makes them in the network namespace of the calling thread: call it in a visit (agent.capture.netns). What
is done for every connection is native (`_sockets.pyx`) and takes descriptors. A descriptor is its transport's until
`connection_lost`, and may be another connection's a moment later.

Each socket is made with SO_LINGER on and zero, which accepted sockets inherit: whatever ends a process, the
kernel then ends its connections with a reset, so that an agent's death is never taken for the end of a
stream. A relay that ended cleanly turns it off just before it closes.
"""

import errno
import socket

from agent.capture import _sockets
from agent.capture._sockets import at_end, cork, ends, finish_on_close, has_died, reset_on_close
from agent.capture.address import Source
from init.constants import INBOUND_PORT, OUTBOUND_PORT

__all__ = ["BACKLOG", "at_end", "cork", "dial", "ends", "finish_on_close", "has_died", "listeners", "reset_on_close"]


IP_TRANSPARENT, IPV6_TRANSPARENT, IPV6_FREEBIND = 19, 75, 78
"""linux/in.h, linux/in6.h; Python has no names for them."""
BACKLOG = 4096
"""Connections that the kernel queues per listener; net.core.somaxconn of the namespace caps it."""


def listeners(
    *, ipv6: bool, inbound_port: int = INBOUND_PORT, outbound_port: int = OUTBOUND_PORT
) -> dict[str, socket.socket]:
    """One worker's listening sockets for one pod: bound, not yet listening; keys `outbound4`, `inbound6`, ….

    They are transparent (ip(7), IP_TRANSPARENT): the rules let what is captured reach such a one only.

    The outbound ones are bound to loopback: REDIRECT in OUTPUT sends there, and nobody else can. ::1 is bound where
    the namespace has none, too (IPV6_FREEBIND), so that IPv6 which is enabled later finds us listening.
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


def in_use(port: int) -> str | None:
    """At which address somebody listens on a port in the calling thread's namespace; None: nobody does.

    Whoever shares its port (SO_REUSEPORT) would share it with us too, so it is asked for without.
    """
    for family, addresses in ((socket.AF_INET, ("0.0.0.0",)), (socket.AF_INET6, ("::",))):
        for address in addresses:
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:  # no IPv6: nobody listens there
                    raise
    return None


def _listener(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        _sockets.prepare(sock.fileno())
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def dial(
    netns_fd: int,
    home_fd: int,
    mark: int,
    address: str,
    port: int,
    source: Source | None = None,
    *,
    shared: bool = False,
) -> tuple[socket.socket, bool]:
    """A socket that dials from inside a pod; whether it is connected already.

    `mark` is the one that the pod's rules leave alone (init.agent_mark). With `source` it dials from that address and
    port, and port 0 is one that is free. `shared` is for a port among the ephemeral ones: it is not bound, which would
    keep it from the pod's other connections, but chosen (IP_LOCAL_PORT_RANGE). The calling thread visits the namespace
    and comes back to `home_fd`: 4 µs on the loop's own thread; a second thread that made sockets fought it for the
    interpreter's lock, for thirteen futex calls and a third of the CPU of a connection. Raises OSError; EADDRINUSE and
    EADDRNOTAVAIL: something in the pod listens on the port, has bound it, or has these four numbers.
    """
    if source is None:
        fd, connected = _sockets.dial(netns_fd, home_fd, mark, address, port)
    else:
        fd, connected = _sockets.dial(netns_fd, home_fd, mark, address, port, *source[:2], shared, source.alone)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM, 0, fd), connected
