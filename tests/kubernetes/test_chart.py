"""The chart on a real API server: what helm says of it, and what an installation leaves when it goes.

In a cluster of its own, of one API server: definitions and roles are everybody's. Nothing runs there.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.work.install import OBJECTS, Installation, objects
from deploy.helm import __main__ as chart
from tests.kubernetes.cluster.cluster import Cluster, ClusterError

WHERE = ("--namespace", "mesh")
CHART = str(chart.CHART)


@pytest.fixture(scope="module")
def api(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """An API server with a namespace for the mesh."""
    made = another_cluster("h")
    try:
        made.up(0)
        with made.namespace("mesh"):
            yield made
    finally:
        made.down()


@pytest.fixture
def empty(api: Cluster) -> Iterator[Cluster]:
    """With nothing of the mesh in it, before and after."""
    yield api
    for release in json.loads(api.helm("list", "--all-namespaces", "-o", "json")):
        api.helm("uninstall", release["name"], "--namespace", release["namespace"], *GONE)
    if api.kubectl("get", "crd", "-o", "name"):
        api.wait("--for=condition=Established", "crd", "--all")  # before, it may take minutes
        api.kubectl("delete", "crd", "--all")


GONE = ("--wait", "--cascade", "foreground", "--timeout", "60s")


def everything(api: Cluster) -> set[str]:
    """What exists, but what a cluster says of its own life."""
    resources = set(api.kubectl("api-resources", "--verbs=list", "-o", "name").split())
    asked = sorted(resources - {"events", "events.events.k8s.io", "leases.coordination.k8s.io"})
    shown = "{range .items[*]}{.kind}{' '}{.metadata.namespace}{'/'}{.metadata.name}{'\\n'}{end}"
    said = api.kubectl("get", ",".join(asked), "-A", "-o", f"jsonpath={shown}")
    return set(said.splitlines()) - {line for line in said.splitlines() if line.startswith("ComponentStatus")}


def test_helm_finds_nothing_to_say_of_the_chart(api: Cluster) -> None:
    said = api.helm("lint", "--strict", CHART, "--kube-version", chart.KUBERNETES)
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_what_install_prints_is_up_to_date(helm: Path) -> None:
    assert OBJECTS.read_text() == chart.objects(helm), "run `make chart`"


@pytest.fixture
def helm(api: Cluster) -> Path:
    """The program itself."""
    return api.program("helm")


@pytest.mark.parametrize(
    "wanted",
    [
        Installation("quietwire", "localhost/quietwire:0.1.0", "cluster.local"),
        Installation("mesh", "registry.example:5000/team/quietwire:v7", "example.org"),
    ],
    ids=lambda each: each.namespace,
)
@pytest.mark.parametrize("definitions", [True, False])
def test_install_prints_what_helm_renders(helm: Path, wanted: Installation, definitions: bool) -> None:
    repository, _, tag = wanted.image.rpartition(":")
    flags = {
        "image.repository": repository,
        "image.tag": tag,
        "trustDomain": wanted.trust_domain,
        "crds.install": str(definitions).lower(),
    }
    settings = [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]
    rendered = list(yaml.safe_load_all(chart.rendered(helm, *settings, namespace=wanted.namespace)))
    namespace, *printed = yaml.safe_load_all(objects(wanted, definitions=definitions))
    assert printed == [each for each in rendered if each]
    assert namespace["metadata"]["name"] == wanted.namespace


@pytest.mark.parametrize(
    "setting",
    [
        "agent.egressMode=never",
        "agent.defaultInboundPolicy=open",
        "agent.typo=1",
        "authority.replicas=0",
        "agent.runDirectory=/var/quietwire",
        "image.digest=sha256:1",
        "webhook.injectionFailurePolicy=Maybe",
        "webhook.init.memory=much",
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(helm: Path, setting: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        chart.rendered(helm, "--set", setting, namespace="mesh")
    name = setting.partition("=")[0].rpartition(".")[2]
    assert name in refused.value.stderr


def test_what_is_set_is_in_what_is_rendered(helm: Path) -> None:
    settings = {
        "image.digest": f"sha256:{'a' * 64}",
        "image.pullSecrets": "{one}",
        "agent.accessLog": "true",
        "agent.workers": "3",
        "agent.drainSeconds": "5",
        "authority.replicas": "1",
        "authority.issuerSecret": "from-cert-manager",
        "authority.podAnnotations.a": "b",
        "agent.podAnnotations.c": "d",
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    found = {
        (each["kind"], each["metadata"]["name"]): each
        for each in yaml.safe_load_all(chart.rendered(helm, *words, namespace="mesh"))
    }
    assert ("PodDisruptionBudget", "quietwire-authority") not in found, "of one replica it would hold up every drain"
    agent = found["DaemonSet", "quietwire-agent"]["spec"]["template"]
    authority = found["Deployment", "quietwire-authority"]["spec"]["template"]
    for template in (agent, authority):
        assert template["spec"]["containers"][0]["image"] == f"localhost/quietwire@sha256:{'a' * 64}"
        assert template["spec"]["imagePullSecrets"] == [{"name": "one"}]
    assert {"--access-log", "--workers=3", "--drain-timeout=5"} <= set(agent["spec"]["containers"][0]["args"])
    assert agent["spec"]["terminationGracePeriodSeconds"] == 20
    assert agent["metadata"]["annotations"] == {"c": "d"}
    assert authority["metadata"]["annotations"] == {"linkerd.io/inject": "disabled", "a": "b"}
    assert "--issuer-cert=/etc/quietwire/issuer/tls.crt" in authority["spec"]["containers"][0]["args"]
    issuer = [each for each in authority["spec"]["volumes"] if each["name"] == "issuer"]
    assert issuer[0]["secret"]["secretName"] == "from-cert-manager"


def test_webhooks_can_be_left_out_or_be_told_what_to_leave_alone(helm: Path) -> None:
    without = chart.rendered(helm, "--set", "webhook.enabled=false", namespace="mesh")
    assert "webhook" not in without
    words = ("--set", "webhook.exemptNamespaces={kube-system,mesh,theirs}", "--set", "webhook.replicas=1")
    found = [each for each in yaml.safe_load_all(chart.rendered(helm, *words, namespace="mesh")) if each]
    for each in found:
        if each["kind"].endswith("WebhookConfiguration"):
            (expression,) = each["webhooks"][0]["namespaceSelector"]["matchExpressions"]
            assert expression == {
                "key": "kubernetes.io/metadata.name",
                "operator": "NotIn",
                "values": ["mesh", "kube-system", "theirs"],
            }
    budgets = [each["metadata"]["name"] for each in found if each["kind"] == "PodDisruptionBudget"]
    assert "quietwire-webhook" not in budgets, "of one replica it would hold up every drain"


def test_beside_linkerd_a_label_says_whose_a_namespace_is(helm: Path) -> None:
    """Of one that Linkerd's injector is asked about nothing of ours is asked, and the other way round."""
    said = chart.rendered(helm, "--set", "besideLinkerd=true", namespace="mesh")
    found = [each for each in yaml.safe_load_all(said) if each]
    selectors = [
        each["webhooks"][0]["namespaceSelector"]["matchExpressions"]
        for each in found
        if each["kind"].endswith("WebhookConfiguration")
    ]
    label = {"key": "config.linkerd.io/admission-webhooks", "operator": "In", "values": ["disabled"]}
    assert [label in each for each in selectors] == [True, True]
    (agent,) = [each for each in found if each["kind"] == "DaemonSet"]
    assert "--beside-linkerd" in agent["spec"]["template"]["spec"]["containers"][0]["args"]
    by_itself = chart.rendered(helm, namespace="mesh")
    assert "admission-webhooks" not in by_itself
    assert "--beside-linkerd" not in by_itself


