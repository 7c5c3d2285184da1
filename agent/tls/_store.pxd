"""What other native modules may use of `_store`, without Python in between."""

cdef enum:
    ID_SIZE = 32  # what OpenSSL gives a session that is not in its ticket (RFC 8446, section 4.6.1, calls it a lookup key)
    DIGEST_SIZE = 32
    SECRET_SIZE = 48  # a PSK is as long as the suite's hash


cdef struct Record:
    unsigned int sequence  # odd while its worker writes
    unsigned short cipher  # RFC 8446, appendix B.4
    unsigned short secret_size
    long made  # POSIX seconds
    unsigned char id[ID_SIZE]
    unsigned char context[DIGEST_SIZE]
    unsigned char peer[DIGEST_SIZE]  # SHA-256 of the client's certificate; zeros where it showed none
    unsigned char secret[SECRET_SIZE]


cdef class SessionStore:
    cdef object _memory
    cdef Record *_records
    cdef Py_ssize_t _workers
    cdef Py_ssize_t _places
    cdef Record *_own

    cdef void keep(self, const Record *record) noexcept
    cdef bint find(self, const unsigned char *id, const unsigned char *context, Record *found) noexcept
    cdef Py_ssize_t _place(self, const unsigned char *id) noexcept
