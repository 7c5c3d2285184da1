"""Types of the native part; what each does is said in _flow.pyx."""

import asyncio
from collections.abc import Callable

from agent.proxy.opening import Opening
from agent.proxy.relay import Leg, Relay
from agent.tls.machine import TlsMachine

class Flow:
    transport: asyncio.Transport
    fd: int
    relay: Relay
    other: Leg
    machine: TlsMachine
    received: int
    ended: bool
    lost: bool
    paused: bool
    refused: bool
    def __init__(
        self,
        relay: Relay,
        opening: Opening,
        machine: TlsMachine | None = None,
        remember: Callable[[TlsMachine], bool] | None = None,
    ) -> None: ...
    def facing(self, other: Leg) -> None: ...
    def let_go(self) -> None: ...
    @staticmethod
    def get_buffer(sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def took(self, data: bytes) -> None: ...
    def forward(self, data: bytes) -> None: ...
    def write(self, data: bytes) -> None: ...
