"""Judges what agents, authority and webhooks may do, beside what they are installed with. Pure."""

from collections.abc import Iterable, Mapping

from agent.cli.work.check.asking import Untold
from agent.cli.work.check.cluster import untold
from agent.cli.work.check.expected import permissions
from agent.cli.work.check.finding import Finding, counted, names, ok, warning, wrong
from agent.cli.work.check.seen import Binding, One, Permission, Role, Subject

Key = tuple[str, str]
"""Kind and name."""
CHECK = "roles"
AGAIN = "Install it again as it was (helm upgrade, or quietwire install | kubectl apply -f -)"
NEEDS = "get clusterroles, clusterrolebindings, roles and rolebindings of rbac.authorization.k8s.io"


def roles(
    found: Mapping[Key, One[Role]],
    bound: Mapping[Key, One[Binding]],
    wanted: Mapping[Key, Role],
    wanted_bindings: Mapping[Key, Binding],
) -> Finding:
    """Whether each role and binding gives what it should, to whom it should, and no more."""
    for each in (*found.values(), *bound.values()):
        if isinstance(each, Untold):
            return untold(CHECK, each, NEEDS)
    lacking: list[str] = []
    beyond: list[str] = []
    for key, role in wanted.items():
        _role(key, found.get(key), role, lacking, beyond)
    for key, binding in wanted_bindings.items():
        _binding(key, bound.get(key), binding, lacking, beyond)
    if lacking:
        return wrong(CHECK, "; ".join(lacking), AGAIN)
    if beyond:
        return warning(CHECK, "; ".join(beyond), f"Nothing of Quietwire needs it. {AGAIN}")
    return ok(CHECK, f"{counted(len(wanted), 'role')} and {counted(len(wanted_bindings), 'binding')} as installed")


def _role(key: Key, found: One[Role], wanted: Role, lacking: list[str], beyond: list[str]) -> None:
    where = " ".join(key)
    if not isinstance(found, Role):
        lacking.append(f"there is no {where}")
        return
    has, needs = permissions(found.rules or ()), permissions(wanted.rules or ())
    if less := [each for each in needs if not covered(each, has)]:
        lacking.append(f"{where} lacks: {names(map(str, less))}")
    if more := [each for each in has if not covered(each, needs)]:
        beyond.append(f"{where} has more than it needs: {names(map(str, more))}")


def covered(asked: Permission, by: Iterable[Permission]) -> bool:
    """Whether it is among them, or under one with wildcards, or without a name (RBAC, "Referring to resources")."""
    return any(
        each.group in {asked.group, "*"}
        and each.resource in {asked.resource, "*"}
        and each.verb in {asked.verb, "*"}
        and each.name in {asked.name, ""}
        for each in by
    )


def _binding(key: Key, found: One[Binding], wanted: Binding, lacking: list[str], beyond: list[str]) -> None:
    where = " ".join(key)
    if not isinstance(found, Binding):
        lacking.append(f"there is no {where}")
        return
    if found.role_ref != wanted.role_ref:
        lacking.append(f"{where} gives {found.role_ref.kind} {found.role_ref.name}")
    has, needs = set(found.subjects or ()), set(wanted.subjects or ())
    if less := needs - has:
        lacking.append(f"{where} is not for {names(map(_named, less))}")
    if more := has - needs:
        beyond.append(f"{where} is for {names(map(_named, more))} too")


def _named(subject: Subject) -> str:
    return f"{subject.kind} {f'{subject.namespace}/' if subject.namespace else ''}{subject.name}"
