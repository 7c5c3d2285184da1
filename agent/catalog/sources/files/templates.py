"""Pods that a Deployment or another controller would make: manifests of a repository have those, and no pods."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from agent.catalog.sources.files.directory import SUFFIXES
from agent.manifests.document import documents
from agent.manifests.fault import Fault, Remark
from agent.manifests.origin import Origin
from agent.objects import fields, meanings
from agent.objects.decode import RawPod, decode, key_of
from agent.objects.field import FaultError, Field
from agent.objects.key import ObjectKey

_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


class Templates(Struct, frozen=True):
    """One pod for each template, under the name of its controller, and what cannot be used."""

    pods: dict[ObjectKey, RawPod]
    faults: tuple[Fault, ...]
    remarks: tuple[Remark, ...]


def templates(paths: Iterable[Path], there: Collection[ObjectKey] = ()) -> Templates:
    """The pod of each template in these files and directories.

    Deployment shop/web gives pod shop/web. Where that name is a real pod's already, or that of a controller that came
    before, it is shop/deployment-web. A file that cannot be parsed is left out: `load` says so.
    """
    pods: dict[ObjectKey, RawPod] = {}
    faults: list[Fault] = []
    remarks: list[Remark] = []
    for file, document in _documents(paths):
        kind = document.get("kind").value if isinstance(document.value, dict) else None
        path = _TEMPLATES.get(kind) if isinstance(kind, str) else None
        if path is None:
            continue  # `load` says what is wrong with any other
        try:
            controller = key_of(document)
        except FaultError as fault:
            faults.append(Fault(Origin(str(file), fault.line or document.line), "", fault.reason))
            continue
        name = ObjectKey("Pod", controller.namespace, controller.name)
        if name in there or name in pods:
            name = ObjectKey("Pod", controller.namespace, f"{controller.kind.lower()}-{controller.name}")
        if name in there or name in pods:
            continue  # the same document twice
        try:
            raw = decode(name, document.get(*path))
        except FaultError as fault:
            raw = fault.stand_in
            line = fault.line or document.line
            faults.append(Fault(Origin(str(file), line), str(controller), fault.reason, closed=raw is not None))
        if isinstance(raw, RawPod):
            pods[name] = raw
            template = document.get(*path)
            said = [
                *meanings.remarks(controller.kind, document),
                *meanings.remarks("Pod", template),
                *fields.remarks("Pod", template),
            ]
            remarks.extend(
                Remark(Origin(str(file), line or document.line), str(controller), words) for line, words in said
            )
    return Templates(pods, tuple(faults), tuple(remarks))


def _documents(paths: Iterable[Path]) -> Iterator[tuple[Path, Field]]:
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for each in inside:
            if path.is_dir() and (not each.name.endswith(SUFFIXES) or each.name.startswith(".")):
                continue
            try:
                found = documents(each.read_bytes())
            except (FaultError, OSError):
                continue  # `load` says so, and closes what it may be about
            yield from ((each, document) for document in found)
