"""The API server's version and clock, what one may do, and what is there before."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.work.check import cluster
from agent.cli.work.check.asking import Cause, Untold
from agent.cli.work.check.finding import Verdict
from agent.cli.work.check.seen import Permission, Server
from deploy.helm.__main__ import CHART
from tests.cli.work.check.objects import FORBIDDEN, UNTOLD, namespace, workload

OK, WARNING, WRONG, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.WRONG, Verdict.UNKNOWN


def server(version: str = "v1.36.3", ahead: float | None = 0.2) -> Server:
    return Server("https://192.0.2.1:6443", version, "admin", ahead)


@pytest.mark.parametrize("cause", list(Cause))
def test_whoever_gets_no_answer_is_told_the_likely_cause(cause: Cause) -> None:
    found = cluster.api(Untold(cause, "it was so"), "https://192.0.2.1:6443")
    assert (found.verdict, found.said) == (WRONG, "https://192.0.2.1:6443: it was so")
    assert found.advice


def test_an_answer_names_the_server_and_whom_it_knows_us_as() -> None:
    assert (
        cluster.api(server(), "https://192.0.2.1:6443").said == "https://192.0.2.1:6443 answers, and knows us as admin"
    )


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("v1.31.9", WRONG), ("v1.32.0", OK), ("v1.33.1-eks-b9364f6", OK), ("v1.32.4+k3s1", OK), ("v2.0.0", OK),
        ("1.9.0", WRONG), ("", UNKNOWN), ("master", UNKNOWN),
    ],
)  # fmt: skip
def test_a_server_is_new_enough_from_1_32_on(version: str, verdict: Verdict) -> None:
    assert cluster.version(server(version)).verdict is verdict


def test_the_chart_wants_the_same_version() -> None:
    chart = yaml.safe_load(Path(CHART, "Chart.yaml").read_text())
    assert re.findall(r"\d+", chart["kubeVersion"])[:2] == list(map(str, cluster.LOWEST_VERSION))


@pytest.mark.parametrize(
    ("ahead", "verdict", "words"),
    [
        (0.4, OK, "within 30 s"), (-29.0, OK, "within 30 s"), (31.0, WARNING, "31 s ahead of"),
        (-200.0, WARNING, "200 s behind"), (-300.0, WRONG, "300 s behind"), (None, WARNING, "no Date"),
    ],
)  # fmt: skip
def test_clocks_that_are_apart_are_named_with_how_far(ahead: float | None, verdict: Verdict, words: str) -> None:
    found = cluster.clock(server(ahead=ahead))
    assert found.verdict is verdict
    assert words in found.said


def test_what_one_may_not_is_listed_by_kind_with_its_verbs() -> None:
    missing = (
        Permission("apps", "daemonsets", "patch", "quietwire"),
        Permission("apps", "daemonsets", "create", "quietwire"),
        *(Permission("apps", "deployments", verb, "quietwire") for verb in ("create", "patch")),
        Permission("", "namespaces", "create"),
        Permission("", "configmaps", "delete", "", "quietwire-bundle"),
    )
    found = cluster.rights(missing, "quietwire")
    assert found.verdict is WRONG
    assert found.said == (
        "you may not: create namespaces; create, patch daemonsets.apps, deployments.apps; "
        "delete configmaps quietwire-bundle"
    )
    assert cluster.rights((), "quietwire").verdict is OK


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        ({}, OK), ({cluster.ENFORCE: "privileged"}, OK), ({cluster.ENFORCE: "baseline"}, WRONG),
        ({cluster.ENFORCE: "restricted"}, WRONG),
    ],
)  # fmt: skip
def test_a_namespace_must_allow_privileged_pods(labels: dict[str, str], verdict: Verdict) -> None:
    found = cluster.pod_security(namespace("quietwire", **labels), "quietwire")
    assert found.verdict is verdict
    assert ("kubectl label namespace quietwire" in found.advice) is (verdict is WRONG)


def test_a_namespace_that_is_not_there_yet_is_well() -> None:
    assert cluster.pod_security(None, "quietwire").verdict is OK


LINKERD = (workload("linkerd-destination", of="linkerd"),)
BESIDE = workload("quietwire-agent", args=["agent", "--beside-linkerd"])


@pytest.mark.parametrize(
    ("found", "agents", "verdict", "words"),
    [
        ((), None, OK, "there is none"),
        (LINKERD, None, WARNING, "in linkerd: both would act"),
        ((), workload("quietwire-agent"), OK, "there is none"),
        (LINKERD, workload("quietwire-agent"), WARNING, "in linkerd: both would act"),
        (LINKERD, BESIDE, OK, "installed beside it"),
        ((), BESIDE, WARNING, "besideLinkerd=true leaves out"),
    ],
)
def test_a_linkerd_is_well_where_agents_know_of_it(found: Any, agents: Any, verdict: Verdict, words: str) -> None:
    said = cluster.linkerd(found, agents)
    assert said.verdict is verdict
    assert words in said.said


AGENT = workload("quietwire-agent")
ELSEWHERE = workload("quietwire-agent", of="mesh")


def test_before_an_installation_one_that_is_there_is_an_upgrade_and_one_elsewhere_is_in_the_way() -> None:
    assert cluster.installations((), "quietwire").verdict is OK
    assert cluster.installations((AGENT,), "quietwire").verdict is WARNING
    found = cluster.installations((ELSEWHERE,), "quietwire")
    assert found.verdict is WRONG
    assert "--namespace mesh" in found.advice


def test_an_installation_is_found_or_where_it_is_is_said() -> None:
    assert cluster.installed((AGENT, ELSEWHERE), "quietwire").said == "0.1.0 in quietwire"
    assert cluster.installed((ELSEWHERE,), "quietwire").advice == "--namespace mesh"
    assert cluster.installed((), "quietwire").verdict is WRONG


@pytest.mark.parametrize("why", [UNTOLD, FORBIDDEN])
def test_what_cannot_be_told_is_never_well(why: Untold) -> None:
    found = [
        cluster.rights(why, "quietwire"),
        cluster.pod_security(why, "quietwire"),
        cluster.installations(why, "quietwire"),
        cluster.installed(why, "quietwire"),
    ]
    assert {each.verdict for each in found} == {UNKNOWN}
    assert all(why.reason in each.said for each in found)
    assert cluster.linkerd(why).verdict is WARNING


def test_whoever_is_forbidden_is_told_which_right_it_takes() -> None:
    assert "list daemonsets.apps" in cluster.installations(FORBIDDEN, "quietwire").advice
