"""What every contender is for the bench."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from bench.ground import BULK_PORT, HTTP_PORT, Address, Ground
from bench.process import Process


@dataclass(frozen=True)
class Front:
    """What the client dials: for the web server, and for iperf3."""

    http: Address
    bulk: Address


class Contender(ABC):
    """One turn's proxies. Started once, stopped once."""

    title: ClassVar[str]

    @abstractmethod
    def start(self, ground: Ground) -> Front:
        """Starts the proxies and returns when they accept. Raises ProcessError, MeshError."""

    @abstractmethod
    def roots(self) -> tuple[int, ...]:
        """The process at the top of each half, the client's first; empty where there is no proxy."""

    def workers(self) -> tuple[tuple[int, ...], ...]:
        """By half, the processes that carry connections, where there can be several; else nothing."""
        return ()

    @abstractmethod
    def stop(self) -> None:
        """Ends the proxies; also after a start that failed."""


class Pair(Contender):
    """Two processes of one program, each with a configuration from bench/configs."""

    def __init__(self) -> None:
        self._halves: list[Process] = []

    @abstractmethod
    def command(self, ground: Ground, side: str) -> list[str]:
        """The command line of one half: `client` or `server`."""

    def start(self, ground: Ground) -> Front:
        """Starts both, the server's half first."""
        name = type(self).__name__.lower()
        server = ground.start(ground.server, f"{name}-server", self.command(ground, "server"))
        client = ground.start(ground.client, f"{name}-client", self.command(ground, "client"))
        self._halves = [client, server]
        server.wait_until_listening(9443, 9444)
        client.wait_until_listening(9080, 9201)
        return Front(Address("127.0.0.1", 9080), Address("127.0.0.1", 9201))

    def roots(self) -> tuple[int, ...]:
        """Client, server."""
        return tuple(half.pid for half in self._halves)

    def stop(self) -> None:
        """Ends both."""
        for half in self._halves:
            half.stop()


def captured_front(ground: Ground) -> Front:
    """Where nothing but the server's own address is dialled."""
    return Front(Address(ground.server.ipv4, HTTP_PORT), Address(ground.server.ipv4, BULK_PORT))
