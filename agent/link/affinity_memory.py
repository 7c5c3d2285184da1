"""The memory in which an agent's workers note who went where (`sessionAffinity`): the supervisor's, mapped by each."""

from agent.link import shared_memory
from agent.proxy.affinity import Affinity, size_for


def create(workers: int) -> int:
    """A descriptor of such memory. Raises OSError."""
    return shared_memory.create("quietwire-affinity", size_for(workers))


def attach(fd: int, workers: int, own: int) -> Affinity:
    """What worker `own` of so many sees there. Raises OSError, ValueError."""
    return Affinity(memoryview(shared_memory.attach(fd, size_for(workers))), workers, own)
