"""What other native modules may use of `_openssl`, without Python in between."""

from agent.tls._store cimport SessionStore


cdef extern from "openssl/ssl.h":
    ctypedef struct SSL
    ctypedef struct SSL_CTX


cdef class Context:
    cdef SSL_CTX *ctx
    cdef bytes protocols
    cdef readonly bint server
    cdef SessionStore store
    cdef bytes name
    cdef dict judged
    cdef int judged_at_most

    cdef int _check(self, long good) except -1
    cdef int _load(self, bytes chain_pem, bytes key_pem) except -1
    cdef int _remember(self, SessionStore store, bytes name) except -1
    cdef int _trust(self, bytes anchors_pem) except -1


cdef class Connection:
    cdef SSL *ssl
    cdef Context context
    cdef bytes peer
    cdef readonly tuple judgement
    cdef const char *incoming
    cdef Py_ssize_t incoming_left  # what OpenSSL may read: the rest of one record
    cdef Py_ssize_t beyond  # and what comes behind it
    cdef readonly Py_ssize_t pending
    cdef int header_seen  # bytes of the record's header; 0 at its end
    cdef int body_left
    cdef int bare_left
    cdef bytes out
    cdef Py_ssize_t out_size
    cdef readonly Py_ssize_t out_used
    cdef readonly bint handshake_complete
    cdef readonly bint peer_closed
    cdef readonly bint closed

    cpdef int start(self) except -1
    cpdef bytes receive(self, data)
    cpdef int send(self, data) except -1
    cpdef bytes seal(self, data)
    cpdef bytes outgoing(self)
    cpdef int close(self) except -1
    cdef Py_ssize_t open_into(self, const char *data, Py_ssize_t size, char *plain, Py_ssize_t room) except -1
    cdef Py_ssize_t seal_into(self, const char *data, Py_ssize_t size, char *sealed, Py_ssize_t room) except -1
    cdef void _begin(self) noexcept
    cdef void _put_down(self) noexcept
    cdef bint _next_record(self) noexcept
    cdef int _shake(self) except -1
    cdef Py_ssize_t _decrypt(self, char *plain, Py_ssize_t size) except -1
    cdef bytes _read_small(self)
    cdef int _reserve(self, Py_ssize_t size) except -1
    cdef int _encrypt(self, const void *data, Py_ssize_t size) except -1
    cdef object _failure(self)
