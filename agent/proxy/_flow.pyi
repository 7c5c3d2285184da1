"""Types of the native part; what each does is said in _flow.pyx."""

import asyncio
from collections.abc import Callable

from agent.proxy.opening import Opening
from agent.proxy.relay import Leg, Relay
from agent.tls.machine import TlsMachine

LET_GO: str

class Flow:
    """Half of a leg.

    It calls what `relay.Leg` adds, by these names: `took_last`, `stream_ended`, `eof_received`, `go_on_soon`, `refuse`,
    `flush` and `fault`. Of a machine it catches TlsFailure, and nothing else.
    """

    received: int
    ended: bool
    lost: bool
    paused: bool
    refused: bool
    end_waits: bool
    @property
    def transport(self) -> asyncio.Transport: ...
    @property
    def fd(self) -> int: ...
    @property
    def machine(self) -> TlsMachine | None: ...  # natively any Connection; None on a plain leg
    @property
    def relay(self) -> Relay: ...  # RuntimeError (LET_GO) after `let_go`
    @property
    def other(self) -> Leg: ...  # RuntimeError (LET_GO) after `let_go`, and before `facing`
    @property
    def behind(self) -> bool: ...
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
    # What follows raises what a method of the legs' or `remember` raises; `go_on` has called `fault` by then.
    def buffer_updated(self, nbytes: int) -> None: ...
    def took(self, data: bytes) -> None: ...
    def go_on(self) -> None: ...
    def forward(self, data: bytes) -> None: ...
    def write(self, data: bytes) -> None: ...
