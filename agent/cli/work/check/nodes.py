"""Judges nodes: whether agents can run there, whether one does, and what their clocks say. Pure."""

import re
from collections.abc import Iterable, Mapping

from agent.cli.work.check.asking import Untold
from agent.cli.work.check.cluster import untold
from agent.cli.work.check.finding import Finding, counted, names, ok, warning, wrong
from agent.cli.work.check.seen import Lease, Listed, Node, Pod, Workload

LOWEST_KERNEL = (5, 3)
"""pidfd_open(2): before, who asks to be enrolled cannot be held while it is looked at, and nobody is."""
TRIED_KERNEL = (6, 1)
"""Debian 12's: the oldest on which everything is tried."""
TRIED_RUNTIME = "containerd"
RENEWED_SECONDS = 10.0
"""A kubelet renews its lease four times in the 40 s that it lasts (KubeletConfiguration, nodeLeaseDurationSeconds)."""
CLOCK_NEAR_SECONDS = 20.0
CLOCK_FAR_SECONDS = 60.0
"""SVIDs are backdated by a minute: on a node whose clock is further behind, new ones are not valid yet."""


def before(found: Listed[Node]) -> Finding:
    """Whether agents can run on what there is."""
    if isinstance(found, Untold):
        return untold("nodes", found, "list nodes")
    if not found:
        return warning("nodes", "there is none yet", "Agents start where nodes come; look again then")
    return _fit(found) or _tried(found)


def after(found: Listed[Node]) -> Finding:
    """The same of a cluster that has an installation: there have to be nodes."""
    if not isinstance(found, Untold) and not found:
        return wrong("nodes", "there is none: nothing runs", "Look at the kubelets, and at what makes nodes")
    return before(found)


def _fit(found: Iterable[Node]) -> Finding | None:
    linux = [each for each in found if each.is_linux]
    if not linux:
        return wrong("nodes", "none of them is Linux: no agent runs on them", "Add nodes with Linux")
    old = {each.name: each.status.node_info.kernel_version for each in linux if _kernel(each) < LOWEST_KERNEL}
    if old:
        return wrong(
            "nodes",
            f"{counted(len(old), 'kernel')} older than {_dotted(LOWEST_KERNEL)}, or of no version that can be read: "
            f"{names(f'{name} ({version})' for name, version in old.items())}. Nobody can be enrolled there",
            f"Upgrade them: {_dotted(TRIED_KERNEL)} or newer is what is tried",
        )
    return None


def _tried(found: Iterable[Node]) -> Finding:
    odd = []
    for each in found:
        info = each.status.node_info
        if not each.is_linux:
            odd.append(f"{each.name} is {info.operating_system or 'of an unknown system'}, and has no agent")
        elif _kernel(each) < TRIED_KERNEL:
            odd.append(f"{each.name} has Linux {info.kernel_version}, older than what is tried")
        elif not info.container_runtime_version.startswith(f"{TRIED_RUNTIME}://"):
            odd.append(f"{each.name} has {info.container_runtime_version or 'an unknown runtime'}, which is not tried")
        elif not each.is_ready:
            odd.append(f"{each.name} is not Ready")
    total = counted(len(list(found)), "node")
    if odd:
        return warning(
            "nodes",
            f"{total}; {'; '.join(odd[:5])}{f'; and {len(odd) - 5} more' if len(odd) > 5 else ''}",
            f"Pods on them may stay outside the mesh; what is tried is {TRIED_RUNTIME} on Linux "
            f"{_dotted(TRIED_KERNEL)} and newer",
        )
    kernels = sorted({_kernel(each) for each in found})
    span = " to ".join(_dotted(each) for each in (kernels[:1] if len(kernels) == 1 else (kernels[0], kernels[-1])))
    return ok("nodes", f"{total}, Linux {span}, {TRIED_RUNTIME}")


