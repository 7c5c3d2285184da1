"""What each of Linkerd's annotations and labels means here, and our own: one table, which docs/annotations.md repeats.

A wish that nobody carries out is said, with file and line. One that is not said right and that would have closed
something (`narrows`) is a fault, and what it stands on is closed: nobody may take it for being in force.
"""

import difflib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct

from agent.objects import annotations
from agent.objects.field import FaultError, Field, readable


class Meaning(StrEnum):
    """What becomes of an annotation, or of a label."""

    HONOURED = "honoured"
    NOTHING = "no meaning here"
    """Said as a warning."""
    RECORD = "a record"
    """Written by Linkerd itself about what it did; it asks for nothing, and nothing is said."""


class Known(Struct, frozen=True):
    """One name: what it means, why or how, the kinds on which it is read, and whether it keeps anybody out.

    `label`: it is read as a label, and not as an annotation.
    """

    meaning: Meaning
    why: str
    kinds: tuple[str, ...] = ()
    narrows: bool = False
    label: bool = False


POD, NAMESPACE = "Pod", "Namespace"
_BOTH = (POD, NAMESPACE)
_SIDECAR = "it is about a sidecar or its containers, and there is none: one agent serves the node"
_FLAG = "it is a matter of the agent, for all pods of a node"
_HTTP = "it is about requests, and this version relays connections"
_IDENTITY = "every meshed pod has an identity and speaks mTLS"
_OBSERVE = "nothing is tapped or traced"
_CLUSTERS = "there is one cluster"
_DETECTION = "a connection is told by its first bytes, and the wait for them is bounded"


def _all(prefix: str, why: str, names: str, meaning: Meaning = Meaning.NOTHING) -> dict[str, Known]:
    return {f"{prefix}/{name}": Known(meaning, why) for name in names.split()}


NAMES: dict[str, Known] = {
    annotations.INJECT: Known(
        Meaning.HONOURED,
        "enabled and ingress: meshed; disabled: not; without it: meshed on a host, and not in a cluster",
        _BOTH,
    ),
    annotations.SKIP_INBOUND: Known(Meaning.HONOURED, "inbound ports that are not captured", _BOTH),
    annotations.SKIP_OUTBOUND: Known(Meaning.HONOURED, "outbound ports that are not captured", _BOTH),
    annotations.SKIP_SUBNETS: Known(Meaning.HONOURED, "peers that are not captured, in both directions", _BOTH),
    annotations.OPAQUE: Known(
        Meaning.HONOURED, "every port is relayed as the bytes that come, so these are too", (*_BOTH, "Service")
    ),
    annotations.DEFAULT_POLICY: Known(
        Meaning.HONOURED, "what holds for ports that no Server selects", _BOTH, narrows=True
    ),
    annotations.REQUIRE_IDENTITY: Known(
        Meaning.HONOURED, "ports on which the default policy demands an identity", _BOTH, narrows=True
    ),
    annotations.EGRESS_MODE: Known(Meaning.HONOURED, "allow or meshed-only", _BOTH, narrows=True),
    annotations.LEFT_BY_LINKERD: Known(
        Meaning.HONOURED,
        "a label; disabled: Linkerd leaves the namespace alone, and beside Linkerd only such a one is meshed here",
        (NAMESPACE,),
        label=True,
    ),
    annotations.NETNS: Known(Meaning.HONOURED, "the pod's network namespace, a name or a path", (POD,)),
    **_all(
        "config.linkerd.io",
        _SIDECAR,
        """
        proxy-image proxy-version image-pull-policy init-image init-image-version pod-inbound-ports
        debug-image debug-image-version debug-image-pull-policy enable-debug-sidecar proxy-await proxy-admin-shutdown
        proxy-cpu-limit proxy-cpu-request proxy-cpu-ratio-limit proxy-memory-limit proxy-memory-request
        proxy-ephemeral-storage-limit proxy-ephemeral-storage-request proxy-uid proxy-gid
        """,
    ),
    **_all("config.alpha.linkerd.io", _SIDECAR, "proxy-wait-before-exit-seconds proxy-enable-native-sidecar"),
    **_all("config.beta.linkerd.io", _SIDECAR, "proxy-enable-native-sidecar"),
    **_all(
        "config.linkerd.io",
        _FLAG,
        """
        admin-port control-port inbound-port outbound-port access-log close-wait-timeout shutdown-grace-period
        proxy-log-level proxy-log-format proxy-log-http-headers
        proxy-inbound-connect-timeout proxy-outbound-connect-timeout
        proxy-inbound-discovery-cache-unused-timeout proxy-outbound-discovery-cache-unused-timeout
        """,
    ),
    **_all(
        "config.linkerd.io",
        _DETECTION,
        "proxy-disable-inbound-protocol-detect-timeout proxy-disable-outbound-protocol-detect-timeout",
    ),
    **_all("config.linkerd.io", _IDENTITY, "disable-identity"),
    **_all("linkerd.io", _IDENTITY, "identity-mode"),
    **_all("config.linkerd.io", _OBSERVE, "disable-tap trace-collector trace-collector-protocol"),
    **_all("config.alpha.linkerd.io", _OBSERVE, "trace-collector-service-account"),
    **_all("config.linkerd.io", _HTTP, "enable-external-profiles enable-gateway"),
    **_all(
        "balancer.linkerd.io",
        _HTTP,
        """
        failure-accrual failure-accrual-consecutive-max-failures failure-accrual-consecutive-min-penalty
        failure-accrual-consecutive-max-penalty failure-accrual-consecutive-jitter-ratio
        """,
    ),
    **_all(
        "balancer.alpha.linkerd.io",
        _HTTP,
        """
        failure-accrual-success-rate-threshold failure-accrual-success-rate-window
        failure-accrual-success-rate-min-requests
        """,
    ),
    **_all("retry.linkerd.io", _HTTP, "http grpc limit timeout"),
    **_all("timeout.linkerd.io", _HTTP, "request response idle"),
    **_all(
        "linkerd.io",
        "Linkerd says with it what it did, or what is its own",
        """
        created-by proxy-version identity-issuer-expiry trust-root-sha256 helm-release-version is-control-plane
        extension control-plane-component control-plane-ns workload-ns proxy-deployment proxy-replicaset
        proxy-replicationcontroller proxy-statefulset proxy-daemonset proxy-job proxy-cronjob
        """,
        Meaning.RECORD,
    ),
}
"""By name. Annotations, and among the records labels."""

