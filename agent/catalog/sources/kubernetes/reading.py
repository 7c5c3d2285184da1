"""One object's bytes, as the API sends them, and what they say: pure. Only what is used of it is looked at."""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from agent.kubernetes.kind import Kind
from agent.objects import fields, meanings
from agent.objects.decode import RawObject, RawPod, decode, key_of
from agent.objects.field import FaultError, Field
from agent.objects.key import ObjectKey
from agent.objects.model import MESHED_CONDITION

log = logging.getLogger("quietwire.catalog")

_Shape = Mapping[str, "bool | _Shape"]
"""What is kept of a mapping: by name, all of it, or of what it holds the same again. Lists are looked through."""

_METADATA: _Shape = dict.fromkeys(
    ("name", "namespace", "uid", "labels", "annotations", "creationTimestamp", "deletionTimestamp"), True
)
_HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_CONTAINER: _Shape = dict.fromkeys(("name", "ports", "restartPolicy", *_HANDLERS), True)
_SHAPES: Mapping[str, _Shape] = {
    "Pod": {
        "metadata": _METADATA,
        "spec": {
            **dict.fromkeys(("nodeName", "serviceAccountName", "serviceAccount", "hostNetwork"), True),
            "containers": _CONTAINER,
            "initContainers": _CONTAINER,
        },
        "status": dict.fromkeys(("phase", "podIP", "podIPs", "hostIP", "hostIPs", "conditions", "startTime"), True),
    },
    "Node": {"metadata": _METADATA, "status": {"addresses": True}},
    "Namespace": {"metadata": _METADATA},
}
"""Of the kinds of which there are many, and of which little is used; of others all is kept but `managedFields`."""


class Decoded(Struct, frozen=True):
    """What one object gave: `found`; or a fault, and perhaps what stands in for it; or nothing of use to a mesh."""

    key: ObjectKey
    uid: str = ""
    found: RawObject | None = None
    fault: str = ""
    path: str = ""
    """Of the field at fault, as in `spec.ports[0].port`."""
    stand_in: RawObject | None = None
    remarks: tuple[str, ...] = ()
    started: str = ""
    """When a pod was started, RFC 3339: the later text is the later time."""
    api_version: str = ""


class UnreadableError(Exception):
    """Bytes that are no object with a name: nobody can tell what they are about."""


def key(kind: Kind, raw: bytes) -> ObjectKey:
    """Which object it is. Raises UnreadableError."""
    return _named(kind, _value(raw))[0]


def read(kind: Kind, raw: bytes) -> Decoded:
    """What an object says. Raises UnreadableError."""
    value = _value(raw)
    name, uid = _named(kind, value)
    # What a list holds does not say what it is, and of a fetch of metadata says something else.
    whole = {**value, "kind": kind.kind, "apiVersion": kind.api_version}
    try:
        document = _field(_pruned(whole, _SHAPES.get(kind.kind)), "")
        found = _published(decode(name, document), value)
        remarks = tuple(words for _, words in _remarks(name, document)) if found is not None else ()
        return Decoded(name, uid, found, remarks=remarks, started=_started(value), api_version=kind.api_version)
    except FaultError as fault:
        stand_in = _published(fault.stand_in, value)
        return Decoded(
            *(name, uid, None, fault.reason, fault.path, stand_in),
            started=_started(value),
            api_version=kind.api_version,
        )
    except Exception as error:  # an object that nobody thought of must not end all others
        log.exception("%s could not be read by a fault of ours", name)
        reason = f"cannot be used, by a fault of the agent ({type(error).__name__}: {error})"
        return Decoded(name, uid, None, reason, started=_started(value), api_version=kind.api_version)


def _published(found: RawObject | None, value: Mapping[str, Any]) -> RawObject | None:
    """A pod with what its node's agent said of it in the object."""
    if not isinstance(found, RawPod):
        return found
    status = value.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    said = [
        each.get("status") == "True"
        for each in (conditions if isinstance(conditions, list) else ())
        if isinstance(each, dict) and each.get("type") == MESHED_CONDITION
    ]
    return msgspec.structs.replace(found, pod=msgspec.structs.replace(found.pod, published=any(said)))


def _remarks(name: ObjectKey, document: Field) -> list[tuple[int, str]]:
    said = list(meanings.remarks(name.kind, document))
    # Pods and nodes have been pruned; and of their fields nothing is for who looks after a mesh to mend.
    return said if name.kind in _SHAPES else [*said, *fields.remarks(name.kind, document)]


def _value(raw: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnreadableError(f"no object: {raw[:60]!r}")
    return value


def _named(kind: Kind, value: Mapping[str, Any]) -> tuple[ObjectKey, str]:
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        raise UnreadableError("an object without metadata")
    names = {name: metadata.get(name) for name in ("name", "namespace")}
    shown = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": names}
    uid = metadata.get("uid")
    try:
        return key_of(_field(shown, "")), uid if isinstance(uid, str) else ""
    except FaultError as fault:
        raise UnreadableError(fault.reason) from fault


def _started(value: Mapping[str, Any]) -> str:
    """Empty for what is no pod, or has not been started."""
    status = value.get("status")
    started = status.get("startTime") if isinstance(status, dict) else None
    return started if isinstance(started, str) else ""


def _pruned(value: Any, shape: "bool | _Shape | None") -> Any:
    if shape is None:
        metadata = value.get("metadata")
        return {**value, "metadata": {name: each for name, each in metadata.items() if name != "managedFields"}}
    if shape is True or isinstance(shape, bool):
        return value
    if isinstance(value, list):
        return [_pruned(each, shape) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _pruned(value[name], inner) for name, inner in shape.items() if name in value}
    for name in ("kind", "apiVersion"):
        if name in value:
            kept[name] = value[name]
    return kept


def _field(value: Any, path: str) -> Field:
    """A tree of fields; as deep as the API lets objects be."""
    if isinstance(value, dict):
        stem = f"{path}." if path else ""
        value = {name: _field(each, stem + name) for name, each in value.items()}
    elif isinstance(value, list):
        value = [_field(each, f"{path}[{at}]") for at, each in enumerate(value)]
    return Field(value, 0, path)
