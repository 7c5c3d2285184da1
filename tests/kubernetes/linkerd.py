"""A stand-in for Linkerd, of which no registry of packages has images or code.

As its own charts and injector have it: names, labels, of whom its injector is asked, in which order, and whom it leaves
out. What stands in: definitions, which are ours under another description; the injector's process; and its proxy, a
container of that name that does nothing. So nothing is tried of what Linkerd's pods do among themselves: they speak
plaintext, as they would to a pod of no mesh.
"""

import base64
import json
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from agent.objects.annotations import DISABLED, INJECT, LEFT_BY_LINKERD
from agent.objects.model import LINKERDS_PROXY
from agent.webhook.certificates import bundle, new_authority, serving
from deploy.helm import __main__ as chart
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE

ROOT = Path(__file__).parents[2]
CONFIGURATION = "linkerd-proxy-injector-webhook-config"
MARK = "As Linkerd defines it, in a stand-in."
ASKS = ("enabled", "ingress")
PROXY = {
    "name": LINKERDS_PROXY,
    "image": BASE_IMAGE,
    "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"],
}


class Injector(Struct, frozen=True):
    """Where its webhook is, and who signs for it."""

    url: str
    ca: bytes

    def configuration(self, name: str = CONFIGURATION) -> dict[str, Any]:
        """Of whom it is asked, by its chart's defaults. An API server asks webhooks in the order of these names."""
        left = {"key": LEFT_BY_LINKERD, "operator": "NotIn", "values": [DISABLED]}
        exempt = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "cert-manager"]}
        absent = ("linkerd.io/control-plane-component", "linkerd.io/cni-resource")
        webhook = {
            "name": "linkerd-proxy-injector.linkerd.io",
            "admissionReviewVersions": ["v1", "v1beta1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 10,
            "clientConfig": {"url": self.url, "caBundle": base64.b64encode(self.ca).decode()},
            "namespaceSelector": {"matchExpressions": [left, exempt]},
            "objectSelector": {"matchExpressions": [{"key": key, "operator": "DoesNotExist"} for key in absent]},
            "rules": [
                {
                    "operations": ["CREATE"],
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods", "services"],
                    "scope": "Namespaced",
                }
            ],
        }
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name, "labels": {"linkerd.io/control-plane-component": "proxy-injector"}},
            "webhooks": [webhook],
        }


@contextmanager
def injector(cluster: Cluster, directory: Path) -> Iterator[Injector]:
    """Serves beside the API server, until it is left."""
    now = time.time()
    authority = new_authority(now)
    shown = serving(authority, ["localhost"], now)
    certificate = directory / "linkerds-injector.pem"
    certificate.write_bytes(shown.chain_pem + shown.key_pem)
    words = ["nsenter", f"--net=/run/netns/{cluster.layout.hub}", sys.executable, "-m", "tests.kubernetes.linkerd"]
    asking = json.dumps(cluster.kubectl_command("get", "-o", "json", "namespace"))
    with subprocess.Popen([*words, str(certificate), asking], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Injector(f"https://localhost:{int(process.stdout.readline())}/", bundle([authority], now))
        finally:
            process.terminate()


def charts(directory: Path, asked: Injector) -> tuple[Path, Path]:
    """Its two charts, under their names: definitions, and what of the control plane bears on us."""
    definitions = {each.stem: yaml.safe_load(each.read_text()) for each in chart.DEFINITIONS.glob("*.yaml")}
    for each in definitions.values():
        for version in each["spec"]["versions"]:
            version["schema"]["openAPIV3Schema"]["description"] = MARK
    return (
        _chart(directory, "linkerd-crds", definitions),
        _chart(directory, "linkerd-control-plane", {"proxy-injector-rbac": asked.configuration()}),
    )


def _chart(directory: Path, name: str, objects: dict[str, dict[str, Any]]) -> Path:
    made = directory / name
    (made / "templates").mkdir(parents=True)
    (made / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": name, "version": "0.0.0"}))
    for stem, each in objects.items():
        (made / "templates" / f"{stem}.yaml").write_text(yaml.safe_dump(each))
    return made


def injected(pod: dict[str, Any], of_namespace: str | None) -> list[dict[str, Any]]:
    """The patch that gives a pod its proxy; nothing where Linkerd's injector leaves it out."""
    spec, metadata = pod["spec"], pod["metadata"]
    own = (metadata.get("annotations") or {}).get(INJECT)
    asks = own in ASKS or (own is None and of_namespace in ASKS)
    sidecar = any(re.match("linkerd-|istio-", each["name"]) for each in spec["containers"])
    token = any(
        "serviceaccount" in mount["mountPath"] for each in spec["containers"] for mount in each.get("volumeMounts", [])
    )
    if not asks or sidecar or not token or spec.get("hostNetwork"):
        return []
    said = {**(metadata.get("annotations") or {}), "linkerd.io/proxy-version": "stand-in"}
    labels = {**(metadata.get("labels") or {}), "linkerd.io/control-plane-ns": "linkerd"}
    return [
        {"op": "add", "path": "/spec/containers/-", "value": PROXY},
        {"op": "add", "path": "/metadata/annotations", "value": said},
        {"op": "add", "path": "/metadata/labels", "value": labels},
    ]


class _Webhook(BaseHTTPRequestHandler):
    asking: list[str]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        answer: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        if request["kind"]["kind"] == "Pod":
            done = subprocess.run([*self.asking, request["namespace"]], capture_output=True, check=True, timeout=30)
            of_namespace = json.loads(done.stdout)["metadata"].get("annotations", {}).get(INJECT)
            patch = json.dumps(injected(request["object"], of_namespace)).encode()
            answer.update(patchType="JSONPatch", patch=base64.b64encode(patch).decode())
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        said = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as its base has it
        """Nobody reads it."""


def main(certificate: str, asking: str) -> None:
    """Serves for ever; prints its port."""
    _Webhook.asking = json.loads(asking)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Webhook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