def test_it_is_installed_upgraded_and_uninstalled_and_leaves_nothing(empty: Cluster) -> None:
    before = everything(empty)
    empty.helm("install", "quietwire", CHART, *WHERE, "--set", "crds.keep=false")
    during = everything(empty)
    assert {"DaemonSet mesh/quietwire-agent", "Deployment mesh/quietwire-authority"} < during - before
    assert "CustomResourceDefinition /servers.policy.linkerd.io" in during
    empty.helm("upgrade", "quietwire", CHART, *WHERE, "--reuse-values", "--set", "authority.replicas=2")
    replicas = empty.kubectl("get", "-n", "mesh", "deploy/quietwire-authority", "-o", "jsonpath={.spec.replicas}")
    assert replicas == "2"
    empty.helm("uninstall", "quietwire", *WHERE, *GONE)
    assert everything(empty) - before == set()
    assert before - everything(empty) == set()


SERVER = {
    "apiVersion": "policy.linkerd.io/v1beta3",
    "kind": "Server",
    "metadata": {"name": "theirs", "namespace": "default"},
    "spec": {"podSelector": {}, "port": 80},
}


def apply(api: Cluster, *what: dict[str, Any]) -> None:
    api.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join(map(json.dumps, what)))


def test_by_default_uninstalling_leaves_everybodys_policies_and_another_installation_takes_them_over(
    empty: Cluster,
) -> None:
    empty.helm("install", "quietwire", CHART, *WHERE)
    before = everything(empty)
    empty.wait("--for=condition=Established", "crd", "--all")
    apply(empty, SERVER)
    empty.helm("uninstall", "quietwire", *WHERE, *GONE)
    left = everything(empty)
    assert "Server default/theirs" in left
    assert {each.partition(" ")[0] for each in left - before} == {"Server"}
    assert not [each for each in left if "quietwire" in each]
    empty.helm("install", "quietwire", CHART, *WHERE, "--set", "crds.keep=false")
    assert "Server default/theirs" in everything(empty)


