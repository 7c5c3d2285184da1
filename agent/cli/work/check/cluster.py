"""Judges the API server, and what is in the cluster before Quietwire is. Pure."""

import re

from agent.cli.work.check.asking import Cause, Untold
from agent.cli.work.check.finding import Finding, Verdict, names, ok, warning, wrong
from agent.cli.work.check.seen import Listed, Named, One, Permission, Server, Workload

LOWEST_VERSION = (1, 32)
"""From here on a TokenReview says the node of a pod's token, by which the authority knows agents, and it cannot be
turned off (KEP-4193). The chart says the same. Lists come by a watch or by pages, and all else is older."""
CLOCK_NEAR_SECONDS = 30.0
CLOCK_FAR_SECONDS = 300.0
"""Kerberos' measure, and everybody's: certificates and tokens are made to stand less."""
ENFORCE = "pod-security.kubernetes.io/enforce"
PART_OF = "app.kubernetes.io/part-of"
VERSION = "app.kubernetes.io/version"
AGENT = "quietwire-agent"
BESIDE_LINKERD = "--beside-linkerd"

HELP = {
    Cause.REFUSED_CONNECTION: "Nobody listens there: the API server is down, or address and port in the kubeconfig are "
    "another's",
    Cause.NO_SUCH_NAME: "Look at the server's name in the kubeconfig, and at this machine's DNS",
    Cause.NOT_TRUSTED: "Its CA is not the kubeconfig's: fetch a new kubeconfig of this cluster. If none has changed, "
    "somebody else answers in its place",
    Cause.NO_TLS: "What answers there speaks no TLS with us: look at the port in the kubeconfig, and for a proxy "
    "between",
    Cause.TOO_LATE: "A firewall drops it, a VPN is not up, or the API server is overloaded: try curl -k on its /livez",
    Cause.UNAUTHENTICATED: "Its credential has expired or is another cluster's: log in again, or take a new kubeconfig",
    Cause.FORBIDDEN: "Whoever this is may not even read the version: use another account",
    Cause.NOT_SERVED: "What answers there is no Kubernetes API server: look at the server's path in the kubeconfig",
    Cause.OTHER: "See what the message says, and the API server's log",
}
"""By why there is no answer to the first question: what is likely, and what to do."""


def untold(check: str, why: Untold, needs: str) -> Finding:
    """A check whose question was not answered. `needs` is what one must be allowed for it."""
    if why.cause is Cause.FORBIDDEN:
        return Finding(check, Verdict.UNKNOWN, f"cannot be told: {why.reason}", f"It needs the right to {needs}")
    return Finding(check, Verdict.UNKNOWN, f"cannot be told: {why.reason}", "Try again; look at the API server's log")


def api(answered: Server | Untold, address: str) -> Finding:
    """Whether it answers, and as whom it knows us."""
    if isinstance(answered, Untold):
        return wrong("api", f"{address}: {answered.reason}", HELP[answered.cause])
    who = "" if isinstance(answered.user, Untold) else f", and knows us as {answered.user}"
    return ok("api", f"{address} answers{who}")


def version(server: Server) -> Finding:
    """Whether it is new enough."""
    lowest = ".".join(map(str, LOWEST_VERSION))
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})", server.version)
    if found is None:
        return Finding("version", Verdict.UNKNOWN, f"{server.version!r} is no version", f"It must be {lowest} or newer")
    if (int(found[1]), int(found[2])) < LOWEST_VERSION:
        return wrong(
            "version",
            f"Kubernetes {server.version} is older than {lowest}: agents cannot prove on which node they are",
            f"Upgrade the cluster to {lowest} or newer",
        )
    return ok("version", f"Kubernetes {server.version}")


def clock(server: Server) -> Finding:
    """Whether its clock and this machine's agree. Certificates are judged by its clock."""
    ahead = server.clock_ahead
    if ahead is None:
        return warning("clock", "the API server's answer has no Date", "A proxy may have taken it away")
    if abs(ahead) < CLOCK_NEAR_SECONDS:
        return ok("clock", f"the API server's and this machine's agree within {CLOCK_NEAR_SECONDS:.0f} s")
    said = f"the API server's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    advice = "Have both follow a time server (NTP): one of them is wrong, and certificates hold by the clock"
    return (wrong if abs(ahead) >= CLOCK_FAR_SECONDS else warning)("clock", said, advice)


