"""Quietwire's capture and relay without TLS: what encryption costs is the distance to `quietwire`.

Two agents that know nothing of each other: each one's catalog has only its own pod. For the client's agent the server
is a destination outside the mesh, which is relayed as it is; for the server's agent the client is a stranger, whom the
pod's annotation lets in.
"""

from typing import ClassVar

from agent.lab.mesh import Mesh
from bench.contenders.contender import Contender, Front, captured_front
from bench.contenders.quietwire import TRUST_DOMAIN, stop
from bench.ground import Ground


class Bare(Contender):
    """Two `quietwire up`, strangers to each other."""

    title: ClassVar[str] = "capture and relay, no TLS"

    def __init__(self) -> None:
        self._meshes: list[Mesh] = []

    def start(self, ground: Ground) -> Front:
        """Starts both agents and waits until both say ready."""
        for node, player, annotations in (
            ("node-a", ground.client, {}),
            ("node-b", ground.server, {"config.linkerd.io/default-inbound-policy": "all-unauthenticated"}),
        ):
            mesh = Mesh(
                ground.directory / node,
                node=node,
                trust_domain=TRUST_DOMAIN,
                flags=("--workers=1", "--drain-timeout=0.1"),
                access_log=False,
            )
            mesh.pod(player, **annotations)
            self._meshes.append(mesh)
            mesh.start()
        return captured_front(ground)

    def roots(self) -> tuple[int, ...]:
        """Both supervisors."""
        return tuple(mesh.pid for mesh in self._meshes if mesh.pid is not None)

    def stop(self) -> None:
        """Ends both agents."""
        stop(self._meshes)
