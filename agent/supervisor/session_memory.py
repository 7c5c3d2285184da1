"""The memory in which an agent's workers keep the TLS sessions that they serve: the supervisor's, mapped by each."""

import fcntl
import mmap
import os

from agent.tls._store import SessionStore, size_for

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create(workers: int) -> int:
    """A descriptor of such memory, whose size nobody can change any more. No disk ever sees it but swap."""
    fd = os.memfd_create("quietwire-sessions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_for(workers))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def attach(fd: int, workers: int, own: int) -> SessionStore:
    """What worker `own` of so many sees there; left out of core dumps. Raises OSError, ValueError."""
    memory = mmap.mmap(fd, size_for(workers))
    memory.madvise(mmap.MADV_DONTDUMP)
    return SessionStore(memory, workers, own)
