"""The memory in which an agent's workers keep the TLS sessions that they serve: the supervisor's, mapped by each."""

from agent.link import shared_memory
from agent.tls._store import SessionStore, size_for


def create(workers: int) -> int:
    """A descriptor of such memory. Raises OSError."""
    return shared_memory.create("quietwire-sessions", size_for(workers))


def attach(fd: int, workers: int, own: int) -> SessionStore:
    """What worker `own` of so many sees there. Raises OSError, ValueError."""
    return SessionStore(shared_memory.attach(fd, size_for(workers)), workers, own)
