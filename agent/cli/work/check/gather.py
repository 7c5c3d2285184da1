"""Asks the API server for all that is judged, several things at once. Reads no Secret, and changes nothing."""

import time
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec
from msgspec import Struct

from agent.authority.kubernetes.bundle_maps import CONFIG_MAPS, NAME
from agent.catalog.sources.kubernetes.kinds import ENDPOINT_SLICES, NAMESPACES, NODES, PODS
from agent.cli.work.check.asking import Asking, Cause, Untold
from agent.cli.work.check.cluster import PART_OF
from agent.cli.work.check.expected import GIVES_MORE, ROLES, Expected, given, needed
from agent.cli.work.check.seen import (
    After,
    Before,
    Binding,
    ConfigMap,
    Configuration,
    Definition,
    EndpointSlice,
    Event,
    Lease,
    Listed,
    Named,
    Node,
    One,
    Permission,
    Pod,
    Role,
    Server,
    Workload,
)
from agent.kubernetes.kind import Kind
from agent.tasks import spawn

T = TypeVar("T")

DEFINITIONS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
DAEMON_SETS = Kind("apps", "v1", "daemonsets", "DaemonSet")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
EVENTS = Kind("", "v1", "events", "Event")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
ACCESS_REVIEWS = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview")
SELF_REVIEWS = Kind("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview")
RBAC, ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
OURS = {"labelSelector": f"{PART_OF}=quietwire"}
LINKERDS = {"labelSelector": "linkerd.io/control-plane-component"}
NOT_ENDED = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
EVERYTHING = Permission("*", "*", "*")


class _Version(Struct, frozen=True, rename={"git": "gitVersion"}):
    git: str = ""


class _User(Struct, frozen=True):
    username: str = ""


class _Info(Struct, frozen=True, rename={"info": "userInfo"}):
    info: _User = _User()


class _Self(Struct, frozen=True):
    status: _Info = _Info()


class _Allowed(Struct, frozen=True):
    allowed: bool = False


class _Review(Struct, frozen=True):
    status: _Allowed = _Allowed()


async def server(asking: Asking, address: str, clock: Callable[[], float] = time.time) -> Server | Untold:
    """The first question: who answers, in which version, and as whom we are known."""
    asked = clock()
    answer = await asking.exchange("GET", "/version")
    answered = clock()
    if isinstance(answer, Untold):
        return answer
    try:
        version = msgspec.json.decode(answer.body, type=_Version).git
    except (msgspec.MsgspecError, UnicodeDecodeError):  # no Kubernetes: nothing else is asked
        version = ""
    if not version:
        return Untold(Cause.NOT_SERVED, "what answers says no version of Kubernetes")
    review = await asking.post(
        SELF_REVIEWS.path, {"apiVersion": SELF_REVIEWS.api_version, "kind": SELF_REVIEWS.kind}, _Self
    )
    user = review if isinstance(review, Untold) else review.status.info.username
    return Server(address, version, user, clock_ahead(answer.date, asked, answered))


def clock_ahead(date: str, asked: float, answered: float) -> float | None:
    """Seconds that the server's clock is ahead; None where it does not say. A Date is the second that has begun."""
    try:
        said = parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:  # is told as not known
        return None
    return None if said is None else said + 0.5 - (asked + answered) / 2


async def before(asking: Asking, found: Server, wanted: Expected) -> Before:
    """What is seen before an installation."""
    missing = spawn(_missing(asking, wanted), name="rights")
    nodes = spawn(asking.list(NODES.kind, Node), name="nodes")
    namespace = spawn(asking.get(NAMESPACES.kind.path_of("", wanted.namespace), Named), name="namespace")
    definitions = spawn(_definitions(asking, wanted), name="definitions")
    daemon_sets = spawn(asking.list(DAEMON_SETS, Workload, **OURS), name="daemon sets")
    linkerd = spawn(asking.list(DEPLOYMENTS, Workload, **LINKERDS), name="linkerd")
    return Before(
        server=found,
        missing=await missing,
        nodes=await nodes,
        namespace=await namespace,
        definitions=await definitions,
        daemon_sets=await daemon_sets,
        linkerd=await linkerd,
    )


