"""What is looked for is what `quietwire install` prints."""

import pytest

from agent.cli.work.check.expected import expected, given, needed
from agent.cli.work.check.seen import Permission
from agent.flags import ConfigError

WANTED = expected("mesh")


def test_every_object_of_an_installation_is_to_be_made_where_it_belongs() -> None:
    may = needed(WANTED)
    assert Permission("", "namespaces", "create") in may
    assert Permission("apps", "daemonsets", "create", "mesh") in may
    assert Permission("policy", "poddisruptionbudgets", "patch", "mesh") in may
    assert Permission("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get") in may


def test_who_may_not_escalate_must_have_what_the_roles_give() -> None:
    everywhere, there = given(WANTED, "ClusterRole"), given(WANTED, "Role")
    assert Permission("", "pods", "watch") in everywhere
    assert Permission("", "configmaps", "delete", "", "quietwire-bundle") in everywhere
    assert Permission("", "secrets", "create", "mesh") in there
    assert Permission("", "secrets", "create") not in everywhere


def test_definitions_are_known_in_the_versions_that_agents_read() -> None:
    assert WANTED.definitions["servers.policy.linkerd.io"] == ("v1beta3", "v1beta2", "v1beta1")
    assert WANTED.definitions["egressnetworks.policy.linkerd.io"] == ("v1alpha1",)
    assert len(WANTED.definitions) == 8


def test_bindings_are_for_the_accounts_of_the_namespace() -> None:
    (subject,) = WANTED.bindings["ClusterRoleBinding", "quietwire-agent"].subjects or ()
    assert (subject.name, subject.namespace) == ("quietwire-agent", "mesh")


def test_webhooks_are_known_by_kind_with_what_becomes_of_pods_without_them() -> None:
    policies = {kind: each.webhooks[0].failure_policy for kind, each in WANTED.configurations.items()}
    assert policies == {"MutatingWebhookConfiguration": "Fail", "ValidatingWebhookConfiguration": "Ignore"}


def test_what_can_be_no_namespace_is_refused() -> None:
    with pytest.raises(ConfigError, match="--namespace"):
        expected("No Such")
