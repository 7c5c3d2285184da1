"""How long one changed object takes to be in force in one process, in a directory of many, by how they are laid out.

Each layout is measured in a process of its own and prints one JSON line: `first_load_ms`, then for each sort of change
the median and the worst of `--changes` (milliseconds from the renamed file to the look-ups and the policy index of one
process, and the bytes that a worker is sent), and the process's peak memory.

    python -m bench.catalog_scale --pods 10000 --policies 2000
"""

import argparse
import ipaddress
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent.catalog.fault import Fault
from agent.catalog.files import FilesSource
from agent.catalog.index import CatalogIndex
from agent.catalog.model import Catalog, CatalogChange
from agent.policy.index import PolicyIndex, PolicySettings

LAYOUTS = ("documents", "files", "list-yaml", "list-json", "one-namespace")
PODS_PER_NAMESPACE = 100
PODS_PER_SERVICE = 10


class Plan(msgspec.Struct, frozen=True):
    """What a directory holds."""

    layout: str
    pods: int
    policies: int

    def namespace(self, number: int) -> str:
        """The namespace of the pod of this number."""
        return "shop" if self.layout == "one-namespace" else f"shop-{number // PODS_PER_NAMESPACE}"

    def pod(self, number: int, version: int = 0) -> dict[str, object]:
        """A pod, as kubectl prints it. Another version has another label."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "annotations": {"quietwire.io/netns": f"pod-{number}"},
                "creationTimestamp": "2024-05-01T10:00:00Z",
                "labels": {"app": f"app-{number // PODS_PER_SERVICE}", "tier": "front", "version": f"v{version}"},
                "name": f"pod-{number}",
                "namespace": self.namespace(number),
                "uid": f"00000000-0000-0000-0000-{number:012}",
            },
            "spec": {
                "containers": [
                    {
                        "image": "registry.example/app:1",
                        "name": "app",
                        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
                    }
                ],
                "nodeName": f"node-{number % 100}",
                "serviceAccountName": f"account-{number // PODS_PER_SERVICE}",
            },
            "status": {
                "conditions": [{"status": "True", "type": "Ready"}],
                "phase": "Running",
                "podIPs": [{"ip": str(ipaddress.IPv4Address("10.0.0.0") + number + 1)}],
            },
        }

    def service(self, number: int) -> dict[str, object]:
        """The service of the pods from `number` * PODS_PER_SERVICE on."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"service-{number}", "namespace": self.namespace(number * PODS_PER_SERVICE)},
            "spec": {
                "clusterIPs": [str(ipaddress.IPv4Address("172.16.0.0") + number + 1)],
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
                "selector": {"tier": "front", "app": f"app-{number}"},
            },
        }

    def policy(self, number: int, version: int = 0) -> dict[str, object]:
        """A Server, its AuthorizationPolicy, and what that refers to, in turn."""
        kind = ("Server", "AuthorizationPolicy", "MeshTLSAuthentication")[number % 3]
        each = number // 3
        name, pod = f"policy-{each}", each * PODS_PER_SERVICE % self.pods
        spec: dict[str, object]
        if kind == "Server":
            spec = {"podSelector": {"matchLabels": {"app": f"app-{pod // PODS_PER_SERVICE}"}}, "port": 8080}
        elif kind == "AuthorizationPolicy":
            group = "policy.linkerd.io"
            spec = {
                "requiredAuthenticationRefs": [{"group": group, "kind": "MeshTLSAuthentication", "name": name}],
                "targetRef": {"group": group, "kind": "Server", "name": name},
            }
        else:
            spec = {"identities": [f"account-{version}.shop.serviceaccount.identity.linkerd.cluster.local"]}
        return {
            "apiVersion": f"policy.linkerd.io/{'v1beta3' if kind == 'Server' else 'v1alpha1'}",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace(pod)},
            "spec": spec,
        }

    def objects(self) -> Iterator[tuple[str, dict[str, object]]]:
        """Every object, with the name of the file that it is in where each has its own."""
        for number in range(self.pods):
            yield f"pod-{number}", self.pod(number)
        for number in range(self.pods // PODS_PER_SERVICE):
            yield f"service-{number}", self.service(number)
        for number in range(self.policies):
            yield f"policy-{number}", self.policy(number)


def yaml_of(value: object, indent: int = 0) -> str:
    """Block YAML, as kubectl writes it: a tenth of the time that a whole dumper takes."""
    pad = " " * indent
    if isinstance(value, dict):
        lines = []
        for key, inner in value.items():
            if isinstance(inner, dict):
                lines.append(f"{pad}{key}:\n{yaml_of(inner, indent + 2)}")
            elif isinstance(inner, list):
                items = "".join(f"{pad}- {yaml_of(item, indent + 2).lstrip()}" for item in inner)
                lines.append(f"{pad}{key}:\n{items}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(inner)}\n")
        return "".join(lines)
    return f"{pad}{json.dumps(value)}\n"


class Directory:
    """A directory of manifests in one of the layouts, and what is made of it."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path = path
        self._plan = plan
        self._objects = dict(plan.objects())
        self._texts = {name: self._text(each) for name, each in self._objects.items()}
        self._index = CatalogIndex(Catalog())
        self._policy = PolicyIndex(Catalog(), PolicySettings("cluster.local"))
        self._source = FilesSource(path, self._on_change)
        self.sent = 0
        if plan.layout == "files":
            for name, text in self._texts.items():
                (path / f"{name}.yaml").write_text(text, encoding="utf-8")
        else:
            self._write_all()

    def _text(self, each: dict[str, object]) -> str:
        match self._plan.layout:
            case "list-json":
                return textwrap.indent(json.dumps(each, indent=4), " " * 8)
            case "list-yaml":
                return f"- {textwrap.indent(yaml_of(each), '  ')[2:]}"
            case _:
                return yaml_of(each)

    def _write_all(self) -> None:
        texts = self._texts.values()
        name = "all.yaml"
        match self._plan.layout:
            case "list-json":
                name = "all.json"
                body = (
                    '{\n    "apiVersion": "v1",\n    "items": [\n' + ",\n".join(texts) + '\n    ],\n    "kind": "List",'
                    '\n    "metadata": {\n        "resourceVersion": ""\n    }\n}\n'
                )
            case "list-yaml":
                body = "apiVersion: v1\nitems:\n" + "".join(texts) + 'kind: List\nmetadata:\n  resourceVersion: ""\n'
            case _:
                body = "---\n".join(texts)
        self._replace(name, body)

    def _replace(self, name: str, body: str) -> None:
        temporary = self._path / f".{name}.new"
        temporary.write_text(body, encoding="utf-8")
        temporary.rename(self._path / name)

    def _on_change(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        if faults:
            raise SystemExit(f"{len(faults)} faults: {faults[0]}")
        if change is not None:
            self._index.apply(change)
            self._policy.apply(change)
            self.sent = len(msgspec.msgpack.encode(change))

    def load(self) -> float:
        """Reads the directory; milliseconds until it is in force."""
        began = time.perf_counter()
        self._source.load()
        return (time.perf_counter() - began) * 1000

    def change(self, name: str, each: dict[str, object]) -> float:
        """Changes one object; milliseconds until it is in force."""
        self._texts[name] = self._text(each)
        if self._plan.layout == "files":
            self._replace(f"{name}.yaml", self._texts[name])
        else:
            self._write_all()
        return self.load()


def measure(plan: Plan, changes: int) -> dict[str, object]:
    """One layout, in this process."""
    with tempfile.TemporaryDirectory() as path:
        directory = Directory(Path(path), plan)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found: dict[str, object] = {
            "layout": plan.layout,
            "pods": plan.pods,
            "policies": plan.policies,
            "first_load_ms": round(directory.load()),
        }
        pods, policies = [], []
        for number in range(changes):
            at = (number * 7919) % plan.pods
            pods.append(directory.change(f"pod-{at}", plan.pod(at, number + 1)))
        found["pod_bytes"] = directory.sent
        for number in range(changes):
            at = (number * 3 * 101 + 2) % plan.policies // 3 * 3 + 2
            policies.append(directory.change(f"policy-{at}", plan.policy(at, number + 1)))
        found["policy_bytes"] = directory.sent
        for name, figures in (("pod", pods), ("policy", policies)):
            found[f"{name}_ms"] = round(statistics.median(figures), 1)
            found[f"{name}_worst_ms"] = round(max(figures), 1)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found | {"peak_rss_mib": after // 1024, "of_that_manifests_mib": before // 1024}


def main() -> int:
    """Measures every layout, each in its own process, or the one that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--policies", type=int, default=2_000)
    parser.add_argument("--changes", type=int, default=5)
    parser.add_argument("--layout", choices=LAYOUTS, help="only this one, in this process")
    given = parser.parse_args()
    if given.layout is not None:
        found = measure(Plan(given.layout, given.pods, given.policies), given.changes)
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for layout in LAYOUTS:
        sizes = ["--pods", str(given.pods), "--policies", str(given.policies), "--changes", str(given.changes)]
        command = [sys.executable, "-m", "bench.catalog_scale", "--layout", layout, *sizes]
        if status := subprocess.run(command, check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