async def after(asking: Asking, found: Server, wanted: Expected) -> After:
    """What is seen of an installation."""
    where = wanted.namespace
    nodes = spawn(asking.list(NODES.kind, Node), name="nodes")
    leases = spawn(asking.list(LEASES, Lease, "kube-node-lease"), name="leases")
    namespaces = spawn(asking.list(NAMESPACES.kind, Named), name="namespaces")
    pods = spawn(asking.list(PODS.kind, Pod, **NOT_ENDED), name="pods")
    definitions = spawn(_definitions(asking, wanted), name="definitions")
    daemon_sets = spawn(asking.list(DAEMON_SETS, Workload, **OURS), name="daemon sets")
    deployments = spawn(asking.list(DEPLOYMENTS, Workload, **OURS), name="deployments")
    linkerd = spawn(asking.list(DEPLOYMENTS, Workload, **LINKERDS), name="linkerd")
    events = spawn(asking.list(EVENTS, Event, where, fieldSelector="type=Warning"), name="events")
    slices = spawn(asking.list(ENDPOINT_SLICES.kind, EndpointSlice, where), name="slices")
    bundle = spawn(asking.get(CONFIG_MAPS.path_of(where, NAME), ConfigMap), name="bundle")
    roles = {key: spawn(asking.get(_path(RBAC, *key, where), Role), name=key[1]) for key in wanted.roles}
    bindings = {key: spawn(asking.get(_path(RBAC, *key, where), Binding), name=key[1]) for key in wanted.bindings}
    configurations = {
        kind: spawn(asking.get(_path(ADMISSION, kind, each.metadata.name), Configuration), name=kind)
        for kind, each in wanted.configurations.items()
    }
    return After(
        server=found,
        nodes=await nodes,
        leases=await leases,
        namespaces=await namespaces,
        pods=await pods,
        definitions=await definitions,
        daemon_sets=await daemon_sets,
        deployments=await deployments,
        linkerd=await linkerd,
        events=await events,
        slices=await slices,
        bundle=await bundle,
        configurations={kind: await each for kind, each in configurations.items()},
        roles={key: await each for key, each in roles.items()},
        bindings={key: await each for key, each in bindings.items()},
    )


def _path(group: str, kind: str, name: str, namespace: str = "") -> str:
    where = namespace if kind in {"Role", "RoleBinding"} else ""
    return Kind(group, "v1", f"{kind.lower()}s", kind).path_of(where, name)


async def _definitions(asking: Asking, wanted: Expected) -> Listed[Definition]:
    """By their names: a cluster may have hundreds, of 100 kB each."""
    return _there(
        [
            await each
            for each in [
                spawn(asking.get(DEFINITIONS.path_of("", name), Definition), name=name) for name in wanted.definitions
            ]
        ]
    )


def _there(found: Iterable[One[T]]) -> Listed[T]:
    there: list[T] = []
    for each in found:
        if isinstance(each, Untold):
            return each
        if each is not None:
            there.append(each)
    return tuple(there)


async def _missing(asking: Asking, wanted: Expected) -> Listed[Permission]:
    """What the caller may not. Who may do everything is asked once, and no more."""
    if await _may(asking, EVERYTHING) is True:
        return ()
    lacking = await _lacking(asking, needed(wanted))
    if isinstance(lacking, Untold):
        return lacking
    cannot_make = {each.resource for each in lacking if each.group == RBAC}
    for kind, plural in ROLES.items():
        if plural in cannot_make:
            continue
        gives_more = await _lacking(asking, [Permission(RBAC, plural, verb) for verb in GIVES_MORE])
        if gives_more == ():
            continue
        more = await _lacking(asking, given(wanted, kind))
        if isinstance(more, Untold):
            return more
        lacking += more
    return lacking


async def _lacking(asking: Asking, asked: Iterable[Permission]) -> Listed[Permission]:
    answers = {each: spawn(_may(asking, each), name=str(each)) for each in sorted(asked)}
    told = {each: await answer for each, answer in answers.items()}
    for may in told.values():
        if isinstance(may, Untold):
            return may
    return tuple(each for each, may in told.items() if not may)


async def _may(asking: Asking, permission: Permission) -> bool | Untold:
    resource, _, sub = permission.resource.partition("/")
    attributes = {
        "group": permission.group,
        "resource": resource,
        "subresource": sub,
        "verb": permission.verb,
        "namespace": permission.namespace,
        "name": permission.name,
    }
    review = {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    answer = await asking.post(ACCESS_REVIEWS.path, review, _Review)
    return answer if isinstance(answer, Untold) else answer.status.allowed
