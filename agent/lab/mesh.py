"""A mesh of one node: generated manifests, a real agent (`quietwire up`, or another verb), and what it said."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from agent.capture.netns import unpin
from agent.lab.stage import Player

READY_SECONDS = 60.0
STOP_SECONDS = 15.0


class MeshError(Exception):
    """The mesh did not come up, or did not say what it should; `str` has its last words."""


class Mesh:
    """One `quietwire up`, or another way to run an agent, in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        node: str,
        trust_domain: str,
        verb: tuple[str, ...] = ("up", "--authority-listen", "127.0.0.1:0"),
        flags: tuple[str, ...] = ("--drain-timeout=2",),
        manifests: Path | None = None,
        access_log: bool = True,
        program: tuple[str, ...] = ("-m", "agent.cli"),
    ) -> None:
        self.directory = directory
        self._program = program
        self._verb = verb
        self._flags = (*(("--access-log",) if access_log else ()), *flags)
        self._node = node
        self.trust_domain = trust_domain
        self.manifests = manifests or directory / "manifests"
        self.manifests.mkdir(parents=True, exist_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / "agent.log"
        self.admin = ""
        """HOST:PORT of the admin server: another one after each start."""
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[dict[str, Any]] = []
        self._news = threading.Condition()

    def pod(self, player: Player, **annotations: str) -> None:
        """Writes a pod's manifest."""
        self.write(
            f"{player.name}.yaml",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": player.name,
                    "namespace": "demo",
                    "labels": {"app": player.name},
                    "annotations": {"quietwire.io/netns": player.netns} | annotations,
                },
                "spec": {"nodeName": self._node, "serviceAccountName": player.name},
                "status": {"podIPs": [{"ip": player.ipv4}, {"ip": player.ipv6}]},
            },
        )

    def service(self, name: str, cluster_ip: str, port: int) -> None:
        """Writes a service whose endpoints are the pods labelled `app: name`."""
        self.write(
            f"service-{name}.yaml",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "demo"},
                "spec": {"clusterIP": cluster_ip, "selector": {"app": name}, "ports": [{"port": port}]},
            },
        )

    def write(self, name: str, manifest: dict[str, Any]) -> None:
        """Writes one manifest; it is there whole or not at all."""
        temporary = self.manifests / f".{name}"
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")  # JSON is YAML
        temporary.rename(self.manifests / name)

    def start(self) -> None:
        """Starts `quietwire up` and waits for its `ready`. Raises MeshError."""
        process = subprocess.Popen(
            [
                *(sys.executable, *self._program, *self._verb),
                *("--manifests", str(self.manifests), "--state", str(self.directory / "state")),
                *("--run-dir", str(self.directory / "run"), "--node", self._node),
                *("--trust-domain", self.trust_domain, "--admin", "127.0.0.1:0"),
                *self._flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a ^C is for who started it, who then ends it
        )
        self._process = process
        with self._news:
            self._lines.clear()
        said: list[str] = []
        self._reader = threading.Thread(target=self._read_log, args=(process.stderr,), daemon=True)
        self._reader.start()
        reader = threading.Thread(target=lambda: said.append(_first_line(process.stdout)), daemon=True)
        reader.start()
        reader.join(READY_SECONDS)
        if said != ["ready\n"]:
            self.kill()
            raise MeshError(f"quietwire up did not become ready; its last words:\n{self.last_words()}")
        serving = self.wait_for_log(lambda line: line.get("event") == "admin")
        if serving is None:
            raise MeshError(f"quietwire up did not say where its admin server is; its log is {self.log_path}")
        self.admin = str(serving["address"])

    def _read_log(self, stream: IO[str]) -> None:
        with stream, self.log_path.open("a", encoding="utf-8") as log:
            for line in stream:
                log.write(line)
                log.flush()
                try:
                    said = json.loads(line)
                except ValueError:
                    said = {"msg": line.rstrip()}
                with self._news:
                    self._lines.append(said)
                    self._news.notify_all()

    def wait_for_log(
        self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 5.0, since: int = 0
    ) -> dict[str, Any] | None:
        """The first line, said before or soon, for which `wanted` holds; of those after the first `since`."""
        deadline = time.monotonic() + seconds
        seen = since
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if wanted(line):
                        return line
                seen = len(self._lines)
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._news.wait(remaining):
                    return None

    def lines(self) -> list[dict[str, Any]]:
        """Every line so far."""
        with self._news:
            return list(self._lines)

    def last_words(self, lines: int = 8) -> str:
        """The last lines of the log."""
        return "\n".join(str(line.get("msg", line)) for line in self._lines[-lines:])

    def metrics(self) -> str:
        """The metrics page."""
        return self.ask("/metrics")

    def ask(self, path: str) -> str:
        """What the admin server answers, whatever the status."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode())

    def expiries(self) -> dict[str, float]:
        """Certificate expiry by SPIFFE ID, POSIX seconds."""
        found = re.findall(
            r'quietwire_certificate_expiry_timestamp_seconds\{spiffe_id="([^"]+)"\} (\S+)', self.metrics()
        )
        return {spiffe_id: float(value) for spiffe_id, value in found}

    @property
    def pid(self) -> int | None:
        """The supervisor's process."""
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the supervisor has ended, by itself or by us."""
        return self._process is None or self._process.poll() is not None

    def signal(self, number: int) -> None:
        """Sends the supervisor a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill -9 of the supervisor; its workers and its authority end with it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and a second one if it takes long."""
        self._end(signal.SIGTERM)

    def forget_namespaces(self) -> None:
        """Lets go of the namespaces that an agent, which must have ended, keeps for the next one."""
        for path in (self.directory / "run" / "namespaces").glob("[0-9]*"):
            unpin(path)

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if self._reader is not None:
            self._reader.join(STOP_SECONDS)  # workers that are still ending hold the log open


def _first_line(stream: IO[str] | None) -> str:
    return "" if stream is None else stream.readline()
