"""May this process enrol this namespace as that pod? Pure: what was found out comes in, a verdict goes out.

What a process says of itself, and what it can give itself (an address on lo, say), decides nothing. One of these ties
it to a pod: the pod's annotation `quietwire.io/netns` names the very namespace, and then nothing else counts; the
kubelet has put the process into the pod's cgroup, which carries the pod's UID; or it administers this host anyway.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from agent.capture.caller import Caller
from agent.capture.netns import NetnsId
from agent.objects.key import PodKey
from agent.objects.model import Pod


class NotYet(Struct, frozen=True):
    """The catalog may still come to say so."""

    reason: str


class Refused(Struct, frozen=True):
    """Nothing that the catalog could come to say would help."""

    reason: str


def judge(
    caller: Caller, asked: str | None, local: Sequence[Pod], annotated: Mapping[PodKey, NetnsId | None], node: str
) -> tuple[Pod, ...] | NotYet | Refused:
    """As which pods a process may enrol the namespace that it is in; which one it is, the addresses tell that it holds.

    `local` are this node's meshed pods, `annotated` has the namespace that each pod's annotation names (None: there is
    none, yet), `asked` is the pod that the process says it is of.
    """
    if asked is not None:
        found = [pod for pod in local if pod.key == asked]
        if not found:
            return NotYet(f"the catalog has no {asked} on node {node} yet")
        problem = _untied(caller, found[0], annotated)
        return (found[0],) if problem is None else problem
    tied = tuple(pod for pod in local if _untied(caller, pod, annotated) is None)
    if tied:
        return tied
    if caller.pod_uid is None and not caller.administers:
        return Refused(_nothing_ties(caller, "any pod"))
    return NotYet(f"the catalog has no pod on node {node} that {caller} could be of yet")


def _untied(caller: Caller, pod: Pod, annotated: Mapping[PodKey, NetnsId | None]) -> NotYet | Refused | None:
    """Why a process may not enrol its namespace as this pod's; None: it may."""
    if pod.netns is not None:
        named = annotated.get(pod.key)
        if named is None:
            return NotYet(f"the namespace that {pod.key} is annotated with, {pod.netns}, is not there yet")
        if named != caller.netns:
            return Refused(
                f"{pod.key} is annotated with quietwire.io/netns: {pod.netns}, and {caller} is in another namespace"
            )
        return None
    if caller.pod_uid is not None:
        if pod.uid == caller.pod_uid:
            return None
        return NotYet(f"{caller} is of the pod with UID {caller.pod_uid}, and {pod.key} has {pod.uid or 'none'}")
    return None if caller.administers else Refused(_nothing_ties(caller, pod.key))


def _nothing_ties(caller: Caller, pod: str) -> str:
    return (
        f"nothing ties {caller} to {pod}: it is in no cgroup of the kubelet's with a pod's UID, and does not "
        f"administer this host. Annotate the pod with quietwire.io/netns"
    )
