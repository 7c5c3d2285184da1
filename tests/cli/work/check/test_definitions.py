"""Whose the definitions of policy.linkerd.io are, and whether agents can read what they serve."""

from typing import Any

import msgspec
import pytest

from agent.cli.work.check import definitions
from agent.cli.work.check.finding import Verdict
from agent.cli.work.check.seen import Definition
from tests.cli.work.check.objects import FORBIDDEN

VERSIONS = {"servers.policy.linkerd.io": ("v1beta3", "v1beta2"), "httproutes.policy.linkerd.io": ("v1beta3",)}
OURS = {"app.kubernetes.io/part-of": "quietwire"}


def definition(name: str, *served: str, established: bool = True, **metadata: Any) -> Definition:
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": OURS, **metadata},
            "spec": {
                "versions": [{"name": "v1beta3", "served": False}, *({"name": v, "served": True} for v in served)]
            },
            "status": {"conditions": [{"type": "Established", "status": str(established)}]},
        },
        Definition,
    )


ALL = (definition("servers.policy.linkerd.io", "v1beta2"), definition("httproutes.policy.linkerd.io", "v1beta3"))
OLD = (definition("servers.policy.linkerd.io", "v1beta1"), ALL[1])
LINKERDS = tuple(definition(name, "v1beta3", labels={"linkerd.io/control-plane-ns": "linkerd"}) for name in VERSIONS)
RELEASES = tuple(
    definition(name, "v1beta3", labels={}, annotations={definitions.RELEASE: "linkerd-crds"}) for name in VERSIONS
)


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        ((), Verdict.OK, "the installation brings them"),
        (ALL, Verdict.OK, "Quietwire's own"),
        (LINKERDS, Verdict.WARNING, "2 of 2 are Linkerd's"),
        (RELEASES, Verdict.WARNING, "of the helm release linkerd-crds"),
        (OLD, Verdict.WRONG, "servers.policy.linkerd.io serves v1beta1, agents read v1beta3, v1beta2"),
        (FORBIDDEN, Verdict.UNKNOWN, "403"),
    ],
)
def test_before_an_installation(found: Any, verdict: Verdict, words: str) -> None:
    said = definitions.before(found, VERSIONS)
    assert said.verdict is verdict
    assert words in said.said


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (ALL, Verdict.OK, "all 2 are served"),
        (LINKERDS, Verdict.OK, "2 are Linkerd's"),
        ((), Verdict.WRONG, "missing: httproutes.policy.linkerd.io, servers.policy.linkerd.io"),
        (ALL[:1], Verdict.WRONG, "missing: httproutes.policy.linkerd.io"),
        (OLD, Verdict.WRONG, "agents would see no object"),
        (
            (ALL[0], definition("httproutes.policy.linkerd.io", "v1beta3", established=False)),
            Verdict.WRONG,
            "not established: httproutes.policy.linkerd.io",
        ),
        (FORBIDDEN, Verdict.UNKNOWN, "403"),
    ],
)
def test_of_an_installation(found: Any, verdict: Verdict, words: str) -> None:
    said = definitions.after(found, VERSIONS)
    assert said.verdict is verdict
    assert words in said.said


def test_a_definition_of_something_else_is_nobodys_matter() -> None:
    assert definitions.before((definition("widgets.example.com"),), VERSIONS).verdict is Verdict.OK
