"""HAProxy in TCP mode."""

from typing import ClassVar

from bench.contenders.contender import Pair
from bench.ground import Ground


class Haproxy(Pair):
    """configs/haproxy-client.cfg, configs/haproxy-server.cfg."""

    title: ClassVar[str] = "HAProxy"

    def command(self, ground: Ground, side: str) -> list[str]:
        """One process, one thread."""
        return ["haproxy", "-db", "-q", "-f", str(ground.config(f"haproxy-{side}.cfg"))]
