# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""What conntrack knows of one connection, asked by netlink (linux/netfilter/nfnetlink_conntrack.h); figures are in
docs/performance.md.
"""

from libc.errno cimport errno
from libc.string cimport memcpy, memset, strerror

from cpython.bytes cimport PyBytes_AS_STRING

cdef extern from "arpa/inet.h" nogil:
    int AF_INET, AF_INET6, MSG_DONTWAIT, MSG_TRUNC, IPPROTO_TCP
    int inet_pton(int, const char *, void *)
    unsigned short htons(unsigned short)
    Py_ssize_t send(int, const void *, size_t, int)
    Py_ssize_t recv(int, void *, size_t, int)

cdef extern from "errno.h":
    int EAGAIN, EINVAL, EBADMSG

cdef enum:
    CT_NEW = 0x0100  # NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_NEW, which answers IPCTNL_MSG_CT_GET
    CT_GET = 0x0101
    ERROR = 2
    REQUEST = 1
    HEADER = 20  # struct nlmsghdr and struct nfgenmsg
    NESTED = 0x8000
    TUPLE_ORIG = 1
    TUPLE_REPLY = 2
    TUPLE_IP = 1
    TUPLE_PROTO = 2
    PROTO_NUM = 1
    PROTO_SOURCE = 2
    PROTO_DESTINATION = 3
    ANSWER_BYTES = 8192

cdef unsigned int _sequence = 0


cdef struct _Attribute:
    unsigned short length
    unsigned short kind


cdef struct _Header:
    unsigned int length
    unsigned short kind
    unsigned short flags
    unsigned int sequence
    unsigned int port


cdef object _error(int number):
    return OSError(number, strerror(number).decode())


cdef int _put(unsigned char *message, int at, int kind, const void *value, int size) noexcept:
    """Writes an attribute; where the next one begins."""
    cdef _Attribute attribute
    attribute.length, attribute.kind = <unsigned short>(sizeof(_Attribute) + size), <unsigned short>kind
    memcpy(message + at, &attribute, sizeof(attribute))
    if size:
        memcpy(message + at + sizeof(attribute), value, size)
    return at + ((<int>sizeof(attribute) + size + 3) & ~3)


cdef void _close(unsigned char *message, int begun, int at) noexcept:
    """Writes the length of a nested attribute that ends here."""
    cdef unsigned short length = <unsigned short>(at - begun)
    memcpy(message + begun, &length, sizeof(length))


cdef int _find(const unsigned char *data, int size, int kind, int *found_size) noexcept:
    """Where the value of an attribute of this kind begins; -1: there is none."""
    cdef int at = 0
    cdef _Attribute attribute
    while at + <int>sizeof(attribute) <= size:
        memcpy(&attribute, data + at, sizeof(attribute))
        if attribute.length < sizeof(attribute) or at + attribute.length > size:
            return -1
        if attribute.kind & 0x3FFF == kind:
            found_size[0] = attribute.length - <int>sizeof(attribute)
            return at + <int>sizeof(attribute)
        at += (attribute.length + 3) & ~3
    return -1


def source_port(int netlink, str client, int client_port, str own, int own_port):
    """The port of the socket that dialled, of a redirected connection: `client` and `own` are the accepted one's ends.

    It is another one than the accepted socket says where conntrack had to tell two connections apart: from one port to
    two places, and both redirected to one. `netlink` is a NETLINK_NETFILTER socket of the namespace. Raises OSError
    (ENOENT where conntrack knows of none).
    """
    global _sequence
    cdef unsigned char[128] message
    cdef unsigned char[ANSWER_BYTES] answer
    cdef unsigned char[16] address
    cdef unsigned short port
    cdef unsigned char protocol = <unsigned char>IPPROTO_TCP
    cdef int family = AF_INET6 if ":" in client else AF_INET
    cdef int size = 16 if family == AF_INET6 else 4, first = 3 if family == AF_INET6 else 1
    cdef int outer, inner, at = HEADER, found = 0, number
    cdef Py_ssize_t got
    cdef _Header header
    cdef bytes packed
    memset(message, 0, sizeof(message))
    outer = at
    at = inner = _put(message, at, NESTED | TUPLE_REPLY, NULL, 0)
    at = _put(message, at, NESTED | TUPLE_IP, NULL, 0)
    for number, text in ((first, own), (first + 1, client)):
        packed = text.encode("ascii")
        if inet_pton(family, PyBytes_AS_STRING(packed), address) != 1:
            raise OSError(EINVAL, f"{text!r} is no address of this family")
        at = _put(message, at, number, address, size)
    _close(message, inner, at)
    inner = at
    at = _put(message, at, NESTED | TUPLE_PROTO, NULL, 0)
    at = _put(message, at, PROTO_NUM, &protocol, 1)
    port = htons(<unsigned short>own_port)
    at = _put(message, at, PROTO_SOURCE, &port, 2)
    port = htons(<unsigned short>client_port)
    at = _put(message, at, PROTO_DESTINATION, &port, 2)
    _close(message, inner, at)
    _close(message, outer, at)
    _sequence = _sequence + 1
    header.length, header.kind, header.flags = at, CT_GET, REQUEST
    header.sequence, header.port = _sequence, 0
    memcpy(message, &header, sizeof(header))
    message[sizeof(header)] = <unsigned char>family
    if send(netlink, message, at, MSG_DONTWAIT) != at:
        raise _error(errno)
    while True:  # the kernel answers before send(2) returns; what was not read of a former answer goes first
        got = recv(netlink, answer, ANSWER_BYTES, MSG_DONTWAIT)
        if got < 0:
            raise _error(errno)
        if got < HEADER:
            raise _error(EBADMSG)
        memcpy(&header, answer, sizeof(header))
        if header.sequence == _sequence:
            break
    if header.kind == ERROR:
        memcpy(&number, answer + sizeof(header), sizeof(number))
        raise _error(-number if number else EBADMSG)
    if header.kind != CT_NEW or header.length > got:
        raise _error(EBADMSG)
    at = HEADER
    found = <int>header.length - HEADER
    for number in (TUPLE_ORIG, TUPLE_PROTO, PROTO_SOURCE):
        size = found
        inner = _find(answer + at, size, number, &found)
        if inner < 0:
            raise _error(EBADMSG)
        at += inner
    if found != 2:
        raise _error(EBADMSG)
    return answer[at] << 8 | answer[at + 1]
