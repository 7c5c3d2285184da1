"""What following a large cluster costs one agent: `python -m bench.cluster_scale [--pods 10000] [--seconds 20]`.

A source follows objects of the size that an API server sends (managed fields and all), with 100 changes a second: pods
that become ready or not, and the endpoint slices that say so. Prints one JSON object: per cent of a core of the
supervisor's part (read, joined, put in force, encoded for its workers) and of one worker's, seconds until everything
was listed, and memory of a process that holds the supervisor's part alone. Nothing is sent: it costs no network.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import uvloop

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client, Query
from agent.kubernetes.follow import END_OF_LIST
from agent.link.messages import ChangeCatalog, ToWorker
from agent.policy.index import PolicyIndex
from agent.tasks import spawn
from bench.catalog_scale import SETTINGS, pod, policy, service

CHANGES_PER_SECOND = 100
NAMESPACES = 100
PER_SERVICE = 5
"""Pods of one service, in one slice."""


def managed() -> list[dict[str, Any]]:
    """What managers leave in an object: about as much as the rest of it."""
    fields: dict[str, Any] = {f"f:{name}": {".": {}, "f:type": {}} for name in ("a", "b", "c", "d", "e", "f", "g", "h")}
    return [
        {
            "manager": name,
            "operation": "Update",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": fields},
        }
        for name in ("kube-controller-manager", "kubelet", "kubectl")
    ]


def with_metadata(value: dict[str, Any], version: int) -> bytes:
    """As the API server sends it."""
    metadata = {**value["metadata"], "uid": f"u-{value['metadata']['name']}", "managedFields": managed()}
    metadata["resourceVersion"] = str(version)
    return json.dumps({**value, "metadata": metadata}).encode()


def a_pod(number: int, version: int, *, ready: bool = True) -> bytes:
    """A pod in the fullness of a cluster's: volumes, environment, all conditions, statuses of containers."""
    value: dict[str, Any] = json.loads(json.dumps(pod(number, NAMESPACES)))
    value["spec"]["nodeName"] = f"node-{number % 300}"
    value["spec"]["volumes"] = [
        {"name": f"v{at}", "projected": {"sources": [{"configMap": {"name": "x"}}] * 3}} for at in range(3)
    ]
    (container,) = value["spec"]["containers"]
    container["env"] = [{"name": f"VARIABLE_{at}", "value": "a value of some length"} for at in range(12)]
    container["volumeMounts"] = [{"name": f"v{at}", "mountPath": f"/var/lib/{at}"} for at in range(3)]
    container["readinessProbe"] = {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5}
    status = "True" if ready else "False"
    value["status"]["conditions"] = [
        {"type": kind, "status": status, "lastTransitionTime": "2026-11-30T00:00:00Z"}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers")
    ] + [{"type": "quietwire.io/meshed", "status": "True"}]
    value["status"]["containerStatuses"] = [
        {"name": "main", "ready": ready, "image": "registry/app:1", "state": {"running": {}}}
    ]
    value["status"]["startTime"] = "2026-11-30T00:00:00Z"
    return with_metadata(value, version)


