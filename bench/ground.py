"""The ground of one turn: a client pod and a server pod on a bridge, and the backend in the server pod.

It is made anew for every turn, with the same addresses: nobody inherits the connection tracking, the rules
or the sockets in TIME_WAIT of whoever came before.
"""

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agent.lab.stage import Player, Stage
from bench.process import Process

CONFIGS = Path(__file__).parent / "configs"
HTTP_PORT = 8080
BULK_PORT = 5201
BODY_BYTES = 1024
LARGE_BYTES = 1024 * 1024
LARGE_PATH = "/large"
SYSCTLS = (
    # A storm of new connections must not end for want of ports or queues, whoever is in the middle.
    "net.ipv4.ip_local_port_range=1024 65535",
    "net.ipv4.tcp_tw_reuse=1",
    "net.core.somaxconn=4096",
    "net.ipv4.tcp_max_syn_backlog=8192",
)


@dataclass(frozen=True)
class Address:
    """Where the client connects to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Ground:
    """`directory` is the turn's own; `certificates` is the run's."""

    def __init__(self, stage: Stage, directory: Path, certificates: Path) -> None:
        self._stage = stage
        self.directory = directory
        self.certificates = certificates
        self.client: Player
        self.server: Player
        self._processes: list[Process] = []

    def open(self) -> None:
        """Makes the pods and starts the backend. Raises StageError, ProcessError."""
        self.directory.mkdir(parents=True)
        self._stage.open()
        self.client, self.server = self._stage.add("client"), self._stage.add("server")
        for player in (self.client, self.server):
            subprocess.run(player.command("sysctl", "-qw", *SYSCTLS), check=True, timeout=10)
        (self.directory / "files").mkdir()
        (self.directory / "files" / LARGE_PATH.removeprefix("/")).write_bytes(secrets.token_bytes(LARGE_BYTES))
        self.directory.chmod(0o755)  # nginx's worker is another user
        web = self.start(self.server, "backend", ["nginx", "-c", str(self.config("backend.conf"))])
        bulk = self.start(self.server, "iperf3", ["iperf3", "-4", "-s", "-p", str(BULK_PORT)])
        web.wait_until_listening(HTTP_PORT)
        bulk.wait_until_listening(BULK_PORT)

    def config(self, template: str) -> Path:
        """Writes one of bench/configs with this ground's addresses and paths; where it is."""
        text = (CONFIGS / template).read_text(encoding="utf-8")
        for name, value in {
            "DIRECTORY": str(self.directory),
            "CERTIFICATES": str(self.certificates),
            "MODULES": "/usr/lib/nginx/modules",
            "SERVER": self.server.ipv4,
            "BODY": "q" * BODY_BYTES,
        }.items():
            text = text.replace(f"@{name}@", value)
        path = self.directory / template
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, player: Player, name: str, words: list[str]) -> Process:
        """Starts a process in one of the pods; it ends with the ground at the latest."""
        process = Process(player, name, words, self.directory / f"{name}.log")
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Ends what was started here, last first, and takes the namespaces down."""
        while self._processes:
            self._processes.pop().stop()
        self._stage.close()
