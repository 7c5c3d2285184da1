"""What a process may do that its user id alone does not give it: capabilities(7), and how to be rid of some."""

import ctypes
import os
from collections.abc import Collection

_VERSION_3 = 0x20080522
"""linux/capability.h: sets of 64 bits, in two halves, each with what is effective, permitted and inheritable."""
_HALF = 32


def drop(bits: Collection[int]) -> None:
    """Gives up these capabilities, numbers of linux/capability.h: this process cannot have them back.

    What root executes afterwards has them all the same, unless its bounding set has not. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for bit in bits:
            half = 3 * (bit // _HALF)
            for which in range(half, half + 3):
                sets[which] &= ~(1 << bit % _HALF)
        if libc.capset(header, sets) == 0:
            return
    number = ctypes.get_errno()
    raise OSError(number, f"capabilities cannot be given up: {os.strerror(number)}")
