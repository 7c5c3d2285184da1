"""What other native modules may use of `_sockets`, without Python in between."""

cdef Py_ssize_t send_now(int fd, const char *data, Py_ssize_t size) noexcept
cpdef bint at_end(int fd) except -1
