"""What an installation is made of, read from what `quietwire install` prints. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from agent.catalog.sources.kubernetes import kinds
from agent.cli.work.check.seen import Binding, Configuration, Permission, Role, Rule
from agent.cli.work.install import Installation, objects
from agent.kubernetes.kind import Kind

VERBS = ("get", "create", "patch")
"""What `kubectl apply` and helm do with each object."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


FOLLOWED = {str(each.kind): tuple(kind.version for kind in each.versions) for each in kinds.POLICIES}
"""In which versions agents follow policy; of what none follows yet, any will do."""


class Expected(Struct, frozen=True):
    """The objects that are looked for, by kind and name."""

    namespace: str
    kinds: frozenset[tuple[Kind, bool]]
    """Of all objects, and whether they have a namespace."""
    definitions: dict[str, tuple[str, ...]]
    """By their names: the versions that agents can read, the newest first."""
    roles: dict[tuple[str, str], Role]
    bindings: dict[tuple[str, str], Binding]
    configurations: dict[str, Configuration]


def expected(namespace: str) -> Expected:
    """Of an installation in this namespace. Raises ConfigError for what cannot be one."""
    text = objects(Installation(namespace, "image", "cluster.local"))
    found: list[dict[str, Any]] = [each for each in yaml.load_all(text, _Loader) if each]
    return Expected(
        namespace,
        frozenset((kind_of(each), "namespace" in each["metadata"]) for each in found),
        {
            (name := each["metadata"]["name"]): FOLLOWED.get(
                name, tuple(version["name"] for version in each["spec"]["versions"])
            )
            for each in found
            if each["kind"] == "CustomResourceDefinition"
        },
        {_key(each): msgspec.convert(each, Role) for each in found if each["kind"] in {"Role", "ClusterRole"}},
        {
            _key(each): msgspec.convert(each, Binding)
            for each in found
            if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        },
        {
            each["kind"]: msgspec.convert(each, Configuration)
            for each in found
            if each["kind"].endswith("WebhookConfiguration")
        },
    )


def kind_of(manifest: dict[str, Any]) -> Kind:
    """Of an object of ours: the plurals of all our kinds are regular."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    return Kind(group, version, f"{manifest['kind'].lower()}s", manifest["kind"])


def _key(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def needed(wanted: Expected) -> frozenset[Permission]:
    """What whoever installs must be allowed to do."""
    return frozenset(
        Permission(kind.group, kind.plural, verb, wanted.namespace if namespaced else "")
        for kind, namespaced in wanted.kinds
        for verb in VERBS
    )


ROLES = {"ClusterRole": "clusterroles", "Role": "roles"}
GIVES_MORE = ("escalate", "bind")
"""With both verbs one may give rights that one has not; without, only one's own ("Privilege escalation prevention")."""


def given(wanted: Expected, kind: str) -> frozenset[Permission]:
    """What the roles of a kind give: whoever makes and binds them has it, or has GIVES_MORE."""
    return frozenset(
        each
        for (of, _), role in wanted.roles.items()
        if of == kind
        for each in permissions(role.rules or (), "" if kind == "ClusterRole" else wanted.namespace)
    )


def permissions(rules: Iterable[Rule], namespace: str = "") -> frozenset[Permission]:
    """What rules allow, one by one."""
    return frozenset(
        Permission(group, resource, verb, namespace, name)
        for rule in rules
        for group in rule.api_groups
        for resource in rule.resources
        for verb in rule.verbs
        for name in rule.resource_names or ("",)
    )
