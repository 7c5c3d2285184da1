"""A world of pods in real network namespaces, with a real `quietwire up`, for whole scenarios.

    world = World(directory)                     namespaces named for this process, a bridge in a hub of its own
    api = world.pod("api")                       a namespace with addresses, and its manifest
    stranger = world.stranger("stranger")        a namespace without one: not meshed
    world.start()                                quietwire up, until it says ready
    with world.wire() as wire: …                 what crosses the bridge
    world.count("quietwire_denials_total", reason="unauthenticated")
    world.close()                                always, whatever happened

Everything is real: rules, certificates, sockets, applications. Nothing touches the machine's own namespace.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.capture.netns import NetnsThread
from agent.lab.mesh import Mesh
from agent.lab.stage import Player, Stage
from agent.lab.wire import Wire
from init.netns import open_netns
from tests.cli.typed import quietwire

TRUST_DOMAIN = "example.test"
NODE = "node-a"
MARKER = b"a-marker-that-nobody-else-writes"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""A value for SO_LINGER."""
SOON = 30.0
"""Bound of every wait for something that must happen."""

Manifest = dict[str, Any]

_numbers = itertools.count(1)
"""Names of namespaces must differ within this process too."""


class World:
    """One stage with one agent."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        workers: int = 2,
        trust_domain: str = TRUST_DOMAIN,
        program: tuple[str, ...] = ("-m", "agent.cli"),
    ) -> None:
        name = f"qw{os.getpid()}n{next(_numbers)}"
        self.directory = directory
        self.stage = Stage(name, prefix=f"{name}-")
        self.mesh = Mesh(
            directory / "mesh",
            node=NODE,
            trust_domain=trust_domain,
            program=program,
            flags=(
                "--workers",
                str(workers),
                *(flags if "--drain-timeout" in str(flags) else ("--drain-timeout=1", *flags)),
            ),
        )
        self._thread = NetnsThread()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._others: list[Mesh] = []
        self.stage.open()

    # -- pods --

    def stranger(self, name: str) -> Player:
        """A namespace that no manifest names."""
        return self.stage.add(name)

    def pod(self, name: str, *, annotations: dict[str, str] | None = None, **more: Any) -> Player:
        """A namespace and its pod's manifest."""
        player = self.stage.add(name)
        self.declare(player, annotations=annotations, **more)
        return player

    def declare(
        self,
        player: Player,
        *,
        annotations: dict[str, str] | None = None,
        namespace: str = "demo",
        service_account: str | None = None,
        labels: dict[str, str] | None = None,
        ready: bool = True,
        node: str = NODE,
        spec: dict[str, Any] | None = None,
        host_ips: tuple[str, ...] = (),
    ) -> None:
        """Writes, or rewrites, the manifest of a pod; `spec` is added to its own, `host_ips` are its node's."""
        self.mesh.write(
            f"pod-{player.name}.yaml",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": player.name,
                    "namespace": namespace,
                    "labels": {"app": player.name} | (labels or {}),
                    "annotations": {"quietwire.io/netns": player.netns} | (annotations or {}),
                },
                "spec": {"nodeName": node, "serviceAccountName": service_account or player.name} | (spec or {}),
                "status": {
                    "hostIPs": [{"ip": address} for address in host_ips],
                    "podIPs": [{"ip": player.ipv4}, {"ip": player.ipv6}],
                    "conditions": [{"type": "Ready", "status": str(ready)}],
                },
            },
        )

    def withdraw(self, player: Player) -> None:
        """Deletes the manifest of a pod."""
        (self.mesh.manifests / f"pod-{player.name}.yaml").unlink()

    def namespace(self, name: str, annotations: dict[str, str]) -> None:
        """Writes the manifest of a Kubernetes namespace."""
        self.mesh.write(
            f"namespace-{name}.yaml",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}},
        )

    def write(self, *manifests: Manifest) -> None:
        """Writes, or rewrites, objects of any kind, one after the other; each has a file of its own."""
        for manifest in manifests:
            self.mesh.write(self.file_of(manifest).name, manifest)

    def remove(self, *manifests: Manifest) -> None:
        """Deletes the files of objects that `write` wrote."""
        for manifest in manifests:
            self.file_of(manifest).unlink()

    def file_of(self, manifest: Manifest) -> Path:
        """The file that `write` puts an object into."""
        metadata = manifest["metadata"]
        name = f"{manifest['kind'].lower()}-{metadata.get('namespace', '')}-{metadata['name']}.yaml"
        return self.mesh.manifests / name

    def service(self, name: str, ips: list[str], port: int, *, selector: dict[str, str] | None = None) -> None:
        """Writes a service; without a selector its endpoints come from slices."""
        self.mesh.write(
            f"service-{name}.yaml",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "demo"},
                "spec": {"clusterIPs": ips, "selector": selector or {}, "ports": [{"name": "main", "port": port}]},
            },
        )

    def slice(self, service: str, endpoints: list[tuple[str, bool]], port: int) -> None:
        """Writes an endpoint slice: addresses, and whether each is ready."""
        self.mesh.write(
            f"slice-{service}.yaml",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{service}-1",
                    "namespace": "demo",
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address, ready in endpoints],
                "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
            },
        )

    # -- the agent --

    def start(self) -> None:
        """Starts `quietwire up` and waits for `ready`."""
        self.mesh.start()

    def authority(self, *words: str) -> str:
        """`quietwire authority …` on the state of our own; its output. Fails where it does."""
        done = quietwire("authority", *words, "--state", self.mesh.directory / "state")
        assert done.code == 0, done.err
        return done.out

    def join(self, node: str, *flags: str) -> Mesh:
        """Starts the agent of another node, which joins our authority with a token; it follows the same manifests."""
        serving = self.mesh.wait_for_log(lambda line: line.get("event") == "authority")
        assert serving is not None
        directory = self.directory / node
        directory.mkdir()
        (directory / "token").write_text(self.authority("token", "create", "--node", node))
        (directory / "bundle.pem").write_text(self.authority("bundle", "--pem"))
        mesh = Mesh(
            directory,
            node=node,
            trust_domain=TRUST_DOMAIN,
            verb=(
                *("agent", "--authority", str(serving["address"]), "--bundle", str(directory / "bundle.pem")),
                *("--join-token-file", str(directory / "token")),
            ),
            flags=("--workers=1", "--drain-timeout=1", *flags),
            manifests=self.mesh.manifests,
        )
        self._others.append(mesh)
        mesh.start()
        return mesh

    def wire(self) -> Wire:
        """A recording of everything on the bridge."""
        return Wire(self.stage.hub)

    def ready(self) -> dict[str, Any]:
        """The body of /ready."""
        body: dict[str, Any] = json.loads(self.mesh.ask("/ready"))
        return body

    def count(self, metric: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        return sum(value for have, value in self.series(metric) if labels.items() <= have.items())

    def series(self, metric: str) -> list[tuple[dict[str, str], float]]:
        """A metric's series: labels, and the value now."""
        return [
            (dict(re.findall(r'(\w+)="([^"]*)"', inside)), float(value))
            for name, inside, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", self.mesh.metrics(), re.MULTILINE)
            if name == metric
        ]

    def said(self) -> int:
        """How many lines the agent has logged. A port may be another connection's later: look from here on."""
        return len(self.mesh.lines())

    def denial(self, since: int = 0, **fields: str) -> dict[str, Any]:
        """The first denial in the log with these fields, after so many lines; fails where none comes."""
        found = self.mesh.wait_for_log(
            lambda line: line.get("event") == "denied" and fields.items() <= line.items(), SOON, since
        )
        assert found is not None, f"no denial with {fields}; the log ends with:\n{self.mesh.last_words()}"
        return found

    def closed(self, since: int = 0, **fields: Any) -> dict[str, Any]:
        """The first record of a connection's end with these fields, after so many lines; fails where none comes."""
        found = self.mesh.wait_for_log(
            lambda line: line.get("event") in {"closed", "denied"} and fields.items() <= line.items(), SOON, since
        )
        assert found is not None, f"no end with {fields}; the log ends with:\n{self.mesh.last_words()}"
        return found

    def until(self, holds: Callable[[], Any], what: str, seconds: float = SOON) -> Any:
        """Asks again and again until `holds` gives something true, which is returned."""
        deadline = time.monotonic() + seconds
        while True:
            got = holds()
            if got:
                return got
            assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}\n{self.mesh.last_words()}"
            time.sleep(0.02)

    def workers(self) -> dict[int, int]:
        """Process ids of the workers, by index: children of our supervisor with a worker's title."""
        found = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit():
                continue
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                title = (directory / "cmdline").read_bytes().rstrip(b"\0").decode()
            except OSError:
                continue
            match = re.fullmatch(rf"quietwire worker (\d+) {NODE}", title)
            if parent == self.mesh.pid and match:
                found[int(match[1])] = int(directory.name)
        return found

    def kill_worker(self, index: int) -> int:
        """kill -9 of one worker; returns its process id."""
        pid = self.workers()[index]
        os.kill(pid, signal.SIGKILL)
        return pid

    @property
    def node(self) -> Player:
        """The node itself, whose kubelet probes: the hub, at the bridge's own address."""
        return Player("node", self.stage.hub, "10.77.0.1", "fd77::1", "br0")

    # -- inside a pod --

    def inside(self, player: Player, work: Callable[[], Any]) -> Any:
        """Runs something small in a pod's namespace, on a thread that comes home."""
        fd = open_netns(player.netns)
        try:
            return self._thread.executor.submit(self._thread.run, fd, work).result()
        finally:
            os.close(fd)

    def open_socket(self, player: Player, version: int = 4, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A plain socket that lives in a pod's namespace, as an application's would."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made: socket.socket = self.inside(player, lambda: socket.socket(family, kind))
        made.settimeout(SOON)
        return made

    def connect(self, player: Player, address: str, port: int) -> socket.socket:
        """An application's connection from inside a pod."""
        sock = self.open_socket(player, 6 if ":" in address else 4)
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def listen(self, player: Player, port: int, version: int = 4, backlog: int = 1024) -> socket.socket:
        """An application's listener inside a pod."""
        sock = self.open_socket(player, version)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("::" if version == 6 else "0.0.0.0", port))
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
        return sock

    def run(
        self, player: Player, *words: str, given: str | None = None, seconds: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside a pod to its end."""
        return subprocess.run(
            player.command(*words),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def curl(self, player: Player, url: str, *more: str) -> tuple[int, int, str]:
        """curl's exit status, the HTTP status and the body."""
        done = self.run(player, "curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}", *more, url)
        body, _, status = done.stdout.rpartition("\n")
        return done.returncode, int(status or 0), body

    def spawn(self, player: Player, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Starts a process inside a pod; `close` ends it."""
        process: subprocess.Popen[bytes] = subprocess.Popen(player.command(*words), start_new_session=True, **more)
        self._processes.append(process)
        return process

    def wait_until_listening(self, player: Player, port: int, process: subprocess.Popen[bytes] | None = None) -> None:
        """Returns when something listens on a port of a pod: connects over its loopback, which is never captured."""

        def listening() -> bool:
            assert process is None or process.poll() is None, f"{process.args!r} ended with {process.returncode}"
            with self.open_socket(player) as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.until(listening, f"{player.name} listens on port {port}", 60.0)

    def close(self) -> None:
        """Ends every process that was started here, and takes the namespaces down."""
        for mesh in (*self._others, self.mesh):
            mesh.stop()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._thread.close()
        for mesh in (*self._others, self.mesh):
            mesh.forget_namespaces()
        self.stage.close()


class Echo:
    """A server in a pod that sends back what it gets, and notes who came."""

    def __init__(self, world: World, player: Player, port: int, version: int = 4) -> None:
        self._listener = world.listen(player, port, version)
        self._listener.settimeout(None)
        self.peers: list[tuple[Any, ...]] = []
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            self.peers.append(peer)
            self._open.add(sock)
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    def _echo(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        self._open.discard(sock)

    def close(self) -> None:
        """Ends it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # its thread closes it


class Load:
    """New connections, one after the other, each with one exchange; notes every one that failed."""

    def __init__(self, world: World, client: Player, address: str, port: int) -> None:
        self._world, self._client, self._address, self._port = world, client, address, port
        self._stop = threading.Event()
        self.good = 0
        self.bad: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            number = 0
            try:
                with self._world.connect(self._client, self._address, self._port) as sock:
                    number = sock.getsockname()[1]
                    sock.sendall(MARKER)
                    assert sock.recv(100) == MARKER
                self.good += 1
            except (OSError, AssertionError) as error:
                self.bad.append(f"{error!r} from port {number} at {datetime.now(UTC).time()}")

    def stop(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join(30)

    def report(self) -> str:
        """What failed, and what the agent said last."""
        return "\n".join([*self.bad, self._world.mesh.last_words(40)])


def alive(sock: socket.socket) -> bool:
    """Whether an exchange with an echo server still works."""
    try:
        sock.sendall(MARKER)
        return sock.recv(100) == MARKER
    except OSError:
        return False
