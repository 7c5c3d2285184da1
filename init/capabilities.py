"""What a process may do that its user id alone does not give it: capabilities(7), and how to be rid of them."""

import ctypes
import os

_VERSION_3 = 0x20080522
"""linux/capability.h: 64 bits, in two halves."""


def drop_all() -> None:
    """Gives up every capability that this process has, for good. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities cannot be given up: {os.strerror(number)}")
