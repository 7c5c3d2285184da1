"""Objects as an API server gives them, written short."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from agent.cli.work.check.asking import Cause, Untold
from agent.cli.work.check.seen import Lease, Named, Node, Pod, Workload

NOW = 1_800_000_000.0
UNTOLD = Untold(Cause.TOO_LATE, "the API server did not answer in 10 s")
FORBIDDEN = Untold(Cause.FORBIDDEN, "the API server answers 403 Forbidden: not you")


def at(posix: float) -> str:
    """As Kubernetes writes it."""
    return datetime.fromtimestamp(posix, UTC).isoformat().replace("+00:00", "Z")


def node(name: str, *, kernel: str = "6.1.0-18-amd64", system: str = "linux", ready: bool = True, **more: Any) -> Node:
    info = {
        "kernelVersion": kernel,
        "operatingSystem": system,
        "containerRuntimeVersion": more.get("runtime", "containerd://1.7.1"),
    }
    conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": more.get("labels", {"kubernetes.io/os": system})},
            "spec": {"unschedulable": more.get("cordoned", False)},
            "status": {"nodeInfo": info, "conditions": conditions},
        },
        Node,
    )


def lease(name: str, renewed: float) -> Lease:
    return msgspec.convert({"metadata": {"name": name}, "spec": {"renewTime": at(renewed)}}, Lease)


def namespace(name: str, *, inject: str | None = None, **labels: str) -> Named:
    annotations = {} if inject is None else {"linkerd.io/inject": inject}
    return msgspec.convert({"metadata": {"name": name, "labels": labels, "annotations": annotations}}, Named)


def workload(
    name: str,
    wanted: int = 2,
    ready: int = 2,
    updated: int | None = None,
    *,
    of: str = "quietwire",
    image: str = "it:1",
    **more: Any,
) -> Workload:
    """A Deployment or a DaemonSet: their numbers have other names."""
    updated = wanted if updated is None else updated
    template = {"nodeSelector": more.get("selector", {}), "containers": []}
    template["containers"] = [{"name": "it", "image": image, "args": more.get("args", [])}]
    metadata = {"name": name, "namespace": of, "generation": 2, "labels": {}}
    metadata["labels"] = {"app.kubernetes.io/version": more.get("version", "0.1.0")}
    return msgspec.convert(
        {
            "metadata": metadata,
            "spec": {"replicas": wanted, "template": {"spec": template}},
            "status": {
                "observedGeneration": more.get("observed", 2),
                "readyReplicas": ready,
                "updatedReplicas": updated,
                "desiredNumberScheduled": wanted,
                "numberReady": ready,
                "updatedNumberScheduled": updated,
            },
        },
        Workload,
    )


def pod(name: str, of: str = "demo", **more: Any) -> Pod:
    """A pod that is ready, ten minutes old, and of nobody."""
    owner = more.get("owner")
    conditions = [{"type": "Ready", "status": "True" if more.get("ready", True) else "False"}]
    conditions += [{"type": "quietwire.io/meshed", "status": "True"}] if more.get("meshed") else []
    metadata = {
        "name": name,
        "namespace": of,
        "annotations": more.get("annotations", {}),
        "creationTimestamp": at(NOW - more.get("age", 600)),
        "ownerReferences": [{"kind": owner[0], "name": owner[1]}] if owner else [],
        **({"deletionTimestamp": at(NOW)} if more.get("deleted") else {}),
    }
    init = [{"name": "quietwire-init", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]
    container = {
        "name": more.get("container", "it"),
        "image": more.get("image", "it:1"),
        "securityContext": more.get("security"),
    }
    spec = {
        "nodeName": more.get("node", "one"),
        "hostNetwork": more.get("host_network", False),
        "initContainers": init if more.get("injected") else [],
        "containers": [container],
    }
    status = {"phase": more.get("phase", "Running"), "conditions": [*conditions, *more.get("conditions", [])]}
    status["containerStatuses"] = more.get("containers", [])
    status["initContainerStatuses"] = more.get("inits", [])
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Pod)