def _kernel(node: Node) -> tuple[int, int]:
    """Its first two numbers; (0, 0), which is too old, where there are none."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", node.status.node_info.kernel_version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def clocks(nodes: Listed[Node], leases: Listed[Lease], now: float) -> Finding:
    """What the nodes' clocks say, as their kubelets write it into their leases. `now` is the API server's.

    A hint: one that is behind cannot be told from a kubelet that has not renewed; so only of nodes that are Ready.
    """
    if isinstance(nodes, Untold):
        return untold("node clocks", nodes, "list nodes")
    if isinstance(leases, Untold):
        said = f"cannot be told: {leases.reason}"
        return warning("node clocks", said, "It needs the right to list leases in kube-node-lease")
    ready = {each.name for each in nodes if each.is_ready}
    near, far = [], []
    seen = set()
    for lease in leases:
        if lease.metadata.name in ready and lease.spec.renew_time is not None:
            seen.add(lease.metadata.name)
            ahead = lease.spec.renew_time.timestamp() - now
            off = ahead if ahead > 0 else max(-ahead - RENEWED_SECONDS, 0.0)
            said = f"{lease.metadata.name} ({off:.0f} s {'ahead' if ahead > 0 else 'behind'})"
            if off >= CLOCK_FAR_SECONDS:
                far.append(said)
            elif off >= CLOCK_NEAR_SECONDS:
                near.append(said)
    advice = "Have the nodes follow a time server (NTP): certificates hold by the clock"
    if far:
        return wrong(
            "node clocks", f"those of {names(far)} are not the API server's, as it seems by their leases", advice
        )
    if near:
        return warning("node clocks", f"those of {names(near)} are not the API server's, as it seems", advice)
    if unseen := ready - seen:
        return warning("node clocks", f"{names(unseen)}: no lease in kube-node-lease", "Look at their kubelets")
    return ok("node clocks", f"{counted(len(seen), 'node')} within {CLOCK_NEAR_SECONDS:.0f} s of the API server's")


def agents(
    nodes: Listed[Node], pods: Listed[Pod], daemon_set: Workload, meshed_on: Mapping[str, int] | Untold
) -> Finding:
    """Whether every node that has to has an agent that is ready. `meshed_on`: pods that are to be meshed, by node."""
    if isinstance(nodes, Untold):
        return untold("agents", nodes, "list nodes")
    if isinstance(pods, Untold):
        return untold("agents", pods, "list pods in all namespaces")
    ours = [each for each in pods if is_agent(each, daemon_set)]
    ready = {each.spec.node_name for each in ours if each.is_ready}
    on = {} if isinstance(meshed_on, Untold) else meshed_on
    without = [each for each in nodes if each.is_linux and each.name not in ready]
    needed = [
        each for each in without if on.get(each.name) or not (each.spec.unschedulable or _is_left(each, daemon_set))
    ]
    left = [each for each in without if each not in needed]
    if needed:
        listed = []
        for each in needed:
            waits = on.get(each.name, 0)
            there = [pod.metadata.name for pod in ours if pod.spec.node_name == each.name]
            parts = [f"{there[0]} is not ready" if there else "there is none"]
            parts += [f"{counted(waits, 'pod')} to be meshed {'is' if waits == 1 else 'are'} there"] if waits else []
            parts += ["the node is not Ready"] if not each.is_ready else []
            listed.append(f"{each.name} ({', '.join(parts)})")
        return wrong(
            "agents",
            f"none that is ready on {counted(len(needed), 'node')}: {names(listed)}. What is captured there is "
            "refused, new pods wait, and pods that were never captured are open",
            f"kubectl -n {daemon_set.metadata.namespace} describe daemonset {daemon_set.metadata.name}, and the "
            "agents' logs; the rollout check says more",
        )
    covered = f"{counted(len(ready), 'node')} {'has' if len(ready) == 1 else 'have'} one that is ready"
    if left:
        return warning(
            "agents",
            f"{covered}; {names(each.name for each in left)} {'has' if len(left) == 1 else 'have'} none, cordoned or "
            "not selected by the DaemonSet",
            "A pod that is to be meshed waits there for ever: keep such pods away (nodeSelector), or let agents in",
        )
    return ok("agents", covered)


def is_agent(pod: Pod, daemon_set: Workload) -> bool:
    """Whether a pod is of the agents' DaemonSet."""
    meta = pod.metadata
    owned = any(each.kind == "DaemonSet" and each.name == daemon_set.metadata.name for each in meta.owner_references)
    return owned and meta.namespace == daemon_set.metadata.namespace and meta.deletion_timestamp is None


def _is_left(node: Node, daemon_set: Workload) -> bool:
    """Whether the DaemonSet's nodeSelector leaves a node out: somebody wanted it so."""
    wanted = daemon_set.spec.template.spec.node_selector
    return any(node.metadata.labels.get(key) != value for key, value in wanted.items())
