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

from agent.outcome import Outcome
from agent.tls.machine import TlsFailure

cdef enum:
    READ_SIZE = 262144  # sixteen records under load, for one system call and one call of ours
    RECORD = 16384  # RFC 8446, section 5.1: plaintext of one record at most
    SEALED_SIZE = READ_SIZE + 65536  # what sixteen records add, and a last flight of the handshake that waits
    MAX_ANSWERS = 16384  # bytes of TLS's own answers (to KeyUpdates) that wait for a peer which reads nothing

cdef char _read[READ_SIZE]
cdef char _plain[READ_SIZE + RECORD]
cdef char _sealed[SEALED_SIZE]
LET_GO = "this leg was let go: its connection is over"
_view = PyMemoryView_FromMemory(_read, READ_SIZE, PyBUF_WRITE)


cdef class Flow:
    """One leg's part in every message. `machine` is None on a plain leg.

    One wake-up does a bounded part of the work: a read's bytes on a plain leg, as many records as the machine opens at
    once on one under TLS. The rest is put by (`behind`), reading stops, and `go_on` takes it up in the next turn.
    """

    cdef readonly object transport
    cdef readonly int fd
    cdef object _relay  # None, as is `_other`, when the leg was let go
    cdef Flow _other
    cdef readonly Connection machine
    cdef object remember
    cdef public long long received
    cdef public bint ended
    cdef public bint lost
    cdef public bint paused
    cdef public bint refused
    cdef public bint end_waits  # the end of the stream has been heard of, and what was put by comes before it
    cdef bint waits  # the transport may hold what was written: what follows goes behind it
    cdef bytes rest  # what was read and put by, from `rest_at` on
    cdef Py_ssize_t rest_at
    cdef Py_ssize_t answers  # bytes of TLS's own answers since the transport last held nothing

    def __init__(self, relay, opening, Connection machine=None, remember=None):
        self._relay = relay
        self.transport = opening.transport
        self.fd = opening.fd
        self.machine = machine
        self.remember = remember
        self.waits = True  # what the set-up wrote may wait still

    def facing(self, Flow other):
        """Says what the other leg is."""
        self._other = other

    def let_go(self):
        """Forgets relay and other leg: whoever still looks at this one finds it lost.

        Legs and relay that held each other would keep what is dead, with 16 kB of TLS, until the garbage collector
        came: the next connection would find no memory that is still in cache.
        """
        self._relay = self._other = self.rest = None

    @property
    def relay(self):
        """The relay. Raises RuntimeError where the leg was let go."""
        if self._relay is None:
            raise RuntimeError(LET_GO)
        return self._relay

    @property
    def other(self):
        """The other leg. Raises RuntimeError where this one was let go."""
        if self._other is None:
            raise RuntimeError(LET_GO)
        return self._other

    @property
    def behind(self):
        """Whether bytes that were read are put by: the other end of the stream is not to be heard of before them."""
        return self.rest is not None

    @staticmethod  # a bound method would be kept for each transport
    def get_buffer(sizehint):
        """Where the loop reads to."""
        return _view

    def buffer_updated(self, Py_ssize_t nbytes):
        """The loop has read."""
        self._took(_read, nbytes)

    def took(self, bytes data):
        """Passes bytes on that came in by this leg, before it returns: as many at once as a read may bring.

        What is put by is passed on later, and what follows it stays behind it.
        """
        cdef Py_ssize_t at
        for at in range(0, len(data), READ_SIZE):
            if self.rest is not None:
                self.rest, self.rest_at = self.rest[self.rest_at :] + data[at:], 0
                return
            self._took(PyBytes_AS_STRING(data) + at, min(len(data) - at, READ_SIZE))

    def go_on(self):
        """Passes on a part of what was put by. Not while the other leg's reader is waited for: it calls again."""
        if self.rest is None or self.lost or self.refused or self.paused:
            return
        try:
            self._took(PyBytes_AS_STRING(self.rest) + self.rest_at, len(self.rest) - self.rest_at)
            if self.lost or self.refused or self.machine.pending:
                return
            self.rest = None
            if self.end_waits:
                self.eof_received()
            elif not self.paused:
                self.transport.resume_reading()
        except BaseException:
            self.fault()
            raise

    cdef int _put_by(self, const char *data, Py_ssize_t size) except -1:
        """Keeps what others come before: the last `size` bytes of what was read, or of what was put by before."""
        if self.rest is None:
            self.rest, self.rest_at = PyBytes_FromStringAndSize(data, size), 0
            self.transport.pause_reading()
        else:
            self.rest_at = len(self.rest) - size
        self.go_on_soon()
        return 0

    cdef bint _answer(self) except -1:
        """Sends what TLS itself has to say. False: the peer asks on and on, and does not read what it is told."""
        self.answers += self.machine.out_used
        self.flush()
        if not self.waits:
            self.answers = 0
        elif self.answers > MAX_ANSWERS:
            self.refuse(TlsFailure(Outcome.TLS_FLOOD, "the peer asks for new keys on and on, and reads no answer"))
            return False
        return True

    def forward(self, bytes data):
        """Writes bytes that came in by the other leg."""
        self._forward(PyBytes_AS_STRING(data), len(data))

    def write(self, bytes data):
        """Writes bytes as they are, behind what waits."""
        self._write(data, len(data))

    cdef int _took(self, const char *data, Py_ssize_t size) except -1:
        cdef Connection machine = self.machine
        cdef bint first = self.received == 0
        cdef Py_ssize_t given = size
        if machine is None:
            self.received += size
            # Whoever has one thing to say often ends with it: both go on in one segment.
            if first and not (self.lost or self.transport.is_closing()) and at_end(self.fd):
                self.took_last(PyBytes_FromStringAndSize(data, size))
                return 0
            return self._other._forward(data, size)
        try:
            size = machine.open_into(data, size, _plain, READ_SIZE + RECORD)
        except TlsFailure as failure:
            self.refuse(failure)
            return 0
        if machine.pending:
            self._put_by(data + given - machine.pending, machine.pending)
        if machine.out_used and not self._answer():
            return 0
        if self.remember is not None and self.remember(machine):
            self.remember = None
        if size:
            self.received += size
            if machine.peer_closed:
                self.took_last(PyBytes_FromStringAndSize(_plain, size))
                return 0
            return self._other._forward(_plain, size)
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
            self._relay.failed(failure.outcome, failure.detail)
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
                self._relay.leg_lost(self, OSError(-sent, strerror(<int>-sent).decode()))
                return 0
            self.waits = True
        self.transport.write(PyBytes_FromStringAndSize(data + sent, size - sent))
        return 0