def a_slice(number: int, version: int, unready: int = -1) -> bytes:
    """The slice of a service's pods; one of them may be not ready."""
    endpoints = [
        {
            "addresses": [pod(each, 1)["status"]["podIPs"][0]["ip"]],  # type: ignore[index]  # as it was made there
            "conditions": {"ready": each != unready, "serving": each != unready, "terminating": False},
            "nodeName": f"node-{each % 300}",
            "targetRef": {"kind": "Pod", "name": f"pod-{each}", "uid": f"u-pod-{each}"},
        }
        for each in range(number * PER_SERVICE, (number + 1) * PER_SERVICE)
    ]
    value = {
        "metadata": {
            "name": f"svc-{number}-x",
            "namespace": f"ns-{number % NAMESPACES}",
            "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }
    return with_metadata(value, version)


class Server(Client):
    """An API server in this process: lists, and then what is put into a kind's queue."""

    def __init__(self, objects: dict[str, list[bytes]]) -> None:
        super().__init__(Access("192.0.2.1", 6443))
        self._objects = objects
        self.queues: dict[str, asyncio.Queue[bytes]] = {}

    async def get(self, path: str, query: Query = Query(), *, accept: str = "") -> bytes:  # noqa: B008 - frozen
        """The version."""
        del path, query, accept
        return b'{"major":"1","minor":"36"}'

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, query: Query, *, accept: str = "", silent_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch."""
        del query, accept, silent_seconds
        plural = path.rpartition("/")[2]
        queue = self.queues[path] = asyncio.Queue()

        async def lines() -> AsyncIterator[bytes]:
            for at, raw in enumerate(self._objects.pop(plural, [])):
                yield b'{"type":"ADDED","object":' + raw + b"}"
                if at % 100 == 0:
                    await asyncio.sleep(0)
            end = {"metadata": {"resourceVersion": "1", "annotations": {END_OF_LIST: "true"}}}
            yield b'{"type":"BOOKMARK","object":' + json.dumps(end).encode() + b"}"
            while True:
                yield await queue.get()

        yield lines()


class Node:
    """A supervisor's part; and where one is wanted, a worker's, with what it cost."""

    def __init__(self, server: Server, *, worker: bool) -> None:
        self.source = KubernetesSource(server, self._changed)
        self._catalog, self._policy = CatalogIndex(Catalog()), PolicyIndex(Catalog(), SETTINGS)
        self._theirs, self._worker = CatalogIndex(Catalog()), PolicyIndex(Catalog(), SETTINGS)
        self._decoder = msgspec.msgpack.Decoder(ToWorker)
        self._has_worker = worker
        self.worker_seconds = 0.0
        self.changes = 0

    def _changed(self, change: CatalogChange | None, _faults: object) -> None:
        if change is None:
            return
        self.changes += len(change.pods) + len(change.services)
        self._catalog.apply(change)
        self._policy.apply(change)
        sent = msgspec.msgpack.encode(ChangeCatalog(change))
        if not self._has_worker:
            return
        began = time.process_time()
        received = self._decoder.decode(sent)
        self._theirs.apply(received.change)
        self._worker.apply(received.change)
        self.worker_seconds += time.process_time() - began


def everything(pods: int, services: int, policies: int) -> dict[str, list[bytes]]:
    """By plural; a policy is a Server and what authorizes for it, so half as many of each."""
    found: dict[str, list[bytes]] = {
        "namespaces": [
            with_metadata({"metadata": {"name": f"ns-{at}", "annotations": {"linkerd.io/inject": "enabled"}}}, 1)
            for at in range(NAMESPACES)
        ],
        "nodes": [with_metadata({"metadata": {"name": f"node-{at}"}}, 1) for at in range(300)],
        "pods": [a_pod(number, 1) for number in range(pods)],
        "services": [with_metadata(json.loads(json.dumps(service(at, NAMESPACES))), 1) for at in range(services)],
        "endpointslices": [a_slice(at, 1) for at in range(min(services, pods // PER_SERVICE))],
        "servers": [],
        "authorizationpolicies": [],
    }
    for number in range(policies // 2):
        server, authorization = policy(number, NAMESPACES)
        found["servers"].append(with_metadata(json.loads(json.dumps(server)), 1))
        found["authorizationpolicies"].append(with_metadata(json.loads(json.dumps(authorization)), 1))
    return found


def happening(pods: int) -> Iterator[tuple[str, bytes]]:
    """Changes without end: a pod is not ready any more and its slice says so, and a second later it is again."""
    versions = itertools.count(2)
    for at in itertools.count():
        for step, ready in ((at, False), (at - CHANGES_PER_SECOND // 4, True)):
            number = step * 37 % pods
            yield "/api/v1/pods", a_pod(number, next(versions), ready=ready)
            slice_ = a_slice(number // PER_SERVICE, next(versions), -1 if ready else number)
            yield "/apis/discovery.k8s.io/v1/endpointslices", slice_


async def measure(pods: int, services: int, policies: int, seconds: float, *, worker: bool) -> dict[str, Any]:
    """One run."""
    server = Server(everything(pods, services, policies))
    prepared = list(itertools.islice(happening(pods), int(seconds * CHANGES_PER_SECOND)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    node = Node(server, worker=worker)
    began = time.process_time()
    await node.source.start()
    listed = time.process_time() - began
    running = spawn(node.source.run(), name="source")
    node.worker_seconds, node.changes = 0.0, 0
    began, at = time.process_time(), time.monotonic()
    for count, (path, raw) in enumerate(prepared):
        await asyncio.sleep(max(0.0, at + count / CHANGES_PER_SECOND - time.monotonic()))
        server.queues[path].put_nowait(b'{"type":"MODIFIED","object":' + raw + b"}")
    await asyncio.sleep(0.5)
    took, wall = time.process_time() - began, time.monotonic() - at
    running.cancel()
    await asyncio.wait([running])
    return {
        "object_bytes": round(sum(len(raw) for _, raw in prepared) / len(prepared)),
        "changes_in_force": node.changes,
        "listing_cpu_seconds": round(listed, 2),
        "supervisor_percent": round((took - node.worker_seconds) / wall * 100, 1),
        "worker_percent": round(node.worker_seconds / wall * 100, 1) if worker else None,
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "memory_mb_before": round(before),
    }


def main() -> None:
    """Measures once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=2_000)
    parser.add_argument("--policies", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--worker", action="store_true", help="a worker's part too, in the same process")
    given = parser.parse_args()
    found = uvloop.run(measure(given.pods, given.services, given.policies, given.seconds, worker=given.worker))
    print(json.dumps({"pods": given.pods, "services": given.services, "policies": given.policies, **found}))


if __name__ == "__main__":
    main()
