"""Tasks that cannot be lost: the only place where asyncio.create_task is called."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("quietwire.tasks")

_running: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Starts a named task, keeps a reference until it ends, and logs its death if it raised."""
    task = asyncio.create_task(coro, name=name)  # noqa: TID251 - the one place that may
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.error("task %s died", task.get_name(), exc_info=error)
