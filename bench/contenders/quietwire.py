"""Quietwire as it is deployed: two nodes, an agent on each, one authority; rules in both pods."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import ClassVar

from agent.lab.mesh import Mesh, MeshError
from bench import usage
from bench.contenders.contender import Contender, Front, captured_front
from bench.ground import Ground

TRUST_DOMAIN = "bench.test"
COMMAND_SECONDS = 30.0
WORKER_TITLE = "quietwire worker "


class Quietwire(Contender):
    """`quietwire up` for the client's node, `quietwire agent` for the server's."""

    title: ClassVar[str] = "Quietwire"

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._meshes: list[Mesh] = []

    def start(self, ground: Ground) -> Front:
        """Starts both agents and waits until both say ready."""
        flags = (f"--workers={self._workers}", "--drain-timeout=0.1")
        here = Mesh(
            ground.directory / "node-a", node="node-a", trust_domain=TRUST_DOMAIN, flags=flags, access_log=False
        )
        self._meshes.append(here)
        here.pod(ground.client)
        directory = ground.directory / "node-b"
        directory.mkdir()
        token, bundle = directory / "token", directory / "bundle.pem"
        # Written before anybody starts: an agent that did not know the server yet would relay to it in plaintext.
        Mesh(directory, node="node-b", trust_domain=TRUST_DOMAIN, manifests=here.manifests).pod(ground.server)
        here.start()
        serving = here.wait_for_log(lambda line: line.get("event") == "authority")
        if serving is None:
            raise MeshError("the authority did not say where it serves")
        there = Mesh(
            directory,
            node="node-b",
            trust_domain=TRUST_DOMAIN,
            verb=(
                *("agent", "--authority", str(serving["address"]), "--bundle", str(bundle)),
                *("--join-token-file", str(token)),
            ),
            flags=flags,
            manifests=here.manifests,
            access_log=False,
        )
        self._meshes.append(there)
        token.write_text(_authority(here, "token", "create", "--node", "node-b"), encoding="ascii")
        bundle.write_text(_authority(here, "bundle", "--pem"), encoding="ascii")
        there.start()
        return captured_front(ground)

    def roots(self) -> tuple[int, ...]:
        """Both supervisors; the authority and the workers are below them."""
        return tuple(mesh.pid for mesh in self._meshes if mesh.pid is not None)

    def workers(self) -> tuple[tuple[int, ...], ...]:
        """The workers of either agent."""
        return tuple(
            tuple(pid for pid in usage.cpu_by_process([root]) if usage.title(pid).startswith(WORKER_TITLE))
            for root in self.roots()
        )

    def stop(self) -> None:
        """Ends both agents."""
        stop(self._meshes)


def stop(meshes: Sequence[Mesh]) -> None:
    """Ends agents, all at once."""
    for mesh in meshes:
        mesh.signal(signal.SIGTERM)
    for mesh in meshes:
        mesh.stop()


def _authority(mesh: Mesh, *words: str) -> str:
    """`quietwire authority …` on the state of this mesh; its output. Raises MeshError."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "authority", *words, "--state", str(mesh.directory / "state")],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise MeshError(f"quietwire authority {' '.join(words)} failed: {done.stderr}")
    return done.stdout
