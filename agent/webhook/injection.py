"""Which pods get an init container that captures them, and the patch that adds it. Pure.

A pod is injected as `linkerd.io/inject` says: its own, or else its namespace's (docs/words.md). What cannot be
understood is taken for a wish to be meshed: a pod that waits in vain is noticed, one that is open is not. One with
Linkerd's proxy is Linkerd's, whichever webhook came first.
"""

import re
from typing import Any

from msgspec import Struct

from agent.objects.annotations import DISABLED, INJECT
from agent.objects.model import LINKERDS_PROXY
from agent.webhook.review import CREATE, Question, UnreadableError, allowed, refused, value
from init.constants import AGENT_SOCKET

CONTAINER = "quietwire-init"
VOLUME = "quietwire-enrol"
ENROL_SECONDS = 300
"""How long an init container waits before it fails, and is started again by the kubelet unless its pod says never."""
ENROL_DIRECTORY = AGENT_SOCKET.rpartition("/")[0]
PODS = "Pod"
ENOUGH = {"cpu": "100m", "memory": "64Mi"}
"""The least limits that rules can be written in, within a second or two."""
LEFT_TO_LINKERD = (
    f"it has Linkerd's proxy (a container {LINKERDS_PROXY}), and is left to Linkerd: it is not meshed here"
)
_UNITS = {
    "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)},
}  # fmt: skip
_QUANTITY = re.compile(r"(\d{1,18}(\.\d{0,9})?([eE][+-]?\d{1,2})?)(m|[kMGTPE]|[KMGTPE]i)?")
"""A resource's amount (apimachinery's resource.Quantity); one that is negative is none."""


class InjectionSettings(Struct, frozen=True, kw_only=True):
    """What the init container is made of. The enrolment directory is the node's, and where the pod has it."""

    image: str
    pull_policy: str = "IfNotPresent"
    enrol_directory: str = ENROL_DIRECTORY
    enrol_seconds: int = ENROL_SECONDS


def mutate(asked: Question, of_namespace: str | None, settings: InjectionSettings) -> bytes:
    """The answer about a pod. `of_namespace`: what its namespace says, None where it says nothing."""
    if asked.operation != CREATE or asked.sub_resource or (asked.kind.group, asked.kind.kind) != ("", PODS):
        return allowed(asked)
    try:
        pod = value(asked.object)
        if not is_injected(pod, of_namespace):
            return allowed(asked)
        if is_linkerds(pod["spec"]):
            return allowed(asked, patch=without(pod["spec"]), warnings=[LEFT_TO_LINKERD])
        return allowed(asked, patch=patch(pod["spec"], settings))
    except (UnfitError, UnreadableError) as error:
        return refused(asked, str(error))


class UnfitError(ValueError):
    """A pod that is to be captured and cannot be; `str` says why."""


def is_injected(pod: Any, of_namespace: str | None) -> bool:
    """Whether a pod is to be captured. Raises UnfitError for what is no pod."""
    if not isinstance(pod, dict) or not isinstance(pod.get("spec"), dict):
        raise UnfitError("the pod has no spec")
    metadata = pod.get("metadata")
    said = metadata.get("annotations") if isinstance(metadata, dict) else None
    own = said.get(INJECT) if isinstance(said, dict) else None
    asks = of_namespace if own is None else own
    return asks is not None and asks != DISABLED and pod["spec"].get("hostNetwork") is not True


def is_linkerds(spec: dict[str, Any]) -> bool:
    """Whether Linkerd's proxy is in a pod. Raises UnfitError."""
    return any(_named(spec, field, LINKERDS_PROXY) is not None for field in ("containers", "initContainers"))


