"""`quietwire check` on real API servers: before anything is installed, on the mesh, and where something is taken away.

What comes before an installation is tried in a cluster of one API server: definitions and roles are everybody's.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from msgspec import Struct

from agent.cli.work.check import asking, gather
from agent.cli.work.check.asking import Asking, Cause, Untold
from agent.cli.work.check.expected import GIVES_MORE, ROLES, expected, needed
from agent.cli.work.check.seen import Named
from agent.cli.work.install import Installation, objects
from agent.kubernetes.access import from_kubeconfig
from agent.kubernetes.client import Client
from agent.kubernetes.kind import Kind
from deploy.helm import __main__ as chart
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.kubernetes.inside import inside
from tests.kubernetes.mesh import NAMESPACE, Mesh
from tests.kubernetes.shop import INJECT, SLEEP

ROOT = Path(__file__).parents[2]
WELL_SECONDS = 120.0
READER = ROOT / "deploy" / "examples" / "check-reader.yaml"
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")


class Checked(Struct, frozen=True):
    """How a run ended, and its findings by their checks."""

    code: int
    found: dict[str, dict[str, str]]

    def verdicts(self, *but: str) -> dict[str, str]:
        return {check: each["verdict"] for check, each in self.found.items() if check not in but}

    def said(self, check: str) -> str:
        return f"{self.found[check]['said']} → {self.found[check].get('advice', '')}"


def check(cluster: Cluster, *words: str, by: Path | None = None) -> Checked:
    """Runs it where the API server is, as the administrator or by another kubeconfig."""
    inside_of = (
        "nsenter",
        f"--net=/run/netns/{cluster.layout.hub}",
        sys.executable,
        "-m",
        "agent.cli",
        "check",
        "--json",
    )
    kubeconfig = ("--kubeconfig", str(by or cluster.layout.kubeconfig))
    words = (*inside_of, *words, *kubeconfig)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    return Checked(done.returncode, {each["check"]: each for each in json.loads(done.stdout)["checks"]})


def kubeconfig(cluster: Cluster, directory: Path, *, token: str = "", ca: str = "", server: str = "") -> Path:
    """The administrator's, with something else in it."""
    config = yaml.safe_load(cluster.layout.kubeconfig.read_text())
    of = config["clusters"][0]["cluster"]
    if ca:
        of |= {"certificate-authority-data": None, "certificate-authority": ca}
    if server:
        of["server"] = server
    if token:
        config["users"][0]["user"] = {"token": token}
    file = directory / "kubeconfig"
    file.write_text(json.dumps(config))
    return file


def role(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    return {**kind, "metadata": {"name": name}, "rules": list(rules)}


def account(cluster: Cluster, directory: Path, name: str, role: str = "") -> Path:
    """A kubeconfig of a new service account, with a ClusterRole where one is named."""
    cluster.kubectl("create", "serviceaccount", "-n", "default", name)
    if role:
        cluster.kubectl(
            "create", "clusterrolebinding", name, f"--clusterrole={role}", f"--serviceaccount=default:{name}"
        )
    return kubeconfig(cluster, directory, token=cluster.kubectl("create", "token", "-n", "default", name).strip())


# Before anything is installed


@pytest.fixture(scope="module")
def api(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """An API server with nothing in it."""
    made = another_cluster("c")
    try:
        made.up(0)
        made.wait("-n", "default", "--for=create", "serviceaccount/default")
        yield made
    finally:
        made.down()


def test_an_empty_cluster_is_fit_for_its_administrator_who_is_told_that_it_has_no_nodes(api: Cluster) -> None:
    done = check(api, "--pre")
    assert done.code == 0
    assert done.verdicts("nodes") == dict.fromkeys(done.found.keys() - {"nodes"}, "ok")
    assert done.found["nodes"]["verdict"] == "warning"
    assert "as administrator" in done.said("api")
    assert "Kubernetes v1." in done.said("version")


def test_who_has_no_rights_is_told_which_it_takes_and_nothing_else_is_taken_for_well(
    api: Cluster, tmp_path: Path
) -> None:
    done = check(api, "--pre", by=account(api, tmp_path, "nobody"))
    assert done.code == 1
    assert "create, get, patch clusterrolebindings.rbac.authorization.k8s.io" in done.said("rights")
    assert "daemonsets.apps" in done.said("rights")
    assert {check: verdict for check, verdict in done.verdicts().items() if verdict != "ok"} == {
        "rights": "wrong", "nodes": "unknown", "namespace": "unknown", "definitions": "unknown", "linkerd": "warning",
        "installation": "unknown",
    }  # fmt: skip
    assert "right to list nodes" in done.said("nodes")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("a port where nobody listens", "Nobody listens there"),
        ("a name that there is not", "this machine's DNS"),
        ("another CA", "Its CA is not the kubeconfig's"),
        ("a token that is none", "log in again"),
    ],
)
def test_why_nobody_answers_is_said_by_its_likely_cause(api: Cluster, tmp_path: Path, what: str, words: str) -> None:
    other = {
        "a port where nobody listens": {"server": f"https://{api.layout.address}:1"},
        "a name that there is not": {"server": "https://no-such-server.invalid:6443"},
        "another CA": {"ca": str(api.layout.pki / "front-proxy-ca.crt")},
        "a token that is none": {"token": "no.such.token"},
    }[what]
    done = check(api, "--pre", by=kubeconfig(api, tmp_path, **other))
    assert done.code == 1
    assert done.found["api"]["verdict"] == "wrong"
    assert words in done.said("api")
    assert set(done.verdicts("api").values()) == {"skipped"}


