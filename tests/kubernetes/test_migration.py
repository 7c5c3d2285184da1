"""docs/migrate-from-linkerd.md, played: its commands, in its order, on a cluster that has Linkerd, under load.

In a cluster of its own, which has Linkerd (`linkerd`, a stand-in) before it has us. Each test goes on where the one
before ended.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.objects.model import LINKERDS_PROXY
from agent.webhook.injection import CONTAINER
from deploy.image import build
from tests.kubernetes.cluster.cluster import Cluster, ClusterError
from tests.kubernetes.linkerd import CONFIGURATION, MARK, charts, injector
from tests.kubernetes.shop import PORT, account, deployment, service

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "migrate-from-linkerd.md"
STOCK, ORDERS, VISITOR = "stock", "orders", "visitor"
OPEN, MOVE, SEEN, BACK = "Open each namespace", "Move a namespace", "See that it is so", "Go back with a namespace"
CALLS = "/var/tmp/calls"
"""On each node: who calls outlives its pod in it."""
BLOCK_SECONDS = 240
LEAST = 20
"""Calls that each client has made before anything is said of them."""
LINKERDS = {"linkerd", ""}
POLICIES = ("servers", "authorizationpolicies", "meshtlsauthentications", "networkauthentications")


def sections() -> dict[str, list[str]]:
    """The blocks of commands under each heading of the page."""
    found = {}
    for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, rest = part.partition("\n")
        found[heading] = re.findall(r"^```sh\n(.*?)^```$", rest, flags=re.MULTILINE | re.DOTALL)
    return found


class Operator:
    """Who reads the page, and types what it says."""

    def __init__(self, cluster: Cluster, desk: Path) -> None:
        self.cluster = cluster
        self.typed: set[str] = set()
        self._desk = desk
        programs = {
            "kubectl": [*cluster.kubectl_command()],
            "helm": ["nsenter", f"--net=/run/netns/{cluster.layout.hub}", str(cluster.program("helm"))],
            "quietwire": ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "agent.cli"],
        }
        (desk / "bin").mkdir()
        for name, words in programs.items():
            program = desk / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            program.chmod(0o755)
        (desk / "deploy").symlink_to(ROOT / "deploy")
        self._environment = {
            "PATH": f"{desk / 'bin'}:{os.environ['PATH']}",
            "HOME": str(desk),
            "KUBECONFIG": str(cluster.layout.kubeconfig),
        }

    def types(self, heading: str, namespace: str = "") -> str:
        """The commands under one heading; what they say."""
        said = ""
        for block in sections()[heading]:
            self.typed.add(block)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=self._desk,
                env={**self._environment, "NAMESPACE": namespace},
                capture_output=True,
                text=True,
                check=False,
                timeout=BLOCK_SECONDS,
            )
            assert done.returncode == 0, f"{heading}:\n{block}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
        return said

    def applies(self, namespace: str, *objects: dict[str, Any]) -> None:
        """Objects, as they are given."""
        self.cluster.kubectl("-n", namespace, "apply", "-f", "-", given="\n---\n".join(map(json.dumps, objects)))


class Callers:
    """`webapp` of each namespace calls `api` of the other, without a pause; each call is a line on its node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._node = cluster.nodes[1]
        self._judged = {STOCK: 0, ORDERS: 0}

    @staticmethod
    def application(namespace: str, other: str, node: str) -> dict[str, Any]:
        """Who ends at once, between two calls, when he is told to."""
        curl = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 5 http://api.{other}.svc.cluster.local:{PORT}/"
        line = "$said $? $(hostname) $(date +%T)"
        loop = f"trap 'exit 0' TERM; while :; do said=$({curl}); echo {line} >> /calls/{namespace}; sleep 0.05; done"
        made = deployment("webapp", node=node, command=["sh", "-c", loop])
        spec = made["spec"]["template"]["spec"]
        spec["terminationGracePeriodSeconds"] = 10
        spec["volumes"] = [{"name": "calls", "hostPath": {"path": CALLS, "type": "DirectoryOrCreate"}}]
        spec["containers"][0]["volumeMounts"] = [{"name": "calls", "mountPath": "/calls"}]
        return made

    def _lines(self, namespace: str) -> list[str]:
        words = [*self._cluster.inside(self._node), "sh", "-c", f"cat {CALLS}/{namespace} 2>/dev/null || true"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    def failed(self) -> list[str]:
        """The calls that went wrong since this was asked last; there were enough of them."""
        found = []
        for namespace, since in self._judged.items():
            deadline = time.monotonic() + 60
            while len(lines := self._lines(namespace)[since:]) < LEAST:
                assert time.monotonic() < deadline, f"nobody calls from {namespace}"
                time.sleep(0.1)
            self._judged[namespace] = since + len(lines)
            found += [f"{namespace}: {line}" for line in lines if not line.startswith("200 0 ")]
        return found

    @property
    def count(self) -> int:
        """How many calls have been judged."""
        return sum(self._judged.values())


def server(node: str) -> dict[str, Any]:
    """A web server that lets its last calls end."""
    made = deployment("api", node=node)
    spec = made["spec"]["template"]["spec"]
    spec["terminationGracePeriodSeconds"] = 10
    spec["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "3"]}}}
    return made


def left_out(node: str) -> dict[str, Any]:
    """Whom Linkerd's injector leaves out: it has no token of its account."""
    made = deployment("batch", node=node, command=["sleep", "1000000"])
    made["spec"]["template"]["spec"]["automountServiceAccountToken"] = False
    return made


def policy(caller: str) -> list[dict[str, Any]]:
    """As it was written for Linkerd: `api` is for another namespace's `webapp`, by Linkerd's name for it."""
    group = "policy.linkerd.io"
    identity = f"webapp.{caller}.serviceaccount.identity.linkerd.cluster.local"
    return [
        {
            "apiVersion": f"{group}/v1beta3",
            "kind": "Server",
            "metadata": {"name": "api"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "port": "http", "proxyProtocol": "HTTP/1"},
        },
        {
            "apiVersion": f"{group}/v1alpha1",
            "kind": "MeshTLSAuthentication",
            "metadata": {"name": "webapp"},
            "spec": {"identities": [identity]},
        },
        {
            "apiVersion": f"{group}/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "api"},
            "spec": {
                "targetRef": {"group": group, "kind": "Server", "name": "api"},
                "requiredAuthenticationRefs": [{"group": group, "kind": "MeshTLSAuthentication", "name": "webapp"}],
            },
        },
    ]


@pytest.fixture(scope="module")
def own(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """Two nodes, with our image and nothing else."""
    made = another_cluster("m")
    try:
        made.up()
        made.load_everywhere(build.make(lambda _: None).archive)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def operator(own: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """With Linkerd, and two namespaces that are meshed by it and call each other."""
    desk = tmp_path_factory.mktemp("desk")
    made = Operator(own, desk)
    first, second = (node.name for node in own.nodes)
    with injector(own, desk) as linkerds:
        for release in charts(desk, linkerds):
            own.helm("install", release.name, str(release), "--namespace", "linkerd", "--create-namespace")
        own.wait("--for=condition=Established", "crd", "--all")
        for namespace, other in ((STOCK, ORDERS), (ORDERS, STOCK), (VISITOR, "")):
            own.kubectl("create", "namespace", namespace)
            if other:
                own.kubectl("annotate", "namespace", namespace, "linkerd.io/inject=enabled")
                made.applies(namespace, *policy(other), account("api"), service("api"), server(first))
                made.applies(namespace, account("batch"), left_out(second))
                client = Callers.application(namespace, other, second)
            else:
                client = deployment("webapp", node=second, command=["sleep", "1000000"])
            made.applies(namespace, account("webapp"), client)
        for namespace in (STOCK, ORDERS):
            own.rolled_out(namespace, "deployment/api")
            own.rolled_out(namespace, "deployment/batch")
        for namespace in (STOCK, ORDERS, VISITOR):
            own.rolled_out(namespace, "deployment/webapp")
        yield made


@pytest.fixture(scope="module")
def callers(operator: Operator) -> Callers:
    """From when both can be reached."""
    made = Callers(operator.cluster)
    made.failed()
    return made


@pytest.fixture(scope="module")
def written(operator: Operator) -> dict[str, Any]:
    """What of policy there was with Linkerd alone."""
    return policies(operator.cluster)


def policies(cluster: Cluster) -> dict[str, Any]:
    """By kind and name, what policy says; but for what is there for the time of a move."""
    kinds = ",".join(f"{each}.policy.linkerd.io" for each in POLICIES)
    found = json.loads(cluster.kubectl("get", kinds, "-A", "-o", "json"))["items"]
    return {
        f"{each['kind']} {each['metadata']['namespace']}/{each['metadata']['name']} {each['metadata']['uid']}": {
            "version": each["apiVersion"],
            "spec": each["spec"],
        }
        for each in found
        if each["metadata"]["name"] != "moving"
    }


def pods(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Those that are not about to go."""
    found = json.loads(cluster.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def meshes(cluster: Cluster, namespace: str) -> set[str]:
    """Whose the pods of a namespace are, by what is in them, and by what their agents say; empty: nobody's."""
    found = set()
    for each in pods(cluster, namespace):
        inside = {one["name"] for part in ("containers", "initContainers") for one in each["spec"].get(part, [])}
        said = {one["type"]: one["status"] for one in each["status"].get("conditions", [])}
        whose = {LINKERDS_PROXY: "linkerd", CONTAINER: "quietwire"}
        names = [whose[name] for name in sorted(inside & set(whose))]
        assert (said.get("quietwire.io/meshed") == "True") is (names == ["quietwire"]), each["metadata"]["name"]
        found.add("+".join(names))
    return found


def described(cluster: Cluster) -> set[str]:
    """What the definitions of policy's kinds say of themselves, in every version."""
    return {
        version["schema"]["openAPIV3Schema"].get("description", "")
        for each in json.loads(cluster.kubectl("get", "crd", "-o", "json"))["items"]
        for version in each["spec"]["versions"]
    }


def stored(cluster: Cluster, namespace: str, **spec: Any) -> tuple[list[str], list[str]]:
    """The init containers and containers of a pod, were it made."""
    spec = {"containers": [{"name": "app", "image": "app:1"}], **spec}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": spec}
    words = ("create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-")
    made = json.loads(cluster.kubectl(*words, given=json.dumps(pod)))["spec"]
    inits, containers = ([each["name"] for each in made.get(part, [])] for part in ("initContainers", "containers"))
    return inits, containers


def not_captured(cluster: Cluster, namespace: str, why: str = "") -> set[str]:
    """Pods of which an agent has said that they are not meshed yet, for that reason."""
    words = ("get", "events", "-n", namespace, "--field-selector", "reason=NotCaptured", "-o", "json")
    found = json.loads(cluster.kubectl(*words))["items"]
    return {each["involvedObject"]["name"] for each in found if why in each["message"]}


def stranger(cluster: Cluster, namespace: str) -> int:
    """How curl ends for a pod of no mesh."""
    url = f"http://api.{namespace}.svc.cluster.local:{PORT}/"
    words = ("exec", "-n", VISITOR, "deploy/webapp", "--", "curl", "-s", "-o", "/dev/null", "--max-time", "10", url)
    return subprocess.run(cluster.kubectl_command(*words), capture_output=True, check=False, timeout=60).returncode


def test_linkerds_manifests_have_no_fault_for_us(operator: Operator, written: dict[str, Any]) -> None:
    said = operator.types("Before you start")
    assert re.search(r"^stock +enabled +<none>$", said, re.MULTILINE)
    assert " 0 errors" in said
    assert len(written) == 6
    assert meshes(operator.cluster, STOCK) == meshes(operator.cluster, ORDERS) == LINKERDS


def test_beside_linkerd_nothing_is_meshed_that_nobody_moved_and_its_definitions_stay(
    operator: Operator, callers: Callers
) -> None:
    own = operator.cluster
    with pytest.raises(ClusterError, match=r"Linkerd's injector is in this cluster.* set besideLinkerd=true"):
        own.helm("install", "quietwire", str(ROOT / "deploy/helm/quietwire"), "--namespace", "default")
    operator.types("Install beside Linkerd")
    assert described(own) == {MARK}
    assert stored(own, STOCK) == ([], ["app", LINKERDS_PROXY])
    assert stored(own, STOCK, automountServiceAccountToken=False) == ([], ["app"])
    assert callers.failed() == []


def test_a_namespace_moves_under_load_and_no_pod_has_both(operator: Operator, callers: Callers) -> None:
    own = operator.cluster
    for namespace in (STOCK, ORDERS):
        operator.types(OPEN, namespace)
    operator.types(MOVE, STOCK)
    assert meshes(own, STOCK) == {"quietwire"}
    assert meshes(own, ORDERS) == LINKERDS
    assert stored(own, STOCK) == ([CONTAINER], ["app"])
    assert stored(own, ORDERS) == ([], ["app", LINKERDS_PROXY])
    operator.types(SEEN, STOCK)
    there = {each["metadata"]["name"] for each in pods(own, STOCK)}
    assert not not_captured(own, STOCK, "Linkerd's proxy") & there, "only of those that were replaced"
    assert callers.failed() == [], "by plaintext, both ways"


def test_it_goes_back_and_is_captured_until_it_is_linkerds(operator: Operator, callers: Callers) -> None:
    operator.types(BACK, STOCK)
    assert meshes(operator.cluster, STOCK) == LINKERDS
    assert not_captured(operator.cluster, ORDERS) == set(), "nobody waits for us in a namespace that is Linkerd's"
    assert callers.failed() == []


def test_both_move_and_speak_by_the_identities_that_linkerds_policy_names(operator: Operator, callers: Callers) -> None:
    own = operator.cluster
    for namespace in (STOCK, ORDERS):
        operator.types(MOVE, namespace)
        operator.types(SEEN, namespace)
        assert stranger(own, namespace) == 0, "it is open for the time of the move"
    assert meshes(own, STOCK) == meshes(own, ORDERS) == {"quietwire"}
    assert callers.failed() == []
    for namespace in (STOCK, ORDERS):
        operator.types("Tighten", namespace)
    assert stranger(own, STOCK) != 0
    assert stranger(own, ORDERS) != 0
    assert callers.failed() == []


def test_linkerd_goes_and_what_it_defined_and_people_wrote_stays(
    operator: Operator, callers: Callers, written: dict[str, Any]
) -> None:
    own = operator.cluster
    own.wait("pod", "--all-namespaces", "-l", "linkerd.io/control-plane-ns", "--for=delete")  # the last ones are going
    assert operator.types("Take Linkerd away").startswith("none\n")
    assert CONFIGURATION not in own.kubectl("get", "mutatingwebhookconfigurations", "-o", "name")
    own.kubectl("delete", "namespace", "linkerd", "--wait=false")
    assert policies(own) == written
    assert callers.failed() == []


def test_by_itself_it_has_linkerds_definitions_and_calls_fail_only_while_agents_start_again(
    operator: Operator, callers: Callers, written: dict[str, Any]
) -> None:
    own = operator.cluster
    operator.types("Be by yourself")
    assert MARK not in described(own), "they are ours, and upgraded with us"
    assert policies(own) == written
    while failed := callers.failed():
        print(f"{len(failed)} calls failed, from {failed[0]} to {failed[-1]}")
    own.kubectl("create", "namespace", "new")
    own.kubectl("annotate", "namespace", "new", "linkerd.io/inject=enabled")
    assert stored(own, "new") == ([CONTAINER], ["app"]), "without a label"


def test_all_that_the_page_says_was_typed(operator: Operator) -> None:
    assert operator.typed == {block for blocks in sections().values() for block in blocks}
