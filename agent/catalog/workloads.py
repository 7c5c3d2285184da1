"""Pods that a Deployment or another controller would make: manifests of a repository have those, and no pods."""

from collections.abc import Iterable
from pathlib import Path

from agent.catalog.document import Field, documents
from agent.catalog.fault import FaultError
from agent.catalog.files import SUFFIXES
from agent.catalog.key import ObjectKey
from agent.catalog.model import Pod
from agent.catalog.objects import RawPod, decode, key_of

_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def templates(paths: Iterable[Path]) -> list[Pod]:
    """The pod of each template in these files and directories; what cannot be read is left out."""
    found: list[Pod] = []
    for path in paths:
        for each in sorted(path.iterdir()) if path.is_dir() else [path]:
            if each.is_file() and (not path.is_dir() or each.name.endswith(SUFFIXES)):
                try:
                    found.extend(pod for document in documents(each.read_bytes()) if (pod := _pod(document)))
                except (FaultError, OSError):
                    continue  # `load` has said so
    return found


def _pod(document: Field) -> Pod | None:
    try:
        key = key_of(document)
        path = _TEMPLATES.get(key.kind)
        if path is None:
            return None
        raw = decode(ObjectKey("Pod", key.namespace, f"{key.kind.lower()}-{key.name}"), document.get(*path))
    except FaultError:
        return None
    return raw.pod if isinstance(raw, RawPod) else None
