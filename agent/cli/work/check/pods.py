"""Judges pods that are to be meshed: which are not, why, and which could get out by themselves. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from agent.cli.work.check.asking import Untold
from agent.cli.work.check.cluster import untold
from agent.cli.work.check.finding import Finding, counted, names, ok, warning, wrong
from agent.cli.work.check.seen import Container, Listed, Named, Pod
from agent.cli.work.check.workloads import why
from agent.objects.annotations import DISABLED, INJECT, LEFT_BY_LINKERD
from agent.objects.model import LINKERDS_PROXY, MESHED_CONDITION
from agent.webhook.injection import CONTAINER, is_injected

STARTING_SECONDS = 60.0
"""A pod that is younger may still be waiting for good reasons."""
POWERS = frozenset({"NET_ADMIN", "NET_RAW", "ALL"})
NEEDS = "list pods and namespaces"


def to_be_meshed(pods: Listed[Pod], namespaces: Listed[Named], *, beside_linkerd: bool = False) -> Listed[Pod]:
    """Those that say so, or whose namespace does, as the webhook reads it; without those that are being deleted.

    A pod with Linkerd's proxy is Linkerd's. `beside_linkerd`: so is one of a namespace that Linkerd is not told to
    leave alone, unless it is captured already.
    """
    if isinstance(pods, Untold):
        return pods
    if isinstance(namespaces, Untold):
        return namespaces
    says: Mapping[str, str | None] = {each.metadata.name: each.metadata.annotations.get(INJECT) for each in namespaces}
    left = {each.metadata.name for each in namespaces if each.metadata.labels.get(LEFT_BY_LINKERD) == DISABLED}
    return tuple(
        each
        for each in pods
        if each.metadata.deletion_timestamp is None
        and _is_injected(each, says)
        and not _is_linkerds(each)
        and (not beside_linkerd or each.metadata.namespace in left or each.is_condition(MESHED_CONDITION))
    )


def _is_linkerds(pod: Pod) -> bool:
    return any(each.name == LINKERDS_PROXY for each in (*pod.spec.init_containers, *pod.spec.containers))


def _is_injected(pod: Pod, says: Mapping[str, str | None]) -> bool:
    manifest = {"metadata": {"annotations": pod.metadata.annotations}, "spec": {"hostNetwork": pod.spec.host_network}}
    return is_injected(manifest, says.get(pod.metadata.namespace))


def by_node(wanted: Listed[Pod]) -> Mapping[str, int] | Untold:
    """How many of them are on each node."""
    return wanted if isinstance(wanted, Untold) else Counter(each.spec.node_name for each in wanted)


class _Sorted(Struct, frozen=True):
    meshed: int
    open: list[Pod]
    waiting: list[Pod]


def _sorted(wanted: Iterable[Pod], now: float) -> _Sorted:
    meshed, open_, waiting = 0, [], []
    for pod in wanted:
        if pod.is_condition(MESHED_CONDITION):
            meshed += 1
        elif not any(each.name == CONTAINER for each in pod.spec.init_containers):
            open_.append(pod)
        elif pod.spec.node_name and _age(pod, now) > STARTING_SECONDS:  # on no node yet: that is no agent's matter
            waiting.append(pod)
    return _Sorted(meshed, open_, waiting)


def _age(pod: Pod, now: float) -> float:
    created = pod.metadata.creation_timestamp
    return 0.0 if created is None else now - created.timestamp()


def meshed(wanted: Listed[Pod], now: float) -> Finding:
    """Whether all of them are."""
    check = "pods"
    if isinstance(wanted, Untold):
        return untold(check, wanted, NEEDS)
    if not wanted:
        return ok(check, "none is to be meshed yet (kubectl annotate namespace NAMESPACE linkerd.io/inject=enabled)")
    found = _sorted(wanted, now)
    said, advice = [], []
    if found.open:
        said.append(
            f"{counted(len(found.open), 'pod')} of {_namespaces(found.open)} "
            f"{'has' if len(found.open) == 1 else 'have'} no init step, and {'is' if len(found.open) == 1 else 'are'} "
            f"open: {_some(found.open)}"
        )
        advice.append(
            "Started before their namespace was injected: restart their workloads (kubectl -n NAMESPACE rollout "
            "restart deployment,statefulset,daemonset)"
        )
    if found.waiting:
        said.append(
            f"{counted(len(found.waiting), 'pod')} {'waits' if len(found.waiting) == 1 else 'wait'} for an agent, or "
            f"{'is' if len(found.waiting) == 1 else 'are'} held back: {_some(found.waiting)} "
            f"({found.waiting[0].metadata.name}: {why(found.waiting[0])})"
        )
        advice.append("kubectl describe pod shows the agent's Events with the reason; see the agents check")
    if said:
        return wrong(check, "; ".join(said), ". ".join(advice))
    starting = len(wanted) - found.meshed
    more = f", {starting} {'is' if starting == 1 else 'are'} starting" if starting else ""
    total = f"{counted(len(wanted), 'pod')} that {'is' if len(wanted) == 1 else 'are'} to be meshed"
    return ok(check, f"{found.meshed} of {total} {'is' if found.meshed == 1 else 'are'}{more}")


def powers(wanted: Listed[Pod]) -> Finding:
    """Which of them were given what capture cannot hold (docs/threat-model.md)."""
    check = "capabilities"
    if isinstance(wanted, Untold):
        return untold(check, wanted, NEEDS)
    able = [each for each in wanted if any(map(_is_able, _containers(each)))]
    if not able:
        return ok(check, "no meshed pod is privileged, or is given NET_ADMIN or NET_RAW by name")
    return warning(
        check,
        f"{counted(len(able), 'pod')} to be meshed {'is' if len(able) == 1 else 'are'} privileged, or given NET_ADMIN "
        f"or NET_RAW: {_some(able)}. Capture does not hold them against their own will",
        "Drop it where they do not need it (securityContext.capabilities); peers' policy holds whatever they do",
    )


def _containers(pod: Pod) -> Sequence[Container]:
    return [each for each in (*pod.spec.init_containers, *pod.spec.containers) if each.name != CONTAINER]


def _is_able(container: Container) -> bool:
    context = container.security_context
    if context is None:
        return False
    added = () if context.capabilities is None else context.capabilities.add or ()
    return context.privileged is True or any(each.upper().removeprefix("CAP_") in POWERS for each in added)


def _some(found: Iterable[Pod]) -> str:
    return names(each.metadata.full_name for each in found)


def _namespaces(found: Iterable[Pod]) -> str:
    return names({each.metadata.namespace for each in found})
