"""Judges what the installation runs: rolled out, of one version, with somebody behind each Service. Pure."""

from collections.abc import Iterable, Sequence

from agent.cli.work.check.asking import Untold
from agent.cli.work.check.cluster import VERSION, untold
from agent.cli.work.check.finding import Finding, counted, names, ok, warning, wrong
from agent.cli.work.check.seen import ContainerStatus, EndpointSlice, Event, Listed, Pod, Workload

SERVICE_NAME = "kubernetes.io/service-name"
LONGEST_MESSAGE = 200
PODS_EXPLAINED = 3


def rollout(check: str, kind: str, workload: Workload, pods: Listed[Pod], events: Listed[Event]) -> Finding:
    """Whether all pods of a Deployment or DaemonSet are there, ready and of its newest version; else which, and why."""
    status, meta = workload.status, workload.metadata
    daemon_set = kind == "DaemonSet"
    wanted = status.desired_number_scheduled if daemon_set else workload.spec.replicas
    ready = status.number_ready if daemon_set else status.ready_replicas
    updated = status.updated_number_scheduled if daemon_set else status.updated_replicas
    where = f"{kind} {meta.name}"
    if wanted == 0:
        return wrong(
            check,
            f"{where} wants no pod: nobody does its work",
            f"kubectl -n {meta.namespace} describe {kind.lower()} {meta.name}: its nodeSelector matches no node"
            if daemon_set
            else f"kubectl -n {meta.namespace} scale deployment {meta.name} --replicas=NUMBER",
        )
    if status.observed_generation < meta.generation:
        return wrong(check, f"{where} was changed just now, and no controller has looked yet", "Wait: --wait 60")
    if ready >= wanted and updated >= wanted:
        return ok(check, f"{where}: {ready} of {wanted} ready")
    said = f"{where}: {ready} of {wanted} ready" + (f", {updated} of the newest version" if updated < wanted else "")
    reasons = list(_reasons(workload, pods, events))
    advice = f"kubectl -n {meta.namespace} describe pods; kubectl -n {meta.namespace} logs {kind.lower()}/{meta.name}"
    return wrong(check, ". ".join([said, *reasons]), advice if ready < wanted else "Wait until it is: --wait 120")


def _reasons(workload: Workload, pods: Listed[Pod], events: Listed[Event]) -> Iterable[str]:
    told = () if isinstance(events, Untold) else events
    if isinstance(pods, Untold):
        yield f"Which pods cannot be told: {pods.reason}"
        return
    unready = [each for each in of_workload(pods, workload) if not each.is_ready]
    for pod in unready[:PODS_EXPLAINED]:
        reason, event = why(pod), _last(told, "Pod", pod.metadata.name)
        is_new = event and event.partition(": ")[2] not in reason
        yield f"{pod.metadata.name}: {reason}" + (f" ({event})" if is_new else "")
    if len(unready) > PODS_EXPLAINED:
        yield f"{len(unready) - PODS_EXPLAINED} more are not ready"
    if not unready:  # none was made: that is said of who should have
        about = ("DaemonSet", workload.metadata.name), ("ReplicaSet", f"{workload.metadata.name}-")
        found = [event for kind, name in about if (event := _last(told, kind, name, begins=name.endswith("-")))]
        yield from found[:1]


def of_workload(pods: Iterable[Pod], workload: Workload) -> list[Pod]:
    """Its pods: owned by it, or by a ReplicaSet of its name."""
    name, namespace = workload.metadata.name, workload.metadata.namespace
    return [
        each
        for each in pods
        if each.metadata.namespace == namespace
        and any(
            (owner.kind == "DaemonSet" and owner.name == name)
            or (owner.kind == "ReplicaSet" and owner.name.rpartition("-")[0] == name)
            for owner in each.metadata.owner_references
        )
    ]


