"""What a connection has until its relay, stage by stage: each has all that it needs."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from agent.proxy.opening import Bell, Deadlines, Opening, of_accepted
from agent.tasks import spawn


class _Stage:
    """One that a task is to end."""

    __slots__ = ("_task",)

    _task: asyncio.Task[None]

    def cancel(self) -> None:
        """Ends the task, and lets go of it: what it dies of holds its frames, and they hold this."""
        self._task.cancel()
        del self._task


class Accepted(_Stage):
    """The first stage: a socket that has no transport yet, and the task that sets the connection up."""

    __slots__ = ("_sock",)

    def __init__(
        self, sock: socket.socket, set_up: Callable[["Accepted"], Coroutine[Any, Any, None]], name: str
    ) -> None:
        self._sock = sock
        self._task = spawn(set_up(self), name=name)

    async def carried(self, deadlines: Deadlines) -> "SetUp":
        """The second stage; the task is its from then on. Raises OSError, or is cancelled, with the socket closed."""
        opening = await of_accepted(self._sock, Bell(deadlines))
        task = self._task
        del self._task
        return SetUp(opening, task)

    def refuse(self, accepted: bytes, dialled: bytes) -> None:
        """Ends it by a reset: there is nobody yet who could write an alert."""
        del accepted, dialled
        self._sock.close()


class SetUp(_Stage):
    """The second stage: the accepted leg is read, and the other one dialled, perhaps."""

    __slots__ = ("accepted", "dialled")

    def __init__(self, accepted: Opening, task: asyncio.Task[None]) -> None:
        self.accepted = accepted
        self.dialled: Opening | None = None
        self._task = task

    def refuse(self, accepted: bytes, dialled: bytes) -> None:
        """Ends both legs: by a reset, or where it is given an alert to write, so that it can be read."""
        self.accepted.refuse(accepted)
        if self.dialled is not None:
            self.dialled.refuse(dialled)
