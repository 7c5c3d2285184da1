"""What parts of the installation may do, beside what they are installed with."""

from typing import Any

import msgspec
import pytest

from agent.cli.work.check.finding import Verdict
from agent.cli.work.check.roles import roles
from agent.cli.work.check.seen import Binding, Role
from tests.cli.work.check.objects import FORBIDDEN

KEY = ("ClusterRole", "quietwire-agent")
BOUND = ("ClusterRoleBinding", "quietwire-agent")
PODS = {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["list", "watch"]}
MAPS = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["it"], "verbs": ["patch"]}


def role(*rules: dict[str, Any]) -> Role:
    return msgspec.convert({"metadata": {"name": "it"}, "rules": rules or None}, Role)


def binding(*subjects: str, of: str = "quietwire-agent") -> Binding:
    accounts = [{"kind": "ServiceAccount", "name": each, "namespace": "quietwire"} for each in subjects]
    ref = {"kind": "ClusterRole", "name": of, "apiGroup": "rbac.authorization.k8s.io"}
    return msgspec.convert({"metadata": {"name": "it"}, "roleRef": ref, "subjects": accounts or None}, Binding)


WANTED = {KEY: role(PODS, MAPS)}
BINDINGS = {BOUND: binding("quietwire-agent")}


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (role(PODS, MAPS), Verdict.OK, "1 role and 1 binding as installed"),
        (
            role(*({**PODS, "resources": [each]} for each in ("nodes", "pods")), MAPS),
            Verdict.OK,
            "as installed",
        ),
        (role({**PODS, "resources": ["nodes"]}, MAPS), Verdict.WRONG, "lacks: list pods, watch pods"),
        (role(PODS), Verdict.WRONG, "lacks: patch configmaps it"),
        (role(PODS, {**MAPS, "resourceNames": ["other"]}), Verdict.WRONG, "lacks: patch configmaps it"),
        (role(), Verdict.WRONG, "lacks: list nodes"),
        (None, Verdict.WRONG, "there is no ClusterRole quietwire-agent"),
        (role(PODS, {**MAPS, "resourceNames": []}), Verdict.WARNING, "more than it needs: patch configmaps"),
        (role(PODS, MAPS, {**PODS, "resources": ["secrets"]}), Verdict.WARNING, "list secrets, watch secrets"),
        (
            role({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
            Verdict.WARNING,
            "more than it needs: * *.*",
        ),
        (FORBIDDEN, Verdict.UNKNOWN, "403"),
    ],
)
def test_a_role_gives_what_it_should_and_no_more(found: Any, verdict: Verdict, words: str) -> None:
    said = roles({KEY: found}, BINDINGS, WANTED, BINDINGS)
    assert said.verdict is verdict
    assert words in said.said


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (binding("quietwire-agent", "stranger"), Verdict.WARNING, "is for ServiceAccount quietwire/stranger too"),
        (binding("stranger"), Verdict.WRONG, "is not for ServiceAccount quietwire/quietwire-agent"),
        (binding(), Verdict.WRONG, "is not for ServiceAccount quietwire/quietwire-agent"),
        (binding("quietwire-agent", of="view"), Verdict.WRONG, "gives ClusterRole view"),
        (None, Verdict.WRONG, "there is no ClusterRoleBinding quietwire-agent"),
        (FORBIDDEN, Verdict.UNKNOWN, "403"),
    ],
)
def test_a_binding_is_for_whom_it_should_be(found: Any, verdict: Verdict, words: str) -> None:
    said = roles(WANTED, {BOUND: found}, WANTED, BINDINGS)
    assert said.verdict is verdict
    assert words in said.said
