"""No proxy: the upper end of the scale."""

from typing import ClassVar

from bench.contenders.contender import Contender, Front, captured_front
from bench.ground import Ground


class Direct(Contender):
    """The client dials the server."""

    title: ClassVar[str] = "no proxy"

    def start(self, ground: Ground) -> Front:
        """Nothing to start."""
        return captured_front(ground)

    def roots(self) -> tuple[int, ...]:
        """Nobody."""
        return ()

    def stop(self) -> None:
        """Nothing to stop."""