def why(pod: Pod) -> str:
    """Why a pod is not ready, by what its containers say, or by who could not place it."""
    if pod.metadata.deletion_timestamp is not None:
        return "is being deleted"
    for each in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if reason := _stuck(each):
            return reason
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"is on no node: {_short(condition.message or condition.reason)}"
    unready = [each.name for each in pod.status.container_statuses if not each.ready]
    return f"{names(unready)} runs, and is not ready" if unready else f"is {pod.status.phase or 'in no phase'}"


def _stuck(status: ContainerStatus) -> str | None:
    waiting, ended = status.state.waiting, status.state.terminated or status.last_state.terminated
    words = []
    if waiting is not None and waiting.reason not in {"PodInitializing", "ContainerCreating", ""}:
        words.append(f"{waiting.reason}{f' ({_short(waiting.message)})' if waiting.message else ''}")
    if ended is not None and ended.exit_code != 0 and not status.ready:
        words.append(f"ended with {ended.exit_code} {ended.reason}".rstrip())
        words += [f"after {counted(status.restart_count, 'restart')}"] if status.restart_count else []
    return f"{status.name}: {', '.join(words)}" if words else None


def _last(events: Iterable[Event], kind: str, name: str, *, begins: bool = False) -> str:
    about = [
        each
        for each in events
        if each.involved_object.kind == kind
        and (each.involved_object.name.startswith(name) if begins else each.involved_object.name == name)
    ]
    last = max(about, key=lambda each: each.at, default=None)
    return "" if last is None else f"{last.reason}: {_short(last.message)}"


def _short(message: str) -> str:
    flat = " ".join(message.split())
    return flat if len(flat) <= LONGEST_MESSAGE else f"{flat[:LONGEST_MESSAGE]}…"


def versions(workloads: Sequence[Workload], pods: Listed[Pod], own: str) -> Finding:
    """Whether all run one image, what they inject is the same, and this command is of its version."""
    images = {each.metadata.name: sorted(c.image for c in each.spec.template.spec.containers) for each in workloads}
    flat = {image for found in images.values() for image in found}
    if len(flat) > 1:
        listed = [f"{name} {', '.join(found)}" for name, found in sorted(images.items())]
        return wrong("versions", f"not of one image: {'; '.join(listed)}", "Upgrade the installation as a whole")
    for each in workloads:
        for container in each.spec.template.spec.containers:
            injected = [word.partition("=")[2] for word in container.args if word.startswith("--image=")]
            if injected and injected != [container.image]:
                said = f"{each.metadata.name} is {container.image} and injects {names(injected)}"
                return wrong("versions", said, "Upgrade the installation as a whole")
    if not isinstance(pods, Untold):
        old = [
            pod.metadata.name
            for each in workloads
            for pod in of_workload(pods, each)
            if pod.metadata.deletion_timestamp is None
            and sorted(c.image for c in pod.spec.containers) != images[each.metadata.name]
        ]
        if old:
            said = f"of another image than they are to be: {names(old)}"
            return wrong("versions", said, "A rollout is under way, or stands still: see the rollout checks")
    labels = {each.metadata.labels.get(VERSION, "unknown") for each in workloads}
    if labels != {own}:
        said = f"installed is {names(labels)}, and this command is {own}"
        return warning("versions", said, "Use the command of the installation's version, or upgrade the installation")
    return ok("versions", f"all of {own}, {names(flat)}")


def service(check: str, name: str, slices: Listed[EndpointSlice], what: str) -> Finding:
    """Whether there is somebody behind a Service. `what` becomes of others without."""
    if isinstance(slices, Untold):
        return untold(check, slices, "list endpointslices.discovery.k8s.io in the installation's namespace")
    ready = sum(each.ready for each in slices if each.metadata.labels.get(SERVICE_NAME) == name)
    if not ready:
        return wrong(check, f"nobody is ready behind Service {name}: {what}", "See the rollout checks for why")
    return ok(check, f"{counted(ready, 'endpoint')} of Service {name} ready")
