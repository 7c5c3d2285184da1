"""Policy that is legal and surely not meant: pure, over what there is."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator

from msgspec import Struct

from agent.objects.key import ObjectKey
from agent.objects.model import Pod
from agent.objects.policy import (
    AuthorizationPolicy,
    BrokenServer,
    HttpLayer,
    MeshTLSAuthentication,
    NetworkAuthentication,
    NetworkRange,
    PolicyObject,
    Ref,
    Route,
    Server,
    ServerAuthorization,
    TargetKind,
)
from agent.policy.index import by_port, ports_of

SHOWN = 3
"""Pods that one finding names."""


class Finding(Struct, frozen=True, order=True):
    """One object, and what is odd about it."""

    object: ObjectKey
    message: str

    def __str__(self) -> str:
        return f"{self.object}: {self.message}"


def findings(pods: Iterable[Pod], policies: Iterable[PolicyObject]) -> tuple[Finding, ...]:
    """Everything that is odd, sorted. Without a single pod, nothing is said about what Servers select."""
    here: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        here[pod.namespace].append(pod)
    known = {policy.key: policy for policy in policies}
    servers: dict[str, list[Server]] = defaultdict(list)
    for policy in known.values():
        if isinstance(policy, Server):
            servers[policy.namespace].append(policy)
    found: list[Finding] = []
    if here:
        for namespace, those in servers.items():
            found.extend(_selection(those, here.get(namespace, [])))
    routed = _routed(known.values())
    for key, policy in known.items():
        found.extend(Finding(key, message) for message in _messages(policy, known, servers[key.namespace], routed))
    return tuple(sorted(found))


def alone(policy: PolicyObject) -> tuple[Finding, ...]:
    """What is odd about one object whatever else there is: some of its `findings`. Sorted."""
    return tuple(sorted(Finding(policy.key, message) for message in _of_itself(policy)))


def probed(pods: Iterable[Pod], policies: Iterable[PolicyObject]) -> tuple[Finding, ...]:
    """Servers on ports that probes go to as well: their authorizations are not all that lets in there. Sorted.

    Apart from `findings`, because it is no mistake in what runs: it is worth a thought when policy is written.
    """
    servers: defaultdict[str, list[Server]] = defaultdict(list)
    for policy in policies:
        if isinstance(policy, Server):
            servers[policy.namespace].append(policy)
    there: defaultdict[tuple[ObjectKey, int], list[str]] = defaultdict(list)
    for pod in pods:
        for server in servers.get(pod.namespace, ()) if pod.probe_ports else ():
            if server.selector is not None and server.selector.matches(pod.labels):
                for port in set(ports_of(pod, server)) & set(pod.probe_ports):
                    there[server.key, port].append(pod.key)
    return tuple(
        sorted(
            Finding(
                key,
                f"port {port} of {_shown(those)} is a probe's port too: from the node's own addresses, where traffic "
                f"of a NodePort or of masquerading comes from as well, plaintext reaches it whatever is authorized. "
                f"Give the probe a port of its own if that is too much",
            )
            for (key, port), those in there.items()
        )
    )


def declared(pods: Iterable[Pod], ports: tuple[int, int]) -> tuple[Finding, ...]:
    """Pods that declare a port on which the agent listens in each of them, by its flags. Sorted."""
    return tuple(
        sorted(
            Finding(
                ObjectKey("Pod", pod.namespace, pod.name),
                f"it declares port {port}, where the agent listens in each pod. If it listens there too, the agent "
                f"takes others in it, and says so; --outbound-port and --inbound-port move the agent's on this node",
            )
            for pod in pods
            if pod.settings.injected
            for port in sorted({each.port for each in pod.container_ports} & set(ports))
        )
    )


def _shown(pods: list[str]) -> str:
    return ", ".join(pods[:SHOWN]) + (f" and {len(pods) - SHOWN} more" if len(pods) > SHOWN else "")


def _selection(servers: list[Server], pods: list[Pod]) -> Iterator[Finding]:
    selected: dict[str, int] = dict.fromkeys((server.name for server in servers), 0)
    with_port: dict[str, int] = dict(selected)
    beaten: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    by_name = {server.name: server for server in servers}
    for pod in pods:
        mine = {
            server.name: server
            for server in servers
            if server.selector is not None and server.selector.matches(pod.labels)
        }
        for name in mine:
            selected[name] += 1
        for port, there in by_port(pod, mine).items():
            for server in there:
                with_port[server.name] += 1
            for loser in there[1:]:
                beaten[loser.name, there[0].name, port].append(pod.key)
    for name, server in by_name.items():
        if server.selector is None:
            continue
        if not selected[name]:
            yield Finding(server.key, "it selects no pod of its namespace")
        elif not with_port[name]:
            yield Finding(server.key, f"none of the pods that it selects has a port called {server.port!r}")
    for (loser_name, winner, port), those in beaten.items():
        yield Finding(
            by_name[loser_name].key,
            f"it is without effect on port {port} of {_shown(those)}: Server {winner} selects it too, and is older or "
            f"first by name",
        )


def _routed(policies: Iterable[PolicyObject]) -> dict[tuple[str, TargetKind, str, str], Route]:
    return {
        (policy.namespace, policy.route_kind, policy.group, policy.name): policy
        for policy in policies
        if isinstance(policy, Route)
    }


def _messages(
    policy: PolicyObject,
    known: dict[ObjectKey, PolicyObject],
    servers: list[Server],
    routed: dict[tuple[str, TargetKind, str, str], Route],
) -> Iterator[str]:
    yield from _of_itself(policy)
    match policy:
        case AuthorizationPolicy():
            yield from _of_policy(policy, known, servers, routed)
        case ServerAuthorization():
            if policy.server is not None and ObjectKey("Server", policy.namespace, policy.server) not in known:
                yield f"it authorizes for Server {policy.namespace}/{policy.server}, which does not exist"
            elif policy.server is None and not any(policy.selects(server) for server in servers):
                yield "its selector selects no Server of its namespace"
        case Route():
            for server in policy.servers:
                if ObjectKey("Server", policy.namespace, server) not in known:
                    yield f"it hangs on Server {policy.namespace}/{server}, which does not exist"
        case HttpLayer():
            if policy.server is not None and ObjectKey("Server", policy.namespace, policy.server) not in known:
                yield f"it hangs on Server {policy.namespace}/{policy.server}, which does not exist"
        case _:
            return


def _of_itself(policy: PolicyObject) -> Iterator[str]:
    match policy:
        case AuthorizationPolicy():
            if policy.mesh is None and policy.network is None:
                yield "its requiredAuthenticationRefs are empty: it lets everyone in, plaintext clients too"
        case ServerAuthorization():
            whoever = policy.unauthenticated or policy.unauthenticated_tls
            if not whoever and not policy.identities and not policy.accounts:
                yield "its client names nobody, so that it lets nobody in"
            yield from _redundant(policy.networks or ())
        case MeshTLSAuthentication():
            if not policy.identities and not policy.accounts and not policy.namespaces:
                yield "it names nobody, so that what refers to it lets nobody in"
        case NetworkAuthentication():
            yield from _redundant(policy.networks)
        case HttpLayer():
            yield "it is not enforced by this version: it bears on requests, not on connections"
        case Route() | Server() | BrokenServer():
            return


def _of_policy(
    policy: AuthorizationPolicy,
    known: dict[ObjectKey, PolicyObject],
    servers: list[Server],
    routed: dict[tuple[str, TargetKind, str, str], Route],
) -> Iterator[str]:
    target = policy.target
    match target.kind:
        case TargetKind.SERVER:
            if ObjectKey("Server", policy.namespace, target.name) not in known:
                yield f"it targets Server {policy.namespace}/{target.name}, which does not exist"
        case TargetKind.NAMESPACE:
            if not servers:
                yield "it targets its namespace, which has no Server: it lets nobody in anywhere"
        case _:
            if (policy.namespace, target.kind, target.group, target.name) not in routed:
                yield f"it targets {target.kind} {policy.namespace}/{target.name}, which does not exist"
            else:
                yield f"it targets {target.kind} {target.name}, and routes are not enforced yet: it lets nobody in"
    for ref in (policy.mesh, policy.network):
        if ref is not None and ref.kind != "ServiceAccount" and _key(ref) not in known:
            yield f"it refers to {ref}, which does not exist, so that it lets nobody in"


def _key(ref: Ref) -> ObjectKey:
    return ObjectKey(ref.kind, ref.namespace, ref.name)


def _redundant(networks: tuple[NetworkRange, ...]) -> Iterator[str]:
    """An exception that another one covers, or that another network of the same list lets in again."""
    for at, each in enumerate(networks):
        excepts = [ipaddress.ip_network(text) for text in each.excepts]
        for number, left_out in enumerate(excepts):
            for other_number, other in enumerate(excepts):
                wider = _within(left_out, other) and (left_out != other or other_number < number)
                if other_number != number and wider:
                    yield f"except {left_out} of {each.cidr} changes nothing: except {other} covers it"
                    break
            for other_at, network in enumerate(networks):
                if (
                    other_at != at
                    and _within(left_out, ipaddress.ip_network(network.cidr))
                    and not any(
                        ipaddress.ip_network(text).overlaps(left_out)
                        for text in network.excepts
                        if ipaddress.ip_network(text).version == left_out.version
                    )
                ):
                    yield f"except {left_out} of {each.cidr} changes nothing: {network.cidr} lets it in again"
                    break


def _within(
    one: ipaddress.IPv4Network | ipaddress.IPv6Network, other: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    return one.version == other.version and one.prefixlen >= other.prefixlen and one.overlaps(other)
