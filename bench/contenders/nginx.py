"""nginx's stream module, as Debian builds it: the reference."""

from typing import ClassVar

from bench.contenders.contender import Pair
from bench.ground import Ground


class Nginx(Pair):
    """configs/nginx-client.conf, configs/nginx-server.conf."""

    title: ClassVar[str] = "nginx stream"

    def command(self, ground: Ground, side: str) -> list[str]:
        """A master and one worker."""
        return ["nginx", "-c", str(ground.config(f"nginx-{side}.conf"))]