def test_definitions_that_are_there_stay_as_they_are(empty: Cluster) -> None:
    """Linkerd's, as a rule: neither taken over, nor changed, nor taken away."""
    theirs = yaml.safe_load((chart.DEFINITIONS / "servers.yaml").read_text())
    theirs["metadata"]["annotations"] = {"meta.helm.sh/release-name": "linkerd-crds"}
    theirs["spec"]["names"]["shortNames"] = ["theirs"]
    apply(empty, theirs)
    empty.helm("install", "quietwire", CHART, *WHERE, "--set", "crds.keep=false")
    name = "servers.policy.linkerd.io"

    def now() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(empty.kubectl("get", "crd", name, "-o", "json"))
        return found

    assert now()["spec"]["names"]["shortNames"] == ["theirs"]
    assert "app.kubernetes.io/part-of" not in now()["metadata"].get("labels", {})
    assert "CustomResourceDefinition /httproutes.policy.linkerd.io" in everything(empty)
    empty.helm("upgrade", "quietwire", CHART, *WHERE, "--reuse-values")
    empty.helm("uninstall", "quietwire", *WHERE, *GONE)
    assert now()["spec"]["names"]["shortNames"] == ["theirs"]
    assert "CustomResourceDefinition /httproutes.policy.linkerd.io" not in everything(empty)


def test_what_install_prints_is_taken_by_kubectl_and_taken_away_again(empty: Cluster) -> None:
    before = everything(empty)
    printed = objects(Installation("printed", "localhost/quietwire:0.1.0", "cluster.local"))
    empty.kubectl("apply", "-f", "-", given=printed)
    assert "DaemonSet printed/quietwire-agent" in everything(empty)
    empty.kubectl("apply", "-f", "-", given=printed)  # once more changes nothing, and is no error
    empty.kubectl("delete", "--cascade=foreground", "-f", "-", given=printed)
    assert everything(empty) - before == set()


def test_a_second_installation_of_one_cluster_is_refused(empty: Cluster) -> None:
    empty.helm("install", "quietwire", CHART, *WHERE, "--set", "crds.install=false")
    with pytest.raises(ClusterError, match=r"quietwire-a.*exists and cannot be imported"):
        empty.helm("install", "another", CHART, "--namespace", "default")
