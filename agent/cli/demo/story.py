"""The demo's six steps: what is done, and what was really observed."""

import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.capture.netns import NetnsThread
from agent.lab.mesh import Mesh
from agent.lab.stage import Player, Stage
from agent.lab.webserver import WebServer
from agent.lab.wire import Wire
from init.netns import open_netns

NAME = "api.demo.svc.cluster.local"
CLUSTER_IP = "10.96.0.10"
PORT = 8080
CURL_SECONDS = 5
CHANGE_SECONDS = 10.0
"""How long a changed manifest may take to show."""
CLOSE_SECONDS = 1.0
"""Within this an open connection that is no longer permitted must be closed."""


@dataclass
class Step:
    """One step of the story: what was looked for, whether it was so, and what was seen."""

    key: str
    title: str
    ok: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curl:
    """What one curl did."""

    command: str
    exit: int
    status: int
    body: str
    error: str


class Story:
    """Plays the steps on a stage; `tell` is called with each step once it is over."""

    def __init__(self, directory: Path, tell: Callable[[Step], None]) -> None:
        self.directory = directory
        self._tell = tell
        self.stage = Stage("quietwire-demo")
        self.mesh = Mesh(directory, node="demo-node", trust_domain="demo.quietwire.test")
        self.web: WebServer | None = None
        self.steps: list[Step] = []

    def set_up(self) -> None:
        """Namespaces, manifests, the web server and the agent."""
        self.stage.open()
        webapp, api, stranger = (self.stage.add(name) for name in ("webapp", "api", "stranger"))
        for player in (webapp, stranger):
            self.stage.hosts(player, {NAME: [CLUSTER_IP]})
        self.mesh.pod(webapp)
        self.mesh.pod(api)
        self.mesh.service("api", CLUSTER_IP, PORT)
        self.web = WebServer(api, self.directory / "web", PORT)
        self.web.start()
        self.mesh.start()

    def close(self) -> None:
        """Ends everything and takes the stage down."""
        self.mesh.stop()
        if self.web is not None:
            self.web.stop()
        self.stage.close()

    def play(self) -> list[Step]:
        """All steps, in order."""
        marker = f"marker-{uuid.uuid4().hex}"
        with Wire(self.stage.hub) as wire:
            reached = self._curl("webapp", f"http://{NAME}:{PORT}/?{marker}")
        self._step(
            "reached",
            f"webapp calls http://{NAME}:{PORT}/ with an unmodified curl",
            ok=reached.exit == 0 and reached.status == 200,
            command=reached.command,
            status=reached.status,
            body=reached.body.strip()[:80],
            the_server_saw=self._server_log(marker),
        )
        self._encrypted(wire, marker)
        self._identities()
        self._stranger_refused()
        self._policy_live()
        self._fail_closed()
        return self.steps

    def _encrypted(self, wire: Wire, marker: str) -> None:
        api = self.stage.players["api"]
        wire.save(self.directory / "request.pcap")
        segments = wire.segments()
        hellos = [seen.hello for seen in wire.client_hellos() if seen.flow[2:] == (api.ipv4, PORT)]
        self._step(
            "encrypted",
            "the packets of that request, recorded on the bridge",
            ok=bool(segments) and not wire.contains(marker.encode()) and any(hello.offers_tls13 for hello in hellos),
            segments_with_data=len(segments),
            marker_on_the_wire=wire.contains(marker.encode()),
            client_hellos=[
                {"to": f"{api.ipv4}:{PORT}", "sni": hello.server_name, "tls13": hello.offers_tls13} for hello in hellos
            ],
            capture=str(self.directory / "request.pcap"),
        )

    def _identities(self) -> None:
        seen = {direction: self._closed(direction) for direction in ("outbound", "inbound")}
        expiries = self.mesh.expiries()
        client, server = (f"spiffe://{self.mesh.trust_domain}/ns/demo/sa/{name}" for name in ("webapp", "api"))
        self._step(
            "identities",
            "the SPIFFE IDs that both sides saw, and their certificates' expiry",
            ok=all((line.get("client_id"), line.get("server_id")) == (client, server) for line in seen.values())
            and all(expiries.get(each, 0) > time.time() for each in (client, server)),
            webapp_side={key: seen["outbound"].get(key) for key in ("client_id", "server_id", "security")},
            api_side={key: seen["inbound"].get(key) for key in ("client_id", "server_id", "security")},
            expires={
                spiffe_id: datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
                for spiffe_id, when in expiries.items()
            },
        )

    def _stranger_refused(self) -> None:
        api = self.stage.players["api"]
        marker = f"marker-{uuid.uuid4().hex}"
        refused = self._curl("stranger", f"http://{api.ipv4}:{PORT}/?{marker}")
        denial = self._denial(lambda line: line.get("outcome") == "unauthenticated")
        trace = self._server_log(marker)
        self._step(
            "stranger_refused",
            "a stranger without identity calls the api",
            ok=refused.exit != 0 and denial is not None and not trace,
            command=refused.command,
            curl=refused.error,
            denial=None if denial is None else denial.get("reason"),
            the_server_saw=trace,
        )

    def _policy_live(self) -> None:
        api, stranger = self.stage.players["api"], self.stage.players["stranger"]
        annotation = "config.linkerd.io/default-inbound-policy"
        self.mesh.pod(api, **{annotation: "all-unauthenticated"})
        marker = f"marker-{uuid.uuid4().hex}"
        with Wire(self.stage.hub) as wire:
            allowed = self._until(
                lambda: self._curl("stranger", f"http://{api.ipv4}:{PORT}/?{marker}"), lambda curl: curl.status == 200
            )
        with _open_connection(stranger, api) as held:
            self.mesh.pod(api)
            changed = time.monotonic()
            end = _wait_for_end(held, CHANGE_SECONDS)
            seconds = time.monotonic() - changed
        terminated = self._denial(lambda line: line.get("outcome") == "terminated")
        again = self._curl("stranger", f"http://{api.ipv4}:{PORT}/")
        self._step(
            "policy_live",
            f"{annotation}: all-unauthenticated on the api, and back",
            ok=allowed.status == 200
            and wire.contains(marker.encode())
            and seconds <= CLOSE_SECONDS
            and terminated is not None
            and again.exit != 0,
            stranger_while_allowed=allowed.status,
            its_marker_is_seen_by_the_same_capture=wire.contains(marker.encode()),
            its_open_connection=f"{end} {seconds:.2f} s after the annotation was changed back",
            reason=None if terminated is None else terminated.get("reason"),
            stranger_afterwards=again.error,
        )

    def _fail_closed(self) -> None:
        marker = f"marker-{uuid.uuid4().hex}"
        self.mesh.kill()
        with Wire(self.stage.hub) as wire:
            without = self._curl("webapp", f"http://{NAME}:{PORT}/?{marker}")
            direct = self._curl("webapp", f"http://{self.stage.players['api'].ipv4}:{PORT}/?{marker}")
        leaked = wire.contains(marker.encode())
        self.mesh.start()
        again = self._curl("webapp", f"http://{NAME}:{PORT}/")
        self._step(
            "fail_closed",
            "the agent is killed (kill -9), then started again",
            ok=without.exit != 0 and direct.exit != 0 and not leaked and again.status == 200,
            webapp_without_agent=without.error,
            plaintext_on_the_bridge=leaked,
            webapp_with_agent_again=again.status,
        )

    def _step(self, key: str, title: str, *, ok: bool, **evidence: Any) -> None:
        step = Step(key, title, ok, evidence)
        self.steps.append(step)
        self._tell(step)

    def _closed(self, direction: str) -> dict[str, Any]:
        found = self.mesh.wait_for_log(
            lambda line: line.get("event") == "closed" and line.get("direction") == direction
        )
        return found or {}

    def _denial(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        stranger = self.stage.players["stranger"].ipv4
        return self.mesh.wait_for_log(
            lambda line: line.get("event") == "denied" and str(line.get("client")).startswith(stranger) and wanted(line)
        )

    def _server_log(self, marker: str) -> list[str]:
        return [] if self.web is None else [line for line in self.web.access_log() if marker in line]

    def _curl(self, who: str, url: str) -> Curl:
        words = ["curl", "-sS", "--max-time", str(CURL_SECONDS), "-w", "\n%{http_code}", url]
        done = subprocess.run(
            self.stage.players[who].command(*words), capture_output=True, text=True, check=False, timeout=30
        )
        body, _, status = done.stdout.rpartition("\n")
        return Curl(f"curl {url.partition('?')[0]}", done.returncode, int(status or 0), body, done.stderr.strip())

    @staticmethod
    def _until(attempt: Callable[[], Curl], good: Callable[[Curl], bool]) -> Curl:
        deadline = time.monotonic() + CHANGE_SECONDS
        while True:
            got = attempt()
            if good(got) or time.monotonic() > deadline:
                return got
            time.sleep(0.05)


def _open_connection(client: Player, server: Player) -> socket.socket:
    """A connection from inside the client's namespace that has been answered once and is kept open."""
    thread = NetnsThread()
    sock = thread.executor.submit(thread.run, open_netns(client.netns), socket.socket).result()
    thread.close()
    sock.settimeout(CURL_SECONDS)
    sock.connect((server.ipv4, PORT))
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {server.ipv4}\r\n\r\n".encode())
    sock.recv(65536)
    return sock


def _wait_for_end(sock: socket.socket, seconds: float) -> str:
    sock.settimeout(seconds)
    try:
        while sock.recv(65536):
            continue
    except ConnectionResetError:
        return "was reset"
    except TimeoutError:
        return "was still open"
    return "was closed"