def test_what_is_there_and_in_the_way_is_named(api: Cluster) -> None:
    """Definitions too old to be read, a Linkerd, and a namespace in which agents may not run."""
    old = yaml.safe_load((chart.DEFINITIONS / "servers.yaml").read_text())
    old["spec"]["versions"] = [each for each in old["spec"]["versions"] if each["name"] == "v1alpha1"]
    old["spec"]["versions"][0]["storage"] = True
    old["metadata"]["labels"] = {"linkerd.io/control-plane-ns": "linkerd"}
    labels = {"linkerd.io/control-plane-component": "destination"}
    container = {"name": "it", "image": BASE_IMAGE}
    linkerd = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "linkerd-destination", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    with api.namespace("quietwire"), api.namespace("linkerd"), contextlib.ExitStack() as then:
        api.kubectl("label", "namespace", "quietwire", "pod-security.kubernetes.io/enforce=restricted")
        api.kubectl("apply", "-n", "linkerd", "-f", "-", given=json.dumps(linkerd))
        then.callback(api.kubectl, "delete", "crd", "servers.policy.linkerd.io")
        api.kubectl("apply", "-f", "-", given=json.dumps(old))
        done = check(api, "--pre")
    assert done.code == 1
    assert "servers.policy.linkerd.io serves v1alpha1" in done.said("definitions")
    assert "control plane in linkerd" in done.said("linkerd")
    assert "enforces Pod Security 'restricted'" in done.said("namespace")
    assert done.verdicts("nodes", "clock") == {
        "api": "ok", "version": "ok", "rights": "ok", "namespace": "wrong", "definitions": "wrong",
        "linkerd": "warning", "installation": "ok",
    }  # fmt: skip


def test_a_long_list_comes_by_pages_and_what_has_no_time_left_is_untold(api: Cluster) -> None:
    client = Client(from_kubeconfig([api.layout.kubeconfig]))

    async def listed(seconds: float) -> Any:
        ask = Asking(client, asyncio.get_running_loop().time() + seconds)
        try:
            return await ask.list(CONFIG_MAPS, Named, "paged"), await gather.server(ask, "it")
        finally:
            client.close()

    with api.namespace("paged"), mock.patch.object(asking, "PAGE", 2):
        for number in range(5):
            api.kubectl("create", "configmap", "-n", "paged", f"it-{number}")
        found, server = inside(api, lambda: listed(30))
        assert {each.metadata.name for each in found} >= {f"it-{number}" for number in range(5)}
        assert abs(server.clock_ahead) < 5
        with mock.patch.object(asking, "MAX_PAGES", 2):
            endless, _ = inside(api, lambda: listed(30))
        late, unasked = inside(api, lambda: listed(-1))
    assert isinstance(endless, Untold)
    assert isinstance(unasked, Untold)
    assert late.cause is Cause.TOO_LATE


