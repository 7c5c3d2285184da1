"""Memory of the supervisor's that each worker maps: no file, and of a size that nobody can change any more."""

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create(name: str, size: int) -> int:
    """A descriptor of `size` bytes of zeros. No disk ever sees them but swap. Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def attach(fd: int, size: int) -> mmap.mmap:
    """The same, mapped; left out of core dumps. Raises OSError, ValueError."""
    memory = mmap.mmap(fd, size)
    memory.madvise(mmap.MADV_DONTDUMP)
    return memory
