"""What of a cluster stands at some moment, and what of that does not stand later. Pure."""

import datetime
from typing import Any, TypeAlias

from msgspec import Struct

KINDS = ("nodes", "namespaces", "pods", "endpointslices", "leases")
"""What is read of it."""

LEASES = "kube-node-lease"
LEASE_SECONDS = 20.0
"""A kubelet renews its node's every 10 s; 40 s after that the node is unknown ("Node heartbeats")."""
TIME = "%Y-%m-%dT%H:%M:%SZ"
"""RFC 3339: earlier is less."""

Listed: TypeAlias = list[dict[str, Any]]
"""Objects of those kinds, as the API has them."""


class Standing(Struct, frozen=True):
    """Nodes and pods that are ready, and how many endpoints of each service are."""

    nodes: frozenset[str]
    pods: frozenset[str]
    """By their UIDs."""
    endpoints: dict[str, int]
    """By the service, `namespace/name`."""


def standing(listed: Listed) -> Standing:
    """What stands now. Whatever is being deleted does not count, and nothing in a namespace that is."""
    kept = _kept(listed)
    return Standing(
        frozenset(each["metadata"]["name"] for each in kept if each["kind"] == "Node" and _is_ready(each)),
        frozenset(each["metadata"]["uid"] for each in kept if each["kind"] == "Pod" and _is_ready(each)),
        _endpoints(kept),
    )


def fallen(before: Standing, listed: Listed, at: datetime.datetime) -> list[str]:
    """What stood before and does not at a moment; not what is gone, which somebody took away, or replaced.

    A node that has not renewed its lease counts: as soon as somebody looks it is unknown, and none of its pods ready.
    """
    kept = _kept(listed)
    now = standing(listed)
    found = [
        f"{each['kind']} {_name(each)} is not ready" for each in kept if _stood(before, each) and not _is_ready(each)
    ]
    late = (at - datetime.timedelta(seconds=LEASE_SECONDS)).strftime(TIME)
    found += [
        f"Node {each['metadata']['name']} has renewed its lease {each['spec']['renewTime']}"
        for each in kept
        if each["kind"] == "Lease"
        and each["metadata"]["namespace"] == LEASES
        and each["metadata"]["name"] in before.nodes
        and each["spec"]["renewTime"] < late
    ]
    services = {_service(each) for each in kept if each["kind"] == "EndpointSlice"}
    found += [
        f"Service {name} has {now.endpoints.get(name, 0)} of {count} endpoints"
        for name, count in before.endpoints.items()
        if name in services and now.endpoints.get(name, 0) < count
    ]
    return sorted(found)


def told_before(listed: Listed, node: str, moment: datetime.datetime) -> list[str]:
    """Pods of a node of which is told that they have run since before `moment`, when all of it ended."""
    when = moment.strftime(TIME)
    return sorted(
        _name(each)
        for each in _kept(listed)
        if each["kind"] == "Pod"
        and each["spec"].get("nodeName") == node
        and any(
            container["state"].get("running", {}).get("startedAt", when) < when
            for container in each["status"].get("containerStatuses") or []
        )
    )


def _stood(before: Standing, it: dict[str, Any]) -> bool:
    match it["kind"]:
        case "Node":
            return it["metadata"]["name"] in before.nodes
        case "Pod":
            return it["metadata"]["uid"] in before.pods
        case _:
            return False


def _kept(listed: Listed) -> Listed:
    stay = [each for each in listed if "deletionTimestamp" not in each["metadata"]]
    namespaces = {each["metadata"]["name"] for each in stay if each["kind"] == "Namespace"}
    return [each for each in stay if each["metadata"].get("namespace", "") in namespaces | {""}]


def _is_ready(it: dict[str, Any]) -> bool:
    conditions = it.get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _name(it: dict[str, Any]) -> str:
    meta = it["metadata"]
    return "/".join(each for each in (meta.get("namespace"), meta["name"]) if each)


def _service(piece: dict[str, Any]) -> str:
    meta = piece["metadata"]
    return f"{meta['namespace']}/{meta.get('labels', {}).get('kubernetes.io/service-name', meta['name'])}"


def _endpoints(kept: Listed) -> dict[str, int]:
    found: dict[str, int] = {}
    for piece in kept:
        if piece["kind"] == "EndpointSlice":
            ready = sum(bool(each.get("conditions", {}).get("ready")) for each in piece.get("endpoints") or [])
            found[_service(piece)] = found.get(_service(piece), 0) + ready
    return found
