"""Things that stand for network namespaces: a file each, which is told from others as a namespace is."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from agent.capture import netns
from agent.capture.netns import NetnsId
from agent.node.enrolled import Enrolled
from agent.node.visits import Visits
from agent.objects.model import Pod
from init.model import Options


def pod(name: str, *, uid: str = "", annotated: str | None = None) -> Pod:
    """A pod of this node."""
    return Pod("demo", name, name, "node-a", ("192.0.2.1",), uid=uid, netns=annotated)


class Places:
    """Such files, in a directory; and visits to them, which find there what a test says."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.found: dict[NetnsId, object] = {}
        """What a visit finds out, by where."""
        self.living: dict[int, str] | None = None
        """Who lives where, by the namespaces' numbers, in place of what work that may block finds out."""
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens during a visit."""
        self.visits = cast("Visits", self)

    def open(self, name: str) -> int:
        """A descriptor of the namespace of this name, which is made where it is new."""
        return os.open(self._directory / name, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def identity(self, name: str) -> NetnsId:
        """What it is."""
        status = os.stat(self._directory / name)
        return NetnsId(status.st_dev, status.st_ino)

    def enrolled(self, name: str, number: int = 0, *, uid: str = "") -> Enrolled:
        """A pod that is enrolled in a namespace of its own name."""
        return Enrolled(pod(name, uid=uid), self.open(name), number, Options())

    async def inside(self, fd: int, _work: Callable[[], Any]) -> Any:
        """As `Visits.inside`; fails where the descriptor is closed."""
        await asyncio.sleep(0)
        self.meanwhile()
        return self.found.get(netns.identify(fd), False)

    async def blocking(self, work: Callable[..., Any], *given: Any) -> Any:
        """As `Visits.blocking`."""
        await asyncio.sleep(0)
        return work(*given) if self.living is None else self.living

    def is_open(self, fd: int, name: str) -> bool:
        """Whether a descriptor is (still) of this namespace."""
        try:
            return netns.identify(fd) == self.identity(name)
        except OSError:
            return False
