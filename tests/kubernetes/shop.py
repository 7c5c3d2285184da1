"""A namespace with a client and a server in it, for the demo and for scenarios: unmodified applications."""

import json
import subprocess
from typing import Any, NamedTuple

from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.kubernetes.mesh import Mesh

PORT = 8080
CALL_SECONDS = 10
INJECT = "linkerd.io/inject"
MESHED = r"""{.status.conditions[?(@.type=="quietwire.io/meshed")].status}"""
HTTPD = "mkdir -p /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -vv -p 8080 -h /tmp/www"


class Called(NamedTuple):
    """What one curl said: its exit status, HTTP's, the body, and what went wrong."""

    exit: int
    status: int
    body: str
    error: str

    @property
    def well(self) -> bool:
        """Whether it was answered, and with 200."""
        return (self.exit, self.status) == (0, 200)


def deployment(name: str, *, node: str = "", replicas: int = 1, command: list[str] | None = None) -> dict[str, Any]:
    """One of these applications under a service account of its name: a web server, unless a `command` says else."""
    container = {
        "name": name,
        "image": BASE_IMAGE,
        "command": command or ["sh", "-c", HTTPD],
        "ports": [{"name": "http", "containerPort": PORT}] if command is None else [],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1} if command is None else None,
    }
    spec = {
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
        "containers": [{key: value for key, value in container.items() if value is not None}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }


def account(name: str) -> dict[str, Any]:
    """A service account."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}


def service(name: str) -> dict[str, Any]:
    """Of the web servers of that name."""
    spec = {"selector": {"app": name}, "ports": [{"port": PORT, "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


SLEEP = ["sleep", "1000000"]


class Shop:
    """`api` on the first node and `webapp`, which calls it, on the second, in one namespace."""

    def __init__(self, mesh: Mesh, namespace: str) -> None:
        self.mesh = mesh
        self.cluster = mesh.cluster
        self.namespace = namespace

    def open(self, *, injected: bool = True, client: list[str] = SLEEP) -> None:
        """Makes both, and waits until they are ready. `client` is what `webapp` does."""
        first, second = (node.name for node in self.cluster.nodes)
        if injected:
            self.kubectl("annotate", "namespace", self.namespace, f"{INJECT}=enabled", "--overwrite")
        self.apply(account("api"), account("webapp"), service("api"))
        self.apply(deployment("api", node=first), deployment("webapp", node=second, command=client))
        self.rolled_out("api", "webapp")

    def kubectl(self, *words: str, given: str | None = None, seconds: float = 120.0) -> str:
        """In this namespace."""
        return self.cluster.kubectl("-n", self.namespace, *words, given=given, seconds=seconds)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Objects, as they are given."""
        self.kubectl("apply", "-f", "-", given="\n---\n".join(map(json.dumps, objects)))

    def rolled_out(self, *names: str) -> None:
        """Waits for deployments."""
        for name in names:
            self.cluster.rolled_out(self.namespace, f"deployment/{name}")

    def call(self, url: str = "", *, by: str = "deploy/webapp") -> Called:
        """What curl says in a pod."""
        url = url or f"http://api.{self.namespace}.svc.cluster.local:{PORT}/"
        words = ("curl", "-sS", "--max-time", str(CALL_SECONDS), "-w", "\n%{http_code}", url)
        done = subprocess.run(
            self.cluster.kubectl_command("-n", self.namespace, "exec", by, "-c", by.rpartition("/")[2], "--", *words),
            capture_output=True, text=True, check=False, timeout=CALL_SECONDS * 3,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return Called(done.returncode, int(status) if status.isdigit() else 0, body, done.stderr.strip())

    def pod(self, name: str) -> dict[str, Any]:
        """The newest pod of a deployment."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"app={name}", "-o", "json"))["items"]
        pod: dict[str, Any] = max(found, key=lambda each: each["metadata"]["creationTimestamp"])
        return pod

    def address(self, name: str) -> str:
        """The address of a deployment's newest pod."""
        address: str = self.pod(name)["status"]["podIP"]
        return address

    def is_meshed(self, name: str) -> bool:
        """Whether its agent has said so in the pod."""
        pod = self.pod(name)["metadata"]["name"]
        return self.kubectl("get", "pod", pod, "-o", f"jsonpath={MESHED}") == "True"
