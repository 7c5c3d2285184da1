"""Judges the definitions of policy.linkerd.io's kinds. Pure."""

from collections.abc import Iterable, Mapping

from agent.cli.work.check.asking import Untold
from agent.cli.work.check.cluster import PART_OF, untold
from agent.cli.work.check.finding import Finding, names, ok, warning, wrong
from agent.cli.work.check.seen import Definition, Listed

RELEASE = "meta.helm.sh/release-name"
NEEDS = "get customresourcedefinitions.apiextensions.k8s.io"
CHECK = "definitions"


def before(found: Listed[Definition], versions: Mapping[str, tuple[str, ...]]) -> Finding:
    """Whose they are, and whether agents can read what they serve. `versions`: by name, those that agents read."""
    if isinstance(found, Untold):
        return untold(CHECK, found, NEEDS)
    there = [each for each in found if each.metadata.name in versions]
    if not there:
        return ok(CHECK, "of policy.linkerd.io there are none: the installation brings them")
    if unfit := _unfit(there, versions):
        return unfit
    theirs = [each for each in there if not _is_ours(each)]
    if theirs:
        return warning(
            CHECK,
            f"{len(theirs)} of {len(versions)} are {_owners(theirs)}: policy that is there holds here too",
            "helm leaves them as they are; for kubectl: quietwire install --no-definitions",
        )
    return ok(CHECK, f"{len(there)} of {len(versions)} are here, Quietwire's own")


def after(found: Listed[Definition], versions: Mapping[str, tuple[str, ...]]) -> Finding:
    """Whether every kind of policy can be written and read."""
    if isinstance(found, Untold):
        return untold(CHECK, found, NEEDS)
    there = {each.metadata.name: each for each in found if each.metadata.name in versions}
    missing = versions.keys() - there.keys()
    if missing:
        return wrong(
            CHECK,
            f"missing: {names(missing)}. Policy of these kinds cannot be written",
            "Install them: helm upgrade with crds.install=true, or quietwire install | kubectl apply -f -",
        )
    if unfit := _unfit(there.values(), versions):
        return unfit
    waiting = [name for name, each in there.items() if not _is_established(each)]
    if waiting:
        return wrong(
            CHECK,
            f"not established: {names(waiting)}. The API server does not serve them",
            "kubectl describe crd says why: as a rule another kind has their names",
        )
    theirs = [each for each in there.values() if not _is_ours(each)]
    return ok(CHECK, f"all {len(there)} are served{f', {len(theirs)} are {_owners(theirs)}' if theirs else ''}")


def _unfit(found: Iterable[Definition], versions: Mapping[str, tuple[str, ...]]) -> Finding | None:
    """Definitions that serve no version that agents read: their objects would be unseen, and what they close open."""
    lacking = {
        each.metadata.name: [version.name for version in each.spec.versions if version.served]
        for each in found
        if not any(version.served and version.name in versions[each.metadata.name] for version in each.spec.versions)
    }
    if not lacking:
        return None
    listed = [
        f"{name} serves {', '.join(served) or 'none'}, agents read {', '.join(versions[name])}"
        for name, served in sorted(lacking.items())
    ]
    return wrong(
        CHECK,
        f"{'; '.join(listed)}: agents would see no object of these kinds",
        "Upgrade the definitions: those of Linkerd with Linkerd's own chart (linkerd-crds)",
    )


def _is_established(definition: Definition) -> bool:
    return any(each.type == "Established" and each.status == "True" for each in definition.status.conditions or ())


def _is_ours(definition: Definition) -> bool:
    return definition.metadata.labels.get(PART_OF) == "quietwire"


def _owners(theirs: list[Definition]) -> str:
    releases = {each.metadata.annotations.get(RELEASE, "") for each in theirs} - {""}
    linkerd = any(key.startswith("linkerd.io/") for each in theirs for key in each.metadata.labels)
    if linkerd and not releases:
        return "Linkerd's"
    return f"of the helm release {names(releases)}" if releases else "somebody else's"
