"""stunnel: one process, a thread per connection."""

from typing import ClassVar

from bench.contenders.contender import Pair
from bench.ground import Ground


class Stunnel(Pair):
    """configs/stunnel-client.conf, configs/stunnel-server.conf."""

    title: ClassVar[str] = "stunnel"

    def command(self, ground: Ground, side: str) -> list[str]:
        """One process in the foreground."""
        return ["stunnel", str(ground.config(f"stunnel-{side}.conf"))]
