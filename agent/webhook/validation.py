"""What policy says about an object that somebody writes: what `authz check` says of it. Pure.

An object is read as an agent reads it. One that an agent could not use is refused, with the agent's reason. What
depends on other objects (a Server that is not there, pods that nothing selects) is not said: of a file with both,
either may come first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agent.catalog.sources.kubernetes.reading import Decoded, UnreadableError, read
from agent.kubernetes.kind import Kind
from agent.objects.annotations import DISABLED, INJECT
from agent.objects.decode import RawPod
from agent.objects.policy import GATEWAY_GROUP, POLICY_GROUP, PolicyObject
from agent.policy.check import alone, declared
from agent.webhook import review
from agent.webhook.review import UPDATE, Question, allowed, refused, value
from init.constants import INBOUND_PORT, OUTBOUND_PORT

UNNAMED = "unnamed"
"""What a pod is called that the API server has not named yet (`generateName`)."""
_ROUTES = ("HTTPRoute", "GRPCRoute")


def validate(asked: Question, of_namespace: str | None) -> bytes:
    """The answer about an object. `of_namespace`: what its namespace says of being meshed, None where it says nothing.

    Allowed: deletions, status, kinds that mean nothing to a mesh, and changes of nothing that is looked at here. An
    object with a fault that is there already can so be labelled by its controller, and be deleted.
    """
    if not (asked.writes and is_judged(asked)):
        return allowed(asked)
    try:
        sent = value(asked.object)
        former = value(asked.old_object) if asked.operation == UPDATE else None
    except review.UnreadableError as error:
        return refused(asked, str(error))
    if not isinstance(sent, dict):
        return refused(asked, "request.object is no object")
    if former is not None and (_leaves(sent) or _judged(sent) == _judged(former)):
        return allowed(asked)
    try:
        decoded = read(_kind(asked), msgspec.json.encode(_named(asked, sent)))
    except UnreadableError as error:
        return refused(asked, str(error))
    if decoded.fault:
        # Its path is in the reason; its name the API server says.
        return refused(asked, decoded.fault, warnings=decoded.remarks)
    return allowed(asked, warnings=[*_odd(decoded, of_namespace), *decoded.remarks])


def is_judged(asked: Question) -> bool:
    """Whether it is of a kind that is looked at."""
    group, kind = asked.kind.group, asked.kind.kind
    return group == POLICY_GROUP or (group, kind) in {
        ("", "Pod"),
        ("", "Namespace"),
        *((GATEWAY_GROUP, route) for route in _ROUTES),
    }


def _kind(asked: Question) -> Kind:
    return Kind(asked.kind.group, asked.kind.version, "", asked.kind.kind)


def _named(asked: Question, sent: dict[str, Any]) -> dict[str, Any]:
    """The object under the name that it is to have, where it does not say it yet."""
    metadata = sent.get("metadata")
    if not isinstance(metadata, dict):
        return sent
    name = metadata.get("name") or asked.name or UNNAMED
    return {**sent, "metadata": {**metadata, "name": name, "namespace": asked.namespace or metadata.get("namespace")}}


def _leaves(sent: Mapping[str, Any]) -> bool:
    """It is being deleted, and waits for its finalizers only."""
    metadata = sent.get("metadata")
    return isinstance(metadata, dict) and metadata.get("deletionTimestamp") is not None


def _judged(document: Any) -> Any:
    """What of an object can be at fault: neither its status nor its labels, which controllers write."""
    if not isinstance(document, dict):
        return document
    metadata = document.get("metadata")
    kept = metadata.get("annotations") if isinstance(metadata, dict) else metadata
    return {**{name: each for name, each in document.items() if name != "status"}, "metadata": kept}


def _odd(decoded: Decoded, of_namespace: str | None) -> Iterator[str]:
    """Legal, and surely not meant."""
    if isinstance(decoded.found, PolicyObject):
        yield from (finding.message for finding in alone(decoded.found))
    elif isinstance(decoded.found, RawPod):
        asks = decoded.found.own.get(INJECT, of_namespace)
        if asks not in {None, DISABLED}:  # and `declared` leaves out the host's network
            yield from (each.message for each in declared([decoded.found.pod], (OUTBOUND_PORT, INBOUND_PORT)))
