"""What one changed object costs in a large catalog: `python -m bench.catalog_scale [--pods 10000] [--policies 2000]`.

Prints one JSON object: milliseconds from the write to the change being in force (read, joined, sent to a worker's
process and taken over there), at the median of some changes, for each form that manifests come in; and memory.
"""

import argparse
import ipaddress
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.files.directory import FilesSource
from agent.link.messages import ChangeCatalog, ToWorker
from agent.objects.key import PodKey
from agent.policy.authorize import authorize
from agent.policy.index import PolicyIndex, PolicySettings
from agent.policy.model import Client, PodPort

CHANGES = 7
SETTINGS = PolicySettings("example.test")


def pod(number: int, namespaces: int, node: str = "node-a") -> dict[str, object]:
    """One of many pods; a tenth share a service."""
    name, address = f"pod-{number}", f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": f"ns-{number % namespaces}", "labels": {"app": f"app-{number // 10}"}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": f"sa-{number // 10}",
            "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]},
    }


def service(number: int, namespaces: int) -> dict[str, object]:
    """The service of ten pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"svc-{number}", "namespace": f"ns-{number % namespaces}"},
        "spec": {
            "clusterIP": f"172.16.{number >> 8 & 255}.{number & 255}",
            "selector": {"app": f"app-{number}"},
            "ports": [{"port": 80, "targetPort": "http"}],
        },
    }


def policy(number: int, namespaces: int) -> list[dict[str, object]]:
    """A Server and what authorizes for it."""
    meta = {"name": f"p-{number}", "namespace": f"ns-{number % namespaces}"}
    group = "policy.linkerd.io"
    return [
        {
            "apiVersion": f"{group}/v1beta3",
            "kind": "Server",
            "metadata": meta,
            "spec": {"podSelector": {"matchLabels": {"app": f"app-{number}"}}, "port": "http"},
        },
        {
            "apiVersion": f"{group}/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": meta,
            "spec": {
                "targetRef": {"group": group, "kind": "Server", "name": f"p-{number}"},
                "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": f"sa-{number}"}],
            },
        },
    ]


def everything(pods: int, policies: int, namespaces: int, node: str = "node-a") -> list[dict[str, object]]:
    """Every object; `node` is the first pod's, and what changes."""
    found = [pod(0, namespaces, node), *(pod(number, namespaces) for number in range(1, pods))]
    found += [service(number, namespaces) for number in range(pods // 10)]
    for number in range(policies // 2):
        found += policy(number, namespaces)
    return found


Write = Callable[[Path, list[dict[str, object]]], None]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def documents(directory: Path, objects: list[dict[str, object]]) -> None:
    """One file of many documents."""
    _replace(directory / "all.yaml", "---\n".join(json.dumps(each) + "\n" for each in objects))


def many_files(directory: Path, objects: list[dict[str, object]]) -> None:
    """A file for each; only those that differ are written."""
    for number, each in enumerate(objects):
        path, text = directory / f"{number}.json", json.dumps(each)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            _replace(path, text)


def list_json(directory: Path, objects: list[dict[str, object]]) -> None:
    """What `kubectl get -o json` prints."""
    _replace(directory / "all.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=4))


def list_yaml(directory: Path, objects: list[dict[str, object]]) -> None:
    """What `kubectl get -o yaml` prints, each item in flow style."""
    items = "".join(f"- {json.dumps(each)}\n" for each in objects)
    _replace(directory / "all.yaml", f"apiVersion: v1\nitems:\n{items}kind: List\n")


class Node:
    """A supervisor's catalog and one worker's, joined by the channel's encoding."""

    def __init__(self, directory: Path) -> None:
        self.source = FilesSource(directory, self._changed)
        self.mine, self.policy = CatalogIndex(Catalog()), PolicyIndex(Catalog(), SETTINGS)
        self.theirs, self.worker = CatalogIndex(Catalog()), PolicyIndex(Catalog(), SETTINGS)
        self._decoder = msgspec.msgpack.Decoder(ToWorker)

    def _changed(self, change: CatalogChange | None, _faults: object) -> None:
        if change is None:
            return
        self.mine.apply(change)
        self.policy.apply(change)
        sent = self._decoder.decode(msgspec.msgpack.encode(ChangeCatalog(change)))
        self.theirs.apply(sent.change)
        self.worker.apply(sent.change)

    def load(self) -> float:
        """Milliseconds until what is in the directory now is in force."""
        began = time.perf_counter()
        self.source.load()
        return (time.perf_counter() - began) * 1000


def measure(write: Write, pods: int, policies: int, namespaces: int) -> dict[str, float]:
    """One form of the manifests: the first load, and one changed pod."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory, everything(pods, policies, namespaces))
        node = Node(directory)
        first = node.load()
        took = []
        for number in range(CHANGES):
            write(directory, everything(pods, policies, namespaces, f"node-{number}"))
            took.append(node.load())
            changed = node.theirs.pod(PodKey("ns-0/pod-0"))
            if changed is None or changed.node != f"node-{number}":
                raise RuntimeError("the change is not in force")
        return {"first_load_ms": round(first, 1), "change_ms": round(statistics.median(took), 1)}


def decision_us(pods: int, policies: int, namespaces: int) -> float:
    """Microseconds of one decision, look-up of the permits included, at the median over many pods."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        documents(directory, everything(pods, policies, namespaces))
        node = Node(directory)
        node.load()
        everyone = node.theirs.pods()
        client = Client(ipaddress.ip_address("10.0.0.9"), None, tls=False)
        for each in everyone:
            node.worker.permits(each, 8080)
        took = []
        for each in everyone[:: max(1, len(everyone) // 2000)]:
            began = time.perf_counter_ns()
            authorize(PodPort(each.key, 8080), client, node.worker.permits(each, 8080))
            took.append(time.perf_counter_ns() - began)
        return round(statistics.median(took) / 1000, 2)


def main() -> None:
    """Measures every form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--policies", type=int, default=2_000)
    given = parser.parse_args()
    result: dict[str, object] = {"pods": given.pods, "policies": given.policies}
    for label, write, namespaces in (
        ("documents", documents, 100),
        ("many_files", many_files, 100),
        ("list_json", list_json, 100),
        ("list_yaml", list_yaml, 100),
        ("one_namespace", documents, 1),
    ):
        result[label] = measure(write, given.pods, given.policies, namespaces)
    result["decision_us"] = decision_us(given.pods, given.policies, 100)
    result["max_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
