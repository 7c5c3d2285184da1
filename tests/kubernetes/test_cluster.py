"""The cluster itself: what scenarios stand on is a whole Kubernetes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster.cluster import Cluster, remove_orphans
from tests.kubernetes.cluster.images import BASE_IMAGE

PORT = 8080


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for this module alone, with the API and the client of the demo in small."""
    with cluster.namespace("test-cluster") as name:
        cluster.kubectl("apply", "-n", name, "-f", "-", given="\n---\n".join(map(json.dumps, [API, SERVICE, CLIENT])))
        cluster.rolled_out(name, "deploy/api")
        cluster.wait("-n", name, "--for=condition=Ready", "pod/client")
        yield name


LABELS = {"app": "api"}
API: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "api"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": LABELS},
                    }
                ],
                "containers": [
                    {
                        "name": "api",
                        "image": BASE_IMAGE,
                        "command": ["sh", "-c", f"hostname >/tmp/index.html; exec httpd -f -p {PORT} -h /tmp"],
                        "ports": [{"name": "http", "containerPort": PORT}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
                    }
                ],
            },
        },
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "api"},
    "spec": {
        "ipFamilyPolicy": "RequireDualStack",
        "selector": LABELS,
        "ports": [{"port": PORT, "targetPort": "http"}],
    },
}
CLIENT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "client"},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "client", "image": BASE_IMAGE, "command": ["sleep", "100000"]}],
    },
}


def curl(cluster: Cluster, namespace: str, *words: str) -> str:
    """What curl in the client says. It asks again for a while: the cluster's DNS may have lost sight of its API."""
    again = ("--retry", "30", "--retry-delay", "1", "--retry-all-errors")
    command = ("curl", "-sS", "--fail", "--max-time", "10", *again, *words)
    return cluster.kubectl("exec", "-n", namespace, "client", "--", *command).strip()


def test_a_service_is_answered_by_pods_of_both_nodes(cluster: Cluster, namespace: str) -> None:
    pods = cluster.kubectl("get", "pods", "-n", namespace, "-l", "app=api", "-o", "json")
    names = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in json.loads(pods)["items"]}
    assert sorted(names.values()) == ["n1", "n2"]
    url = f"http://api.{namespace}.svc.cluster.local:{PORT}/"
    heard: set[str] = set()
    for _ in range(60):
        heard.add(curl(cluster, namespace, url))
        if heard == names.keys():
            break
    assert heard == names.keys()


def test_it_is_a_cluster_of_both_families(cluster: Cluster, namespace: str) -> None:
    found = json.loads(cluster.kubectl("get", "service", "api", "-n", namespace, "-o", "json"))
    ipv4, ipv6 = found["spec"]["clusterIPs"]
    assert curl(cluster, namespace, f"http://{ipv4}:{PORT}/")
    assert curl(cluster, namespace, f"http://[{ipv6}]:{PORT}/")


def test_a_pod_dials_the_api_server_by_its_service(cluster: Cluster, namespace: str) -> None:
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    said = curl(cluster, namespace, "--cacert", f"{token}/ca.crt", "https://kubernetes.default.svc/version")
    assert json.loads(said)["gitVersion"].startswith("v1.")


def test_logs_and_port_forwarding_go_through_the_kubelet(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("run", "-n", namespace, "speaker", f"--image={BASE_IMAGE}", "--restart=Never", "--", "echo", "said")
    cluster.wait("-n", namespace, "--for=jsonpath={.status.phase}=Succeeded", "pod/speaker")
    assert cluster.kubectl("logs", "-n", namespace, "speaker") == "said\n"


@pytest.mark.disruptive
def test_a_node_comes_back_after_a_power_cut(cluster: Cluster, namespace: str) -> None:
    node = cluster.layout.node(2)
    of_api = ("-n", namespace, "-l", "app=api", f"--field-selector=spec.nodeName={node.name}")
    cluster.cut_power(node)
    assert cluster.processes.named("n2.kubelet") is None
    cluster.power_on(node)
    again = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    cluster.wait(*of_api, again, "pods")
    cluster.wait(*of_api, "--for=condition=Ready", "pods")
    (pod,) = json.loads(cluster.kubectl("get", "pods", *of_api, "-o", "json"))["items"]
    assert curl(cluster, namespace, f"http://{pod['status']['podIP']}:{PORT}/") == pod["metadata"]["name"]


def traces(name: str) -> dict[str, Any]:
    """Everything that a cluster of this name leaves on a machine while it is up."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "namespaces": sorted(path.name for path in Path("/run/netns").iterdir() if path.name.startswith(name)),
        "mounts": [line for line in mounts if name in line],
        "cgroups": sorted(map(str, Path("/sys/fs/cgroup").glob(f"**/{name}*"))),
        "processes": [
            line
            for line in subprocess.run(
                ["ps", "-wweo", "args"], capture_output=True, text=True, check=True
            ).stdout.split("\n")
            if f"clusters/{name}" in line
        ],
        "kernel": {
            path: Path(path).read_text() for path in ("/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic")
        },
    }


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Cluster]:
    """Another one, beside the one of all scenarios."""
    made = Cluster(f"{cluster.layout.name}s", lambda _: None)
    yield made
    made.down()


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process for which a cluster is there."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_cluster_whose_owner_was_killed_is_taken_down_and_leaves_nothing(
    cluster: Cluster, second: Cluster, owner: subprocess.Popen[bytes]
) -> None:
    name = second.layout.name
    before = traces(name)
    assert before["namespaces"] == before["processes"] == []
    second.up(1, owner=owner.pid)
    remove_orphans(lambda _: None)
    during = traces(name)
    assert len(during["namespaces"]) == 2
    assert during["processes"]
    assert during["cgroups"]
    owner.kill()
    owner.wait()
    remove_orphans(lambda _: None)
    assert traces(name) == before
    assert not second.layout.directory.exists()
    second.down()  # there is nothing, and that is fine
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
