"""The supervisor's threads for what blocks: one visits network namespaces, one does everything else.

Each is one thread, which is there already when memory for another one is not.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agent.capture.netns import NetnsThread

T = TypeVar("T")


class Visits:
    """Both threads. Used on the supervisor's loop."""

    def __init__(self) -> None:
        self._thread = NetnsThread()
        self._blocks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rules")

    async def inside(self, fd: int, work: Callable[[], T]) -> T:
        """Does something small in the namespace `fd`. Raises what setns(2) or the work raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread.executor, self._thread.run, fd, work)

    async def blocking(self, work: Callable[..., T], *given: Any) -> T:
        """Does what may block: on the machine's own side, not in a namespace."""
        return await asyncio.get_running_loop().run_in_executor(self._blocks, work, *given)

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self._thread.close()
        self._blocks.shutdown(wait=True)
