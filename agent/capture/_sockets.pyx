# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""Sockets of the data path, by descriptor: one call where Python needs fifteen (the figures are in docs/performance.md).

The kernel's answers are passed on as they are: OSError with its number, nothing decided here.
"""

from functools import lru_cache

from cpython.bytes cimport PyBytes_AS_STRING
from libc.errno cimport errno
from libc.string cimport memcmp, memset, strerror, strncpy

from agent.capture.netns import stranded


cdef extern from "sched.h" nogil:
    int CLONE_NEWNET
    int setns(int, int)


cdef extern from "unistd.h" nogil:
    int close(int)


cdef extern from "errno.h":
    int EAGAIN, EINPROGRESS, EALREADY, EISCONN, EINVAL, ENOPROTOOPT


cdef extern from "arpa/inet.h" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short in_port_t
    cdef struct in_addr:
        unsigned int s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct sockaddr_in:
        unsigned short sin_family
        in_port_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        in_port_t sin6_port
        in6_addr sin6_addr
    cdef struct linger:
        int l_onoff
        int l_linger
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_CLOEXEC, SOCK_NONBLOCK
    int SOL_SOCKET, SO_MARK, SO_LINGER, SO_KEEPALIVE, SO_REUSEADDR, SO_OOBINLINE
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IP_TRANSPARENT
    int INET6_ADDRSTRLEN, MSG_NOSIGNAL
    int socket(int, int, int)
    int bind(int, const sockaddr *, socklen_t)
    int connect(int, const sockaddr *, socklen_t)
    int accept4(int, sockaddr *, socklen_t *, int)
    Py_ssize_t send(int, const void *, size_t, int)
    int setsockopt(int, int, int, const void *, socklen_t)
    int getsockopt(int, int, int, void *, socklen_t *)
    int getsockname(int, sockaddr *, socklen_t *)
    int getpeername(int, sockaddr *, socklen_t *)
    int inet_pton(int, const char *, void *)
    const char *inet_ntop(int, const void *, char *, socklen_t)
    in_port_t htons(in_port_t)
    in_port_t ntohs(in_port_t)


cdef extern from "netinet/tcp.h" nogil:
    int TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_CORK


cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    short POLLERR, POLLNVAL, POLLRDHUP
    int poll(pollfd *, unsigned long, int)


cdef extern from "sys/ioctl.h" nogil:
    unsigned long FIONREAD
    int ioctl(int, unsigned long, ...)


cdef enum:
    SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number
    IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h, for both families
    IP_LOCAL_PORT_RANGE = 51  # linux/in.h, Linux 6.3, for both families
    IPV6_TRANSPARENT = 75  # linux/in6.h
    TCP_RTO_MAX_MS = 44  # linux/tcp.h, Linux 6.15
    # Conntrack forgets a half-closed connection after 60 s of silence (nf_conntrack_tcp_timeout_close_wait), and
    # what is said then would not be translated.
    KEEPALIVE_IDLE_SECONDS = 40
    KEEPALIVE_INTERVAL_SECONDS = 10
    KEEPALIVE_PROBES = 6  # a dead peer is found in less than two minutes: else its descriptors stay for ever
    # While bytes wait for a reader that does not read, there are no keepalives but probes of its window, every two
    # minutes in the end. Not so with this, and retransmission gives up after seven minutes instead of a quarter of an hour.
    SILENCE_MILLISECONDS = 45000

cdef unsigned char[12] _mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]
"""What an IPv4-mapped address begins with: RFC 4291, section 2.5.5.2."""

_one = lru_cache(maxsize=4096)(str)  # not sys.intern: before Python 3.12.6 what is interned stays for ever

cdef union _Address:
    sockaddr any
    sockaddr_in v4
    sockaddr_in6 v6


cdef object _error(int number):
    return OSError(number, strerror(number).decode())


cdef inline int _set(int fd, int level, int option, int value) except -1:
    if setsockopt(fd, level, option, &value, sizeof(value)) != 0:
        raise _error(errno)
    return 0


cdef inline short _events(int fd, short wanted) except -1:
    """What poll(2) says of a descriptor now; errors are always among it."""
    cdef pollfd one
    one.fd, one.events, one.revents = fd, wanted, 0
    if poll(&one, 1, 0) < 0:
        raise _error(errno)
    return one.revents


cdef inline int _linger(int fd, int on) except -1:
    cdef linger value
    value.l_onoff, value.l_linger = on, 0
    if setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value)) != 0:
        raise _error(errno)
    return 0


cpdef int prepare(int fd) except -1:
    """What every socket of the agent has: a reset when it is closed, keepalives, no delay, urgent data in its place.

    Urgent data (RFC 6093) that is not in line is not read, and hides from FIONREAD what comes behind it.
    """
    _linger(fd, 1)
    _set(fd, SOL_SOCKET, SO_OOBINLINE, 1)
    _set(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    _set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    _set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    _set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES)
    cdef int silence = SILENCE_MILLISECONDS
    if setsockopt(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, &silence, sizeof(silence)) != 0 and errno != ENOPROTOOPT:
        raise _error(errno)
    return _set(fd, IPPROTO_TCP, TCP_NODELAY, 1)


cpdef int finish_on_close(int fd) except -1:
    """From here on close(2) ends the stream, and resets it no more."""
    return _linger(fd, 0)


cpdef int reset_on_close(int fd) except -1:
    """From here on close(2) is a reset again."""
    return _linger(fd, 1)


cpdef int cork(int fd) except -1:
    """What is written from here on goes out together with the end of the stream (tcp(7), TCP_CORK)."""
    return _set(fd, IPPROTO_TCP, TCP_CORK, 1)


cdef Py_ssize_t send_now(int fd, const char *data, Py_ssize_t size) noexcept:
    """Bytes that the kernel took at once, 0 where it has no room; what is wrong is minus errno, and said once."""
    cdef Py_ssize_t sent = send(fd, data, size, MSG_NOSIGNAL)
    return sent if sent >= 0 else 0 if errno == EAGAIN else -errno


cpdef bint at_end(int fd) except -1:
    """Whether all has been read and the stream's clean end is there too: a read would say so at once.

    Nothing is consumed: a read that hears of a reset would be the only one to hear of it.
    """
    cdef int left = 0
    cdef short events = _events(fd, POLLRDHUP)
    return events & POLLRDHUP and not events & (POLLERR | POLLNVAL) and ioctl(fd, FIONREAD, &left) == 0 and left == 0


cpdef bint has_died(int fd) except -1:
    """Whether the kernel has given the connection up: an error waits to be heard. Nothing is consumed.

    That TCP's state is CLOSED says nothing: it is that too after both ends' FIN, with data that nobody has read yet.
    """
    return (_events(fd, 0) & POLLERR) != 0


cdef socklen_t _fill(_Address *address, str text, int port) except 0:
    cdef bytes packed = text.encode("ascii")
    memset(address, 0, sizeof(_Address))
    if inet_pton(AF_INET, PyBytes_AS_STRING(packed), &address.v4.sin_addr) == 1:
        address.any.sa_family = AF_INET
        address.v4.sin_port = htons(<in_port_t>port)
        return sizeof(sockaddr_in)
    if inet_pton(AF_INET6, PyBytes_AS_STRING(packed), &address.v6.sin6_addr) == 1:
        address.any.sa_family = AF_INET6
        address.v6.sin6_port = htons(<in_port_t>port)
        return sizeof(sockaddr_in6)
    raise OSError(EINVAL, f"{text!r} is no address")


cdef tuple _shown(_Address *address):
    """As text: one for all connections of one address, among the last some thousands; IPv4 as such where it is mapped.

    What is mapped is told by its bytes: the text of ::ffff:0:a00:1, which is no mapped address, begins like one.
    """
    cdef char text[64]
    if address.any.sa_family == AF_INET:
        inet_ntop(AF_INET, &address.v4.sin_addr, text, 64)
        return _one(text.decode()), ntohs(address.v4.sin_port)
    if memcmp(address.v6.sin6_addr.s6_addr, _mapped, sizeof(_mapped)) == 0:
        inet_ntop(AF_INET, &address.v6.sin6_addr.s6_addr[sizeof(_mapped)], text, 64)
    else:
        inet_ntop(AF_INET6, &address.v6.sin6_addr, text, 64)
    return _one(text.decode()), ntohs(address.v6.sin6_port)


def dial(
    int netns, int home, unsigned int mark, str address, int port,
    str source=None, int source_port=0, bint shared=False, bint alone=False
):
    """A socket made in the namespace `netns` with this mark, and its connect(2); the calling thread comes back to `home`.

    From `source` and `source_port` where they are given; port 0 is one that connect(2) finds free. Returns the
    descriptor, and whether it is connected already; if not, it is connecting. Raises OSError.

    `shared`: the port is of those that connect(2) may choose, and it is to choose this one. A port that was bound is
    passed over whenever it chooses for others, wherever they dial; one that it chose itself it gives out again.
    Raises ENOPROTOOPT before Linux 6.3, EADDRNOTAVAIL where somebody has bound the port. `alone`: not where another
    socket has bound source and port too. Whoever listens may have the port all the same.

    Within one machine the kernel has the answer by the time connect(2) returns, though it says EINPROGRESS: a second
    call hears it, and saves a future, a timer, two epoll_ctl and a turn of the loop.
    """
    cdef _Address there, here
    cdef socklen_t size = _fill(&there, address, port), own_size = 0
    cdef int fd, number
    if source is not None:
        own_size = _fill(&here, source, source_port)
    if setns(netns, CLONE_NEWNET) != 0:
        raise _error(errno)
    fd = socket(there.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    number = errno
    if setns(home, CLONE_NEWNET) != 0:
        stranded()
    if fd < 0:
        raise _error(number)
    try:
        _set(fd, SOL_SOCKET, SO_MARK, <int>mark)
        prepare(fd)
        if own_size:
            if there.any.sa_family == AF_INET:
                _set(fd, IPPROTO_IP, IP_TRANSPARENT, 1)
            else:
                _set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            # A port that other connections have may be bound again: connect(2) looks at all four numbers.
            if not alone:
                _set(fd, SOL_SOCKET, SO_REUSEADDR, 1)
            if shared:
                here.v4.sin_port = 0  # where IPv6 has it, too
                _set(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, <int>(<unsigned int>source_port << 16 | source_port))
            if shared or not source_port:
                _set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            if bind(fd, &here.any, own_size) != 0:
                raise _error(errno)
            if alone:
                _set(fd, SOL_SOCKET, SO_REUSEADDR, 1)
        if connect(fd, &there.any, size) == 0:
            return fd, True
        if errno == EINPROGRESS and connect(fd, &there.any, size) == 0:
            return fd, True
        if errno == EISCONN:
            return fd, True
        if errno != EALREADY:
            raise _error(errno)
    except BaseException:
        close(fd)
        raise
    return fd, False


cdef enum:
    SO_GET_INFO = 64  # linux/netfilter_ipv4/ip_tables.h; IP6T_SO_GET_INFO has the same number
    TABLE_NAME_BYTES = 32  # XT_TABLE_MAXNAMELEN
    INFO_BYTES = 84  # struct ipt_getinfo: the name, hooks, entries of hooks, underflows, number of entries, their bytes
    TABLES = 3


def table_shapes(int fd4, int fd6):
    """How many rules, in how many bytes, hung up where, each of iptables' own tables has that we write to.

    Of the namespace in which the two sockets were made, -1 for a family that does not matter. Does not read the rules,
    which is why it can be asked every second: 1 µs for a table. One that cannot be asked is all zeros.
    """
    cdef bytes found = bytes(2 * TABLES * INFO_BYTES)
    cdef char *at = PyBytes_AS_STRING(found)
    cdef const char **names = [b"raw", b"mangle", b"nat"]
    cdef int family, table, fd
    cdef socklen_t size
    for family in range(2):
        fd = fd6 if family else fd4
        for table in range(TABLES):
            if fd >= 0:
                size = INFO_BYTES
                strncpy(at, names[table], TABLE_NAME_BYTES)
                if getsockopt(fd, IPPROTO_IPV6 if family else IPPROTO_IP, SO_GET_INFO, at, &size) != 0:
                    memset(at, 0, INFO_BYTES)
            at += INFO_BYTES
    return found


def accept(int fd):
    """The next connection of a listener that does not block: its descriptor, -1 where none waits. Raises OSError."""
    cdef int taken = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
    if taken < 0 and errno != EAGAIN:
        raise _error(errno)
    return taken


def ends(int fd):
    """Of an accepted connection: who dialled, our own end, and what was dialled before REDIRECT.

    Each is (address, port), IPv4 as such where it came mapped; the last is our own end where conntrack knows of no
    other. Raises OSError (ENOTCONN where the connection was reset before it was accepted).
    """
    cdef _Address peer, own, original
    cdef socklen_t size = sizeof(_Address)
    cdef int done
    if getpeername(fd, &peer.any, &size) != 0:
        raise _error(errno)
    size = sizeof(_Address)
    if getsockname(fd, &own.any, &size) != 0:
        raise _error(errno)
    cdef tuple client = _shown(&peer), here = _shown(&own)
    memset(&original, 0, sizeof(_Address))
    if ":" in client[0]:
        size = sizeof(sockaddr_in6)
        done = getsockopt(fd, IPPROTO_IPV6, SO_ORIGINAL_DST, &original, &size)
    else:  # a mapped peer's too
        size = sizeof(sockaddr_in)
        done = getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &original, &size)
    return client, here, _shown(&original) if done == 0 else here