def rights(missing: Listed[Permission], namespace: str) -> Finding:
    """Whether the caller may make all that an installation is made of."""
    if isinstance(missing, Untold):
        return untold("rights", missing, "create selfsubjectaccessreviews.authorization.k8s.io")
    if not missing:
        return ok("rights", f"you may create and change every object of an installation in {namespace}")
    verbs: dict[str, set[str]] = {}
    for each in missing:
        verbs.setdefault(each.what, set()).add(each.verb)
    alike: dict[tuple[str, ...], list[str]] = {}
    for what, of in sorted(verbs.items()):
        alike.setdefault(tuple(sorted(of)), []).append(what)
    listed = [f"{', '.join(of)} {', '.join(several)}" for of, several in sorted(alike.items())]
    return wrong(
        "rights",
        f"you may not: {'; '.join(listed)}",
        "Let an administrator of the cluster install it (ClusterRole cluster-admin), or be given these. Whoever makes "
        "and binds a role has each right that it gives, or may escalate and bind",
    )


def pod_security(found: One[Named], namespace: str) -> Finding:
    """Whether privileged pods may run in the installation's namespace."""
    if isinstance(found, Untold):
        return untold("namespace", found, f"get namespaces ({namespace})")
    if found is None:
        return ok("namespace", f"{namespace} is not there yet")
    if found.metadata.deletion_timestamp is not None:
        return wrong("namespace", f"{namespace} is being deleted", "Wait until it is gone, or take another")
    level = found.metadata.labels.get(ENFORCE)
    if level in {None, "privileged"}:
        said = "allows privileged pods" if level else f"is there, without {ENFORCE}: the cluster's default holds"
        return ok("namespace", f"{namespace} {said}")
    return wrong(
        "namespace",
        f"{namespace} enforces Pod Security {level!r}: agents enter pods' network namespaces, and are privileged",
        f"kubectl label namespace {namespace} {ENFORCE}=privileged --overwrite",
    )


def linkerd(found: Listed[Workload], agents: Workload | None = None) -> Finding:
    """Whether there is a Linkerd that would mesh the same pods. `agents`: their DaemonSet, where it is installed."""
    if isinstance(found, Untold):
        return warning("linkerd", f"whether there is one cannot be told: {found.reason}", "Look for it by hand")
    beside = agents is not None and is_beside_linkerd(agents)
    if not found:
        if not beside:
            return ok("linkerd", "there is none")
        said = "there is none, and besideLinkerd=true leaves out every namespace without the label for Linkerd"
        return warning("linkerd", said, "helm upgrade with besideLinkerd=false (docs/migrate-from-linkerd.md)")
    where = names({each.metadata.namespace for each in found})
    if beside:
        return ok("linkerd", f"there is a control plane in {where}, and this is installed beside it")
    return warning(
        "linkerd",
        f"there is a control plane in {where}: both would act on linkerd.io/inject",
        "Install with helm and besideLinkerd=true (docs/migrate-from-linkerd.md)",
    )


def is_beside_linkerd(agents: Workload) -> bool:
    """Whether agents were told that Linkerd is there too."""
    return any(BESIDE_LINKERD in each.args for each in agents.spec.template.spec.containers)


def installations(found: Listed[Workload], namespace: str) -> Finding:
    """Whether there is a Quietwire already, and where."""
    if isinstance(found, Untold):
        return untold("installation", found, "list daemonsets.apps in all namespaces")
    agents = [each for each in found if each.metadata.name == AGENT]
    elsewhere = [each.metadata.namespace for each in agents if each.metadata.namespace != namespace]
    if elsewhere:
        return wrong(
            "installation",
            f"there is one in {names(elsewhere)} already: its roles and webhooks are the whole cluster's",
            f"Upgrade that one (--namespace {elsewhere[0]}), or uninstall it first",
        )
    if agents:
        is_version = agents[0].metadata.labels.get(VERSION, "of an unknown version")
        return warning(
            "installation",
            f"there is one in {namespace} already, {is_version}: installing is an upgrade of it",
            "Go on with what it was made by, `helm upgrade` or `kubectl apply`; `quietwire check` says how it is",
        )
    return ok("installation", "there is none yet")


def installed(found: Listed[Workload], namespace: str) -> Finding:
    """Whether there is a Quietwire in this namespace."""
    if isinstance(found, Untold):
        return untold("installation", found, "list daemonsets.apps and deployments.apps in all namespaces")
    agents = [each for each in found if each.metadata.name == AGENT]
    here = [each for each in agents if each.metadata.namespace == namespace]
    if here:
        return ok("installation", f"{here[0].metadata.labels.get(VERSION, 'of an unknown version')} in {namespace}")
    elsewhere = sorted(each.metadata.namespace for each in agents)
    if elsewhere:
        return wrong(
            "installation", f"there is none in {namespace}, but in {names(elsewhere)}", f"--namespace {elsewhere[0]}"
        )
    return wrong("installation", f"there is none in {namespace}", "quietwire install | kubectl apply -f -, or helm")
