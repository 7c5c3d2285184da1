# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""The server's TLS sessions, in memory that all workers of an agent share: any of them resumes what another one made.

A client is given the session's number and nothing else (SSL_OP_NO_TICKET): a ticket that holds the session holds the
client's certificate too, a kilobyte that comes back in each ClientHello and is parsed each time.

Every worker writes to a part of its own and reads all of them. A number says where in a part its session is, if it is
there: whatever comes to the same place later takes it, and the former owner's next handshake is a full one. Nothing is
locked: a record's sequence is odd while it is written, and who reads looks at it before and after.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcmp, memcpy


cdef extern from *:
    """
    #define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define sequence_of(record) __atomic_load_n(&(record)->sequence, __ATOMIC_SEQ_CST)
    #define set_sequence(record, value) __atomic_store_n(&(record)->sequence, (value), __ATOMIC_SEQ_CST)
    """
    void full_fence() noexcept nogil
    unsigned int sequence_of(const Record *) noexcept nogil
    void set_sequence(Record *, unsigned int) noexcept nogil


cdef enum:
    PLACES = 65536  # of all workers: 10 MB, of which the kernel gives what is written or looked at


def size_for(Py_ssize_t workers):
    """Bytes of memory that so many workers share."""
    return (PLACES // workers) * workers * <Py_ssize_t>sizeof(Record)


cdef class SessionStore:
    """One worker's view of it. `memory` is writable and of `size_for(workers)`, zeros at first; `own` counts from 0."""

    def __init__(self, memory, Py_ssize_t workers=1, Py_ssize_t own=0):
        cdef Py_buffer view
        PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
        try:
            if not 0 <= own < workers <= PLACES or view.len < size_for(workers):
                raise ValueError(f"{view.len} bytes are no memory of worker {own} of {workers}")
            self._records = <Record *>view.buf
        finally:
            PyBuffer_Release(&view)
        self._memory = memory  # a buffer that cannot be resized: an mmap, or a bytearray that nobody else knows
        self._workers = workers
        self._places = PLACES // workers
        self._own = self._records + own * self._places

    cdef void keep(self, const Record *record) noexcept:
        """Keeps a session in this worker's part. Its sequence is not looked at."""
        cdef Record *place = self._own + self._place(record.id)
        cdef unsigned int sequence = sequence_of(place) | 1
        set_sequence(place, sequence)
        full_fence()
        memcpy(
            <char *>place + sizeof(place.sequence),
            <const char *>record + sizeof(place.sequence),
            sizeof(Record) - sizeof(place.sequence),
        )
        full_fence()
        set_sequence(place, sequence + 1)

    cdef bint find(self, const unsigned char *id, const unsigned char *context, Record *found) noexcept:
        """Copies the session of this number, if the same context made it; whether it is there."""
        cdef Record *place
        cdef unsigned int sequence
        cdef Py_ssize_t worker
        for worker in range(self._workers):
            place = self._records + worker * self._places + self._place(id)
            sequence = sequence_of(place)
            if sequence & 1 or sequence == 0 or memcmp(place.id, id, ID_SIZE) != 0:
                continue
            full_fence()
            memcpy(found, place, sizeof(Record))
            full_fence()
            if sequence_of(place) == sequence and memcmp(found.id, id, ID_SIZE) == 0:
                return memcmp(found.context, context, DIGEST_SIZE) == 0 and found.secret_size <= SECRET_SIZE
        return False

    cdef Py_ssize_t _place(self, const unsigned char *id) noexcept:
        """Where in a part it is, if it is there. Numbers are random."""
        return (id[0] | id[1] << 8) % self._places