def without(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """What takes out our init container and its volume, where we were asked before Linkerd. Raises UnfitError."""
    there = [(field, _named(spec, field, name)) for field, name in (("initContainers", CONTAINER), ("volumes", VOLUME))]
    return [_step("remove", f"{field}/{found[0]}") for field, found in there if found is not None]


def patch(spec: dict[str, Any], settings: InjectionSettings) -> list[dict[str, Any]]:
    """What makes our init container the first, and gives it its volume. Raises UnfitError.

    One that is there already is left as it is, and put first where somebody else has put another before it: sidecars
    start in the order of the list, and what they send must be captured.
    """
    there = _named(spec, "initContainers", CONTAINER)
    steps: list[dict[str, Any]] = []
    if there is None:
        steps += _added(spec, "initContainers", "0", container(settings, resources(spec)))
    elif there[0] > 0:
        steps += [_step("remove", f"initContainers/{there[0]}"), _step("add", "initContainers/0", there[1])]
    wanted = volume(settings)
    has = _named(spec, "volumes", VOLUME)
    if has is None:
        steps += _added(spec, "volumes", "-", wanted)
    elif there is None and has[1] != wanted:
        raise UnfitError(f"the pod has a volume {VOLUME} of its own, and the node's agent is met by one of that name")
    return steps


def _named(spec: dict[str, Any], field: str, name: str) -> tuple[int, Any] | None:
    """Where in a list of the spec an element of this name is, and the element. Raises UnfitError."""
    found = spec.get(field)
    if found is not None and not isinstance(found, list):
        raise UnfitError(f"spec.{field} is no list")
    for at, each in enumerate(found or ()):
        if isinstance(each, dict) and each.get("name") == name:
            return at, each
    return None


def _added(spec: dict[str, Any], field: str, at: str, element: dict[str, Any]) -> list[dict[str, Any]]:
    """A list that is not there, or is null, is made."""
    return [_step("add", field, [element]) if spec.get(field) is None else _step("add", f"{field}/{at}", element)]


def _step(operation: str, path: str, element: Any = None) -> dict[str, Any]:
    return {"op": operation, "path": f"/spec/{path}", **({} if element is None else {"value": element})}


def resources(spec: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What the init container requests, and its limits: what every container of the pod has, the largest of each.

    So it costs a node nothing: what counts for a pod is what its containers request together, or its init container
    alone if that is more. A pod is of the class that it was (Guaranteed, Burstable, BestEffort), and where a quota
    wants all containers to say something, this one does. A limit that is too small to write rules in is raised, and
    with it a request that was the same.
    """
    containers = spec.get("containers")
    each = [_resources_of(one) for one in containers] if isinstance(containers, list) else []
    found: dict[str, dict[str, str]] = {}
    for what in ("requests", "limits"):
        for name in ENOUGH:
            said = [one.get(what, {}).get(name) for one in each]
            values = [text for text in said if isinstance(text, str) and quantity(text) is not None]
            if said and len(values) == len(said):
                found.setdefault(what, {})[name] = max(values, key=lambda text: quantity(text) or 0.0)
    for name, enough in ENOUGH.items():
        limit, request = found.get("limits", {}).get(name), found.get("requests", {}).get(name)
        if limit is None or (quantity(limit) or 0.0) >= (quantity(enough) or 0.0):
            continue
        found["limits"][name] = enough
        if request == limit:
            found["requests"][name] = enough
    return found


def _resources_of(one: Any) -> dict[str, dict[str, Any]]:
    said = one.get("resources") if isinstance(one, dict) else None
    return {what: part for what, part in said.items() if isinstance(part, dict)} if isinstance(said, dict) else {}


def quantity(text: str) -> float | None:
    """The number that a quantity stands for, as in `100m`, `1.5`, `64Mi`, `1e3`; None where it is none."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    return float(found[1]) * (_UNITS[found[4]] if found[4] else 1.0)


def container(settings: InjectionSettings, resources: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The init container: root in its pod for the rules, and nothing more than that."""
    return {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": [
            "init",
            "apply",
            "--enrol",
            f"{settings.enrol_directory}/{AGENT_SOCKET.rpartition('/')[2]}",
            "--enrol-timeout",
            str(settings.enrol_seconds),
            # For its messages, and because a pod that has none yet may be about to be made under this name: the agent
            # believes the kubelet's cgroup, and refuses who says that he is another.
            "--pod",
            "$(POD_NAMESPACE)/$(POD_NAME)",
        ],
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
            for name, path in (("POD_NAMESPACE", "metadata.namespace"), ("POD_NAME", "metadata.name"))
        ],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            # NET_ADMIN counts for who has it, and execve(2) gives it to root alone; whatever the pod says of itself.
            "runAsNonRoot": False,
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": settings.enrol_directory, "readOnly": True}],
    }


def volume(settings: InjectionSettings) -> dict[str, Any]:
    """The directory, and not the socket, which an agent makes anew when it starts. Where none is, the pod waits."""
    return {"name": VOLUME, "hostPath": {"path": settings.enrol_directory, "type": "Directory"}}