def test_who_has_all_that_check_asks_for_and_no_more_can_install(api: Cluster, tmp_path: Path) -> None:
    """Whoever makes a role and may not escalate is told what else the roles give.

    The last of these scenarios: what it installs goes with the cluster.
    """
    rules = [
        {"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]}
        for each in sorted(needed(expected("installed")))
    ]
    api.kubectl("apply", "-f", "-", given=json.dumps(role("installer", *rules)))
    installer = account(api, tmp_path, "installer", "installer")
    lacking = check(api, "--pre", "--namespace", "installed", by=installer)
    assert lacking.found["rights"]["verdict"] == "wrong"
    assert "endpointslices.discovery.k8s.io" in lacking.said("rights")
    assert "daemonsets.apps" not in lacking.said("rights")

    may = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": [*ROLES.values()], "verbs": [*GIVES_MORE]}
    api.kubectl("apply", "-f", "-", given=json.dumps(role("installer", *rules, may)))
    allowed = check(api, "--pre", "--namespace", "installed", by=installer)
    assert allowed.found["rights"]["verdict"] == "ok"
    printed = objects(Installation("installed", "localhost/quietwire:0.1.0", "cluster.local"))
    command = [word for word in api.kubectl_command("apply", "-f", "-") if not word.startswith("--kubeconfig=")]
    command.append(f"--kubeconfig={installer}")
    done = subprocess.run(command, input=printed, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert check(api, "--pre", "--namespace", "installed").verdicts()["installation"] == "warning"
    elsewhere = check(api, "--pre")
    assert "--namespace installed" in elsewhere.said("installation")
    assert elsewhere.code == 1


# On the mesh

EARLY = "a-check"
"""It comes first where pods are named in the order of the alphabet, and not all of them are."""


@pytest.fixture(scope="module")
def early(cluster: Cluster, mesh: Mesh) -> Iterator[Cluster]:
    """A pod on each node that was started before its namespace was injected; one has NET_RAW by name."""
    with cluster.namespace(EARLY):
        for number, node in enumerate(cluster.nodes):
            raw = {"securityContext": {"capabilities": {"add": ["NET_RAW"]}}} if number else {}
            container = {"name": "it", "image": BASE_IMAGE, "command": SLEEP, **raw}
            spec = {"nodeName": node.name, "terminationGracePeriodSeconds": 0, "containers": [container]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"on-{node.name}"}, "spec": spec}
            cluster.kubectl("apply", "-n", EARLY, "-f", "-", given=json.dumps(pod))
        cluster.wait("-n", EARLY, "--for=condition=Ready", "pod", "--all")
        cluster.kubectl("annotate", "namespace", EARLY, f"{INJECT}=enabled")
        yield cluster


@pytest.fixture
def reader(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """An account with what our example gives."""
    with contextlib.ExitStack() as then:
        cluster.kubectl("apply", "-f", str(READER))
        then.callback(cluster.kubectl, "delete", "-f", str(READER))
        then.callback(cluster.kubectl, "delete", "clusterrolebinding/check-reader")
        then.callback(cluster.kubectl, "delete", "serviceaccount/check-reader")
        yield account(cluster, tmp_path, "check-reader", "quietwire-check-reader")


def test_a_mesh_that_is_well_is_well_to_an_account_that_may_only_read(early: Cluster, reader: Path) -> None:
    """Other scenarios have pods too: of pods only those here are judged. What they took away comes back."""
    deadline = time.monotonic() + WELL_SECONDS
    while True:
        done = check(early, by=reader)
        wanted = dict.fromkeys(done.found.keys() - {"pods", "capabilities"}, "ok")
        if done.verdicts("pods", "capabilities") == wanted:
            break
        assert time.monotonic() < deadline, done.found
    assert {"agents", "authority", "bundle", "issuer", "injection", "validation", "roles"} < done.found.keys()


def test_pods_that_were_there_before_and_those_with_net_raw_are_named(early: Cluster, mesh: Mesh) -> None:
    done = check(early)
    assert done.code == 1
    first, second = (f"{EARLY}/on-{node.name}" for node in early.nodes)
    assert "have no init step, and are open" in done.said("pods")
    assert f"{first}, {second}" in done.said("pods")
    assert "rollout restart" in done.said("pods")
    assert done.found["capabilities"]["verdict"] == "warning"
    assert second in done.said("capabilities")


def test_where_there_is_no_installation_the_one_that_there_is_is_named(cluster: Cluster, mesh: Mesh) -> None:
    done = check(cluster, "--namespace", "elsewhere")
    assert done.code == 1
    assert f"--namespace {NAMESPACE}" in done.said("installation")
    assert done.found["agents"]["verdict"] == "skipped"
    assert done.found["nodes"]["verdict"] == "ok"


@pytest.mark.disruptive
def test_what_is_taken_away_is_named_all_at_once_and_all_is_well_when_it_is_back(early: Cluster, mesh: Mesh) -> None:
    """The webhooks scaled to nothing, a role narrowed, and a node that the agents' DaemonSet leaves out."""
    stays, left = early.nodes
    agents = json.loads(mesh.kubectl("get", "clusterrole", "quietwire-agent", "-o", "json"))
    events = [each for each in agents["rules"] if "events" in each["resources"]]
    narrowed = {**agents, "rules": [each for each in agents["rules"] if each not in events]}
    with contextlib.ExitStack() as then:
        then.callback(mesh.ready, "deployment/quietwire-webhook")
        then.callback(mesh.kubectl, "scale", "deployment/quietwire-webhook", "--replicas=2")
        mesh.kubectl("scale", "deployment/quietwire-webhook", "--replicas=0")
        give_back = {"rules": agents["rules"]}
        then.callback(
            mesh.kubectl, "patch", "clusterrole", "quietwire-agent", "--type=merge", "-p", json.dumps(give_back)
        )
        mesh.kubectl("replace", "-f", "-", given=json.dumps(narrowed))
        then.enter_context(mesh.only_on(stays.name, left.name))
        mesh.cluster.wait("-n", NAMESPACE, "--for=delete", "pod", "-l", "app.kubernetes.io/component=webhook")
        done = check(early)
    assert done.code == 1
    assert "wants no pod" in done.said("webhook rollout")
    assert "nobody is ready behind Service quietwire-webhook" in done.said("webhook")
    assert "ClusterRole quietwire-agent lacks: create events" in done.said("roles")
    assert re.search(rf"{left.name} \(there is none, \d+ pods? to be meshed (is|are) there\)", done.said("agents"))
    assert stays.name not in done.said("agents")
    assert {done.found[each]["verdict"] for each in ("authority", "bundle", "injection", "nodes")} == {"ok"}
    after = check(early, "--wait", "1")
    assert after.verdicts("pods", "capabilities") == dict.fromkeys(done.found.keys() - {"pods", "capabilities"}, "ok")
