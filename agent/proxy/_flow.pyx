# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True, embedsignature=False
"""What happens for every message of a relay: read, decrypt or encrypt, and write; the figures are in docs/performance.md.

`Flow` is that part of a leg. What a leg's beginning and end, backpressure and failures mean is Python's, in relay.py.

Every leg reads into one buffer of the process, and has passed on what is in it before the next one reads. So it is with
what is decrypted and what is encrypted: a message goes through memory that is in the cache.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport strerror

from agent.capture._sockets cimport at_end, send_now
from agent.tls._openssl cimport Connection

from agent.tls.machine import TlsFailure

cdef enum:
    READ_SIZE = 262144  # sixteen records under load, for one system call and one call of ours
    RECORD = 16384  # RFC 8446, section 5.1: plaintext of one record at most
    SEALED_SIZE = READ_SIZE + 65536  # what sixteen records add, and a last flight of the handshake that waits

cdef char _read[READ_SIZE]
cdef char _plain[READ_SIZE + RECORD]
cdef char _sealed[SEALED_SIZE]
_view = PyMemoryView_FromMemory(_read, READ_SIZE, PyBUF_WRITE)


cdef class Flow:
    """One leg's part in every message. `machine` is None on a plain leg."""

    cdef readonly object transport
    cdef readonly int fd
    cdef readonly object relay
    cdef readonly Flow other
    cdef readonly Connection machine
    cdef object remember
    cdef public long long received
    cdef public bint ended
    cdef public bint lost
    cdef public bint paused
    cdef public bint refused
    cdef bint waits  # the transport may hold what was written: what follows goes behind it

    def __init__(self, relay, opening, Connection machine=None, remember=None):
        self.relay = relay
        self.transport = opening.transport
        self.fd = opening.fd
        self.machine = machine
        self.remember = remember
        self.waits = True  # what the set-up wrote may wait still

    def facing(self, Flow other):
        """Says what the other leg is."""
        self.other = other

    def let_go(self):
        """Forgets relay and other leg: whoever still looks at this one finds it lost.

        Legs and relay that held each other would keep what is dead, with 16 kB of TLS, until the garbage collector
        came: the next connection would find no memory that is still in cache.
        """
        self.relay = self.other = None

    @staticmethod  # a bound method would be kept for each transport
    def get_buffer(sizehint):
        """Where the loop reads to."""
        return _view

    def buffer_updated(self, Py_ssize_t nbytes):
        """The loop has read."""
        self._took(_read, nbytes)

    def took(self, bytes data):
        """Passes bytes on that came in by this leg, before it returns: as many at once as a read may bring."""
        cdef Py_ssize_t at
        for at in range(0, len(data), READ_SIZE):
            self._took(PyBytes_AS_STRING(data) + at, min(len(data) - at, READ_SIZE))

    def forward(self, bytes data):
        """Writes bytes that came in by the other leg."""
        self._forward(PyBytes_AS_STRING(data), len(data))

    def write(self, bytes data):
        """Writes bytes as they are, behind what waits."""
        self._write(data, len(data))

    cdef int _took(self, const char *data, Py_ssize_t size) except -1:
        cdef Connection machine = self.machine
        cdef bint first = self.received == 0
        if machine is None:
            self.received += size
            # Whoever has one thing to say often ends with it: both go on in one segment.
            if first and not (self.lost or self.transport.is_closing()) and at_end(self.fd):
                self.took_last(PyBytes_FromStringAndSize(data, size))
                return 0
            return self.other._forward(data, size)
        try:
            size = machine.open_into(data, size, _plain, READ_SIZE + RECORD)
        except TlsFailure as failure:
            self.refuse(failure)
            return 0
        if machine.out_used:
            self.flush()
        if self.remember is not None and self.remember(machine):
            self.remember = None
        if size:
            self.received += size
            if machine.peer_closed:
                self.took_last(PyBytes_FromStringAndSize(_plain, size))
                return 0
            return self.other._forward(_plain, size)
        if machine.peer_closed:
            self.stream_ended()
        return 0

    cdef int _forward(self, const char *data, Py_ssize_t size) except -1:
        cdef Connection machine = self.machine
        if self.lost:
            return 0
        if machine is None:
            return self._write(data, size)
        try:
            size = machine.seal_into(data, size, _sealed, SEALED_SIZE)
        except TlsFailure as failure:
            self.relay.failed(failure.outcome, failure.detail)
            return 0
        self._write(_sealed, size)
        if machine.out_used:
            self.flush()
        return 0

    cdef int _write(self, const char *data, Py_ssize_t size) except -1:
        """Sends at once what the kernel takes; the transport keeps the rest."""
        cdef Py_ssize_t sent = 0
        if self.waits and self.transport.get_write_buffer_size() == 0:
            self.waits = False
        if not self.waits:
            sent = send_now(self.fd, data, size)
            if sent == size:
                return 0
            if sent < 0:
                self.relay.leg_lost(self, OSError(-sent, strerror(<int>-sent).decode()))
                return 0
            self.waits = True
        self.transport.write(PyBytes_FromStringAndSize(data + sent, size - sent))
        return 0
