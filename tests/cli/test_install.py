"""`quietwire install`: the objects of an installation; agents and the authority may do what they do, and no more."""

import re
from typing import Any

import pytest
import yaml

from agent.catalog.sources.kubernetes import kinds
from agent.cli.work.install import OBJECTS, STAND_INS
from deploy.helm.__main__ import CHART
from tests.cli.typed import quietwire


def installed(*words: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What it prints, by kind and name."""
    done = quietwire("install", *words)
    assert (done.code, done.err) == (0, "")
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.out)}


def rules(kind: str, name: str) -> set[tuple[str, str, str]]:
    """Group, resource and verb of all that a role allows."""
    return {
        (group, resource, verb)
        for rule in installed()[kind, name]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_flags_are_everywhere_where_they_belong() -> None:
    objects = installed("--namespace", "mesh", "--image", "registry.example/q:1", "--trust-domain", "example.org")
    assert next(iter(objects)) == ("Namespace", "mesh")
    assert {each["metadata"].get("namespace", "mesh") for each in objects.values()} == {"mesh"}
    for kind, name in (("DaemonSet", "quietwire-agent"), ("Deployment", "quietwire-authority")):
        (container,) = objects[kind, name]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/q:1"
        assert "--trust-domain=example.org" in container["args"]
    bound = objects["ClusterRoleBinding", "quietwire-agent"]["subjects"]
    assert bound == [{"kind": "ServiceAccount", "name": "quietwire-agent", "namespace": "mesh"}]


def test_nothing_that_stands_for_a_flag_is_left() -> None:
    said = quietwire("install").out
    assert not [each for each in (STAND_INS.namespace, STAND_INS.image, STAND_INS.trust_domain) if each in said]
    assert {each.namespace for each in [STAND_INS]} < set(re.findall(r"[\w-]+", OBJECTS.read_text()))


def test_definitions_are_left_out_where_linkerds_are() -> None:
    kinds_of = [kind for kind, _ in installed()]
    assert kinds_of.count("CustomResourceDefinition") == 8
    assert [kind for kind, _ in installed("--no-definitions")] == [
        each for each in kinds_of if each != "CustomResourceDefinition"
    ]


@pytest.mark.parametrize(
    "words",
    [["--namespace", "Mesh"], ["--namespace", "a\nb"], ["--image", "a b"], ["--trust-domain", "x: {}"]],
)
def test_what_cannot_be_a_name_is_refused_and_nothing_is_printed(words: list[str]) -> None:
    done = quietwire("install", *words)
    assert (done.code, done.out) == (2, "")
    assert words[0] in done.err


def test_an_agent_may_follow_what_it_follows_say_what_it_says_and_no_more() -> None:
    followed = {(each.kind.group, each.kind.plural, verb) for each in kinds.FOLLOWED for verb in ("list", "watch")}
    later = {("policy.linkerd.io", plural, verb) for plural in LATER for verb in ("list", "watch")}
    said = {("", "pods/status", "patch"), ("", "events", "create")}
    assert rules("ClusterRole", "quietwire-agent") == followed | later | said


LATER = ("egressnetworks", "httplocalratelimitpolicies")
"""Kinds that the decoder knows, and that no agent follows yet."""


def test_the_authority_reads_no_secret_outside_its_namespace_and_writes_one_name_there() -> None:
    everywhere = rules("ClusterRole", "quietwire-authority")
    assert not [resource for _, resource, _ in everywhere if resource == "secrets"]
    assert {verb for _, resource, verb in everywhere if resource in {"pods", "namespaces"}} == {
        "list",
        "watch",
    }
    named = [
        rule.get("resourceNames")
        for rule in installed()["ClusterRole", "quietwire-authority"]["rules"]
        if rule["resources"] == ["configmaps"] and rule["verbs"] != ["create"]
    ]
    assert named == [["quietwire-bundle"]]


@pytest.mark.parametrize("template", ["agent.yaml", "authority.yaml"])
def test_every_rule_has_its_reason_in_a_comment(template: str) -> None:
    lines = (CHART / "templates" / template).read_text().splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith("  - apiGroups:")]
    unexplained = [number + 1 for number in found if not lines[number - 1].strip().startswith("#")]
    assert len(found) >= 6
    assert unexplained == []


def test_nobody_but_the_agent_is_privileged_and_every_root_is_read_only() -> None:
    objects = installed()
    agent = objects["DaemonSet", "quietwire-agent"]["spec"]["template"]["spec"]
    authority = objects["Deployment", "quietwire-authority"]["spec"]["template"]["spec"]
    assert agent["containers"][0]["securityContext"]["privileged"] is True
    assert authority["containers"][0]["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert agent["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert authority["securityContext"]["runAsNonRoot"] is True
    assert "hostNetwork" not in authority
    for each in (agent, authority):  # tokens are projected by name, and no other is mounted
        assert each["automountServiceAccountToken"] is False


def test_the_agents_token_is_for_the_authority_alone() -> None:
    volumes = installed()["DaemonSet", "quietwire-agent"]["spec"]["template"]["spec"]["volumes"]
    (token,) = [each["projected"]["sources"] for each in volumes if each["name"] == "authority-token"]
    assert [each["serviceAccountToken"]["audience"] for each in token] == ["quietwire-authority"]
