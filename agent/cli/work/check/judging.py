"""All checks in their order, and which of them depend on which. Pure."""

from collections.abc import Iterable, Mapping

from agent.cli.work.check import cluster, definitions, nodes, pods, roles, trust, workloads
from agent.cli.work.check.asking import Untold
from agent.cli.work.check.expected import Expected
from agent.cli.work.check.finding import Finding, Verdict, warning, wrong
from agent.cli.work.check.seen import After, Before, Listed, Named, One, Pod, Server, Workload

AGENT, AUTHORITY, WEBHOOK = cluster.AGENT, "quietwire-authority", "quietwire-webhook"
BEFORE = ("version", "clock", "rights", "nodes", "namespace", "definitions", "linkerd", "installation")
OF_INSTALLATION = (
    "versions",
    "agent rollout",
    "agents",
    "authority rollout",
    "authority",
    "bundle",
    "issuer",
    "webhook rollout",
    "webhook",
    "injection",
    "validation",
    "roles",
)
AFTER = (
    *("version", "clock", "nodes", "node clocks", "namespace", "definitions", "linkerd", "installation"),
    *OF_INSTALLATION,
    *("pods", "capabilities"),
)
"""After the first one, `api`."""


def unreachable(why: Untold, address: str, *, pre: bool) -> tuple[Finding, ...]:
    """Where the API server does not answer."""
    others = skipped(BEFORE if pre else AFTER, "the API server does not answer")
    return (cluster.api(why, address), *others)


def skipped(checks: Iterable[str], why: str) -> tuple[Finding, ...]:
    """They could not be made, for one reason."""
    return tuple(Finding(each, Verdict.SKIPPED, f"not checked: {why}") for each in checks)


def before(seen: Before, wanted: Expected) -> tuple[Finding, ...]:
    """Whether a cluster is fit for an installation."""
    return (
        *_server(seen.server),
        cluster.rights(seen.missing, wanted.namespace),
        nodes.before(seen.nodes),
        cluster.pod_security(seen.namespace, wanted.namespace),
        definitions.before(seen.definitions, wanted.definitions),
        cluster.linkerd(seen.linkerd),
        cluster.installations(seen.daemon_sets, wanted.namespace),
    )


def after(seen: After, wanted: Expected, own: str, now: float) -> tuple[Finding, ...]:
    """Whether an installation is well. `own` is this command's version, `now` the API server's clock."""
    workloads_found = _both(seen.daemon_sets, seen.deployments)
    agents = None if isinstance(workloads_found, Untold) else _here(workloads_found, wanted.namespace).get(AGENT)
    beside = agents is not None and cluster.is_beside_linkerd(agents)
    to_mesh = pods.to_be_meshed(seen.pods, seen.namespaces, beside_linkerd=beside)
    installation = cluster.installed(workloads_found, wanted.namespace)
    return (
        *_server(seen.server),
        nodes.after(seen.nodes),
        nodes.clocks(seen.nodes, seen.leases, now),
        cluster.pod_security(_named(seen.namespaces, wanted.namespace), wanted.namespace),
        definitions.after(seen.definitions, wanted.definitions),
        cluster.linkerd(seen.linkerd, agents),
        installation,
        *(
            skipped(OF_INSTALLATION, "see installation")
            if isinstance(workloads_found, Untold) or installation.verdict is not Verdict.OK
            else _installation(_here(workloads_found, wanted.namespace), to_mesh, seen, wanted, own, now)
        ),
        pods.meshed(to_mesh, now),
        pods.powers(to_mesh),
    )


def _named(namespaces: Listed[Named], name: str) -> One[Named]:
    if isinstance(namespaces, Untold):
        return namespaces
    return next((each for each in namespaces if each.metadata.name == name), None)


def _server(server: Server) -> tuple[Finding, ...]:
    return cluster.api(server, server.address), cluster.version(server), cluster.clock(server)


def _both(one: Listed[Workload], other: Listed[Workload]) -> Listed[Workload]:
    if isinstance(one, Untold):
        return one
    return other if isinstance(other, Untold) else (*one, *other)


def _here(found: Iterable[Workload], namespace: str) -> Mapping[str, Workload]:
    return {each.metadata.name: each for each in found if each.metadata.namespace == namespace}


def _installation(
    here: Mapping[str, Workload], to_mesh: Listed[Pod], seen: After, wanted: Expected, own: str, now: float
) -> Iterable[Finding]:
    yield workloads.versions([here[name] for name in (AGENT, AUTHORITY, WEBHOOK) if name in here], seen.pods, own)
    yield workloads.rollout("agent rollout", "DaemonSet", here[AGENT], seen.pods, seen.events)
    yield nodes.agents(seen.nodes, seen.pods, here[AGENT], pods.by_node(to_mesh))
    yield _rollout("authority", here.get(AUTHORITY), seen)
    yield workloads.service("authority", AUTHORITY, seen.slices, "no agent joins, and no SVID is signed")
    yield trust.bundle(seen.bundle, wanted.namespace, now)
    yield trust.issuer(seen.bundle, wanted.namespace, now)
    without = WEBHOOK not in here and all(each is None for each in seen.configurations.values())
    yield from _without_webhooks() if without else _webhooks(seen, here.get(WEBHOOK), wanted, now)
    yield roles.roles(
        seen.roles,
        seen.bindings,
        {key: each for key, each in wanted.roles.items() if not (without and key[1] == WEBHOOK)},
        {key: each for key, each in wanted.bindings.items() if not (without and key[1] == WEBHOOK)},
    )


def _rollout(what: str, found: Workload | None, seen: After) -> Finding:
    check = f"{what} rollout"
    if found is None:
        return wrong(check, f"there is no Deployment quietwire-{what}", roles.AGAIN)
    return workloads.rollout(check, "Deployment", found, seen.pods, seen.events)


def _without_webhooks() -> Iterable[Finding]:
    said = "none is installed (webhook.enabled=false)"
    yield warning("webhook", said, "Pods are meshed whose manifests have an init container, and no others")


def _webhooks(seen: After, found: Workload | None, wanted: Expected, now: float) -> Iterable[Finding]:
    yield _rollout("webhook", found, seen)
    lost = "no pod is made that might be meshed, and policy is stored unlooked at"
    yield workloads.service("webhook", WEBHOOK, seen.slices, lost)
    for kind, configuration in wanted.configurations.items():
        yield trust.webhook(kind, seen.configurations.get(kind), configuration, wanted.namespace, now)
