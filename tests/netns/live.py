"""What the scenarios of change share: a world with open connections, and who of them is cut."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from agent.lab.stage import Player
from tests.netns.policies import DENIALS, is_cut, reaches
from tests.netns.world import Echo, World, alive

PORT = 7000
SUFFIX = "serviceaccount.identity.example.test"


class Place(NamedTuple):
    world: World
    players: Mapping[str, Player]
    echoes: dict[str, Echo]

    def hold(self, who: str, to: str, port: int = PORT, version: int = 4) -> socket.socket:
        """An open connection on which an exchange has worked."""
        sock = self.world.connect(self.players[who], self.players[to].address(version), port)
        assert alive(sock), f"{who} reaches port {port} of {to} before anything changes\n{self.world.mesh.last_words()}"
        return sock

    def terminated(self, **labels: str) -> float:
        return self.world.count(DENIALS, reason="terminated", **labels)

    def reaches(self, who: str, to: str, port: int = PORT, version: int = 4) -> bool:
        return reaches(self.world, self.players[who], self.players[to].address(version), port)


def started(world: World, players: Mapping[str, Player], ports: Mapping[str, tuple[int, ...]]) -> Iterator[Place]:
    """Starts echo servers on these players' ports and the agent; ends the servers afterwards."""
    echoes = {f"{name}:{port}": Echo(world, players[name], port, 6) for name, those in ports.items() for port in those}
    world.start()
    yield Place(world, players, echoes)
    for echo in echoes.values():
        echo.close()


@contextlib.contextmanager
def cut_exactly(place: Place, doomed: list[socket.socket], staying: list[socket.socket]) -> Iterator[None]:
    """What the block does cuts the doomed, each counted as terminated, and nobody else; closes them all."""
    with contextlib.ExitStack() as stack:
        for sock in (*doomed, *staying):
            stack.enter_context(sock)
        before = place.terminated()
        yield
        for sock in doomed:
            is_cut(sock)
        assert all(alive(sock) for sock in staying)
        assert place.terminated() == before + len(doomed)


def shown(address: str, port: int) -> str:
    """An address and a port, as the log writes them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