FAMILIES: dict[str, Known] = {
    "viz.linkerd.io/": Known(Meaning.NOTHING, _OBSERVE),
    "jaeger.linkerd.io/": Known(Meaning.NOTHING, _OBSERVE),
    "mirror.linkerd.io/": Known(Meaning.NOTHING, _CLUSTERS),
    "multicluster.linkerd.io/": Known(Meaning.NOTHING, _CLUSTERS),
}
"""By what a name begins with: extensions of Linkerd's, whatever they say."""

DOMAINS = ("linkerd.io", "quietwire.io")
MAX_NAME = 253 + 1 + 63
"""Characters of an annotation's name: a DNS name, a slash, a name (Kubernetes). What is longer is not compared."""
SLIP = 0.85
"""How like a known name an unknown one of `DOMAINS` must be to be taken for a slip of it (1: the same)."""
FOREIGN_SLIP = 0.9
"""The same of all other names."""


def known(name: str) -> Known | None:
    """What a name means; None where it is unknown, whoever's it may be."""
    return NAMES.get(name) or next((each for prefix, each in FAMILIES.items() if name.startswith(prefix)), None)


@lru_cache(maxsize=4096)
def meant(name: str) -> str:
    """The known name that an unknown one is a slip of, surely; empty where it is none.

    One that keeps somebody out goes before one that is more alike: to be wrong about that costs a closed pod.
    """
    if len(name) > MAX_NAME:
        return ""
    lower, cutoff = name.lower(), SLIP if is_ours(name) else FOREIGN_SLIP
    under_another_prefix = [each for each in NAMES if is_ours(name) and _local(each) == _local(lower)]
    narrowing = [each for each, what in NAMES.items() if what.narrows]
    found = (
        under_another_prefix
        or difflib.get_close_matches(lower, narrowing, n=1, cutoff=cutoff)
        or difflib.get_close_matches(lower, NAMES, n=1, cutoff=cutoff)
    )
    return found[0] if found else ""


def _local(name: str) -> str:
    return name.rpartition("/")[2]


def is_ours(name: str) -> bool:
    """Whether a name is of Linkerd's domain, or of our own."""
    prefix, slash, _ = name.partition("/")
    return bool(slash) and any(prefix == domain or prefix.endswith(f".{domain}") for domain in DOMAINS)


def check(fields: Mapping[str, Field]) -> None:
    """Raises FaultError where an annotation is a slip of one that would keep somebody out."""
    for name, field in fields.items():
        if known(name) is None and (right := meant(name)) and NAMES[right].narrows:
            raise FaultError(
                field,
                f"there is no {name[:MAX_NAME]}, and {right} is surely meant: without it more would be let through",
            )


def remarks(kind: str, document: Field) -> Iterator[tuple[int, str]]:
    """What an object's annotations and labels ask for and do not get: lines, from 1 or 0 for unknown, and words."""
    own = readable(document.get("metadata", "annotations").mapping, dict[str, Field]())
    for name, field in own.items():
        said = _of_annotation(kind, name)
        if said:
            yield field.line, said
    if kind in _BOTH:
        for field, note in annotations.notes(own):
            yield field.line, note
    if kind == POD and readable(lambda: document.get("spec", "hostNetwork").flag(default=False), False):
        wish = own.get(annotations.INJECT)
        if wish is not None and wish.value != annotations.DISABLED:
            yield wish.line, f"{annotations.INJECT} has no meaning on the host's network: the pod is not meshed"
    for name, field in readable(document.get("metadata", "labels").mapping, dict[str, Field]()).items():
        found = known(name)
        if found is not None and found.label and kind in found.kinds:
            continue
        if found is not None and found.meaning is Meaning.HONOURED and not found.label:
            yield field.line, f"{name} is a label here, and has no meaning as one: write it as an annotation"
        elif said := _of_annotation(kind, name):
            yield field.line, said


def _of_annotation(kind: str, name: str) -> str:
    found = known(name)
    if found is None:
        right = meant(name)
        if not right and not is_ours(name):
            return ""
        nearest = f"; is {right} meant?" if right else ""
        return f"{name[:MAX_NAME]} is not known, and has no meaning here{nearest}"
    if found.meaning is Meaning.NOTHING:
        return f"{name[:MAX_NAME]} has no meaning here: {found.why}"
    if found.label and kind in found.kinds:
        return f"{name} is an annotation here, and has no meaning as one: write it as a label"
    if found.meaning is Meaning.HONOURED and kind not in found.kinds:
        return f"{name} has no meaning on a {kind}: it is read on a {' or a '.join(found.kinds)}"
    return ""
