"""Who is meshed for others, and who is not: pods of every kind, in one injected namespace of two nodes."""

import ipaddress
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.kubernetes.cluster.layout import Node
from tests.kubernetes.load import Load, loop
from tests.kubernetes.mesh import Mesh
from tests.kubernetes.shop import HTTPD, INJECT, PORT, Shop, account, deployment, service

NAMESPACE = "who-is-meshed"
HOST_PORT = 18080
"""Of the web server on the host's network."""
UNTIL_SECONDS = 120.0
TRIES = 5


def spiffe_id(name: str) -> str:
    return f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{name}"


def until(holds: Callable[[], Any]) -> None:
    """Looks again and again; what a cluster comes to has no event that we could wait for."""
    deadline = time.monotonic() + UNTIL_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def workload(kind: str, name: str, node: str, spec: dict[str, Any], **pod: Any) -> dict[str, Any]:
    """A pod, or what makes pods; one container, a web server, under a service account of its own."""
    serves = {
        "command": ["sh", "-c", HTTPD],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    }
    container = {"name": name, "image": BASE_IMAGE, **pod.pop("container", serves)}
    of_pod = {
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
        "containers": [container],
        **pod,
    }
    labels = {"app": name}
    if kind == "Pod":
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": of_pod}
    template = {"metadata": {"labels": labels}, "spec": of_pod}
    version = "batch/v1" if kind == "Job" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": {**spec, "template": template}}


def on_hosts_network(node: str) -> dict[str, Any]:
    serve = f"mkdir /tmp/www && echo host > /tmp/www/index.html && exec httpd -f -p {HOST_PORT} -h /tmp/www"
    container = {"command": ["sh", "-c", serve], "ports": [{"name": "http", "containerPort": HOST_PORT}]}
    made = workload("Pod", "host", node, {}, hostNetwork=True, container=container)
    made["metadata"]["annotations"] = {INJECT: "enabled"}
    return made


def errand(node: str) -> dict[str, Any]:
    """A Job that makes one call."""
    call = ["curl", "-sS", "--fail", "--max-time", "10", f"http://api.{NAMESPACE}.svc.cluster.local:{PORT}/"]
    return workload("Job", "errand", node, {"backoffLimit": 0}, restartPolicy="Never", container={"command": call})


def stateful_set(account: str = "web") -> dict[str, Any]:
    """Two of a StatefulSet; one that is deleted comes back as what is written then."""
    spec = {
        "serviceName": "web",
        "replicas": 2,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": {"app": "web"}},
    }
    return workload("StatefulSet", "web", "", spec, serviceAccountName=account)


def headless(name: str) -> dict[str, Any]:
    found = service(name)
    found["spec"]["clusterIP"] = "None"
    return found


def url(name: str, port: int = PORT) -> str:
    return f"http://{name}.{NAMESPACE}.svc.cluster.local:{port}/"


@pytest.fixture(scope="module")
def town(cluster: Cluster, mesh: Mesh) -> Iterator[Shop]:
    """`api` on the first node, `webapp` on the second, which calls `web-0` all the time; and others."""
    _, second = (node.name for node in cluster.nodes)
    with cluster.namespace(NAMESPACE) as name:
        made = Shop(mesh, name)
        made.kubectl("annotate", "namespace", name, f"{INJECT}=enabled")
        accounts = [account(each) for each in ("host", "errand", "web", "second", "heir", "late")]
        made.apply(*accounts, service("host"), headless("web"))
        made.open(client=loop(name, "web-0.web"))
        made.apply(on_hosts_network(second), stateful_set())
        made.cluster.wait("-n", name, "--for=condition=Ready", "pod", "-l", "app in (host, web)")
        yield made


def last(mesh: Mesh, node: Node, pod: str, direction: str, **fields: object) -> dict[str, Any]:
    """The last connection of a pod's in its node's log that has these fields, once it is written."""
    found: list[dict[str, Any]] = []

    def is_it(line: dict[str, Any]) -> bool:
        of_it = str(line.get("pod", "")).startswith(f"{NAMESPACE}/{pod}") and line.get("direction") == direction
        return of_it and all(line.get(name) == value for name, value in fields.items())

    def look() -> bool:
        found[:] = [line] if (line := mesh.logged(node.name, is_it)) else []
        return bool(found)

    until(look)
    return found[0]


def ready(cluster: Cluster, node: Node) -> dict[str, Any]:
    """What a node's agent says of itself."""
    words = [*cluster.inside(node), "curl", "-s", "http://127.0.0.1:4191/ready"]
    body: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return body


def init_containers(pod: dict[str, Any]) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", [])]


def test_a_pod_on_the_hosts_network_is_not_meshed_and_reached_in_plaintext_where_policy_lets_out(
    cluster: Cluster, mesh: Mesh, town: Shop
) -> None:
    _, second = cluster.nodes
    assert init_containers(town.pod("host")) == []
    assert not town.is_meshed("host")
    assert town.call(url("host")).body.strip() == "host"
    where = f"{second.address}:{HOST_PORT}"
    assert last(mesh, second, "webapp", "outbound", destination=where)["security"] == "plain"
    told = f"Pod {NAMESPACE}/host: {INJECT} has no meaning on the host's network: the pod is not meshed"
    assert mesh.logged(second.name, lambda line: told in str(line.get("msg")))
    waiting = [each["pod"] for each in ready(cluster, second)["waiting"]]
    assert f"{NAMESPACE}/host" not in waiting, "nobody waits for it"
    town.kubectl("annotate", "namespace", NAMESPACE, "quietwire.io/egress-mode=meshed-only")
    try:
        until(lambda: not town.call(url("host")).well)
        assert where in last(mesh, second, "webapp", "outbound", outcome="egress_not_meshed")["reason"]
    finally:
        town.kubectl("annotate", "namespace", NAMESPACE, "quietwire.io/egress-mode-")
    until(lambda: town.call(url("host")).well)


def test_a_meshed_server_refuses_a_pod_on_the_hosts_network(cluster: Cluster, mesh: Mesh, town: Shop) -> None:
    """It has its node's address, and no identity. (From the server's own node it would be taken for the kubelet.)"""
    first, second = cluster.nodes
    assert not town.call(f"http://{town.address('api')}:{PORT}/", by="pod/host").well
    refused = last(mesh, first, "api", "inbound", event="denied")
    assert refused["client"].rpartition(":")[0] == second.address
    assert refused["outcome"] == "unauthenticated"


def test_a_job_runs_to_its_end_by_itself_and_its_address_is_its_heirs(cluster: Cluster, mesh: Mesh, town: Shop) -> None:
    """A pod that has ended is nobody, whatever its object still says; its address is given out again here."""
    first, second = cluster.nodes
    town.apply(errand(second.name))
    cluster.wait("-n", NAMESPACE, "--for=condition=Complete", "job/errand")
    ended = town.pod("errand")
    assert ended["status"]["phase"] == "Succeeded"
    called = last(mesh, first, "api", "inbound", client_id=spiffe_id("errand"))
    assert (called["security"], called["outcome"]) == ("mtls", "completed")

    address = ended["status"]["podIP"]
    heir = born_at(cluster, town, second, address)
    assert town.pod("errand")["status"]["podIP"] == address == heir["status"]["podIP"]
    assert town.call(f"http://{address}:{PORT}/").body.strip() == "heir"
    assert last(mesh, second, "webapp", "outbound", server_id=spiffe_id("heir"))["security"] == "mtls"
    until(lambda: town.call(url("api"), by="pod/heir").well)  # its name is asked for by UDP, which may be lost
    assert last(mesh, first, "api", "inbound", client_id=spiffe_id("heir"))["outcome"] == "completed"


def born_at(cluster: Cluster, town: Shop, node: Node, address: str) -> dict[str, Any]:
    """A pod with this address: host-local gives out the one after the last. Somebody else's pod may be quicker."""
    before = str(ipaddress.ip_address(address) - 1)
    given = "/var/lib/cni/networks/cluster"
    is_next = f"while test -e {given}/{address}; do sleep 0.2; done; printf {before} > {given}/last_reserved_ip.0"
    for _ in range(TRIES):
        subprocess.run([*cluster.inside(node), "sh", "-c", is_next], check=True, timeout=UNTIL_SECONDS)
        town.apply(workload("Pod", "heir", node.name, {}))
        cluster.wait("-n", NAMESPACE, "--for=condition=Ready", "pod/heir")
        found = town.pod("heir")
        if found["status"]["podIP"] == address:
            return found
        town.kubectl("delete", "pod", "heir", "--now")
    raise AssertionError(f"{address} was never free")


def test_a_stateful_sets_pod_is_dialled_by_its_name_and_when_it_comes_back_at_another_address_it_is_again(
    cluster: Cluster, mesh: Mesh, town: Shop
) -> None:
    _, second = cluster.nodes
    load = Load(town)
    until(lambda: load.goes_well)
    former = pod_named(town, "web-0")
    last(mesh, second, "webapp", "outbound", server_id=spiffe_id("web"), security="mtls", outcome="completed")
    town.kubectl("delete", "pod", "web-0")
    came_back(cluster, "web-0")
    now = pod_named(town, "web-0")["status"]["podIP"]
    assert now != former["status"]["podIP"]

    def goes_well() -> bool:
        """A name is remembered for some seconds."""
        load.begin()
        until(lambda: load.count >= 10)
        return not load.failures(at_least=10)

    until(goes_well)
    called = last(mesh, second, "webapp", "outbound", destination=f"{now}:{PORT}")
    assert (called["security"], called["server_id"]) == ("mtls", spiffe_id("web"))


def test_a_pod_that_is_made_again_under_its_name_is_who_it_is_now(cluster: Cluster, mesh: Mesh, town: Shop) -> None:
    """As a client and as a server: it has another service account."""
    first, second = cluster.nodes
    name = url("web-1.web")
    until(lambda: town.call(name).well)
    last(mesh, second, "webapp", "outbound", destination=f"{pod_named(town, 'web-1')['status']['podIP']}:{PORT}")
    town.apply(stateful_set("second"))
    town.kubectl("delete", "pod", "web-1")
    came_back(cluster, "web-1")
    now = f"{pod_named(town, 'web-1')['status']['podIP']}:{PORT}"
    until(lambda: town.call(name).well)
    assert last(mesh, second, "webapp", "outbound", destination=now)["server_id"] == spiffe_id("second")
    town.kubectl("exec", "web-1", "-c", "web", "--", "curl", "-sS", "--fail", "--max-time", "10", url("api"))
    last(mesh, first, "api", "inbound", client_id=spiffe_id("second"), outcome="completed")


def pod_named(town: Shop, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(town.kubectl("get", "pod", name, "-o", "json"))
    return found


def came_back(cluster: Cluster, name: str) -> None:
    cluster.wait("-n", NAMESPACE, "--for=create", f"pod/{name}")
    cluster.wait("-n", NAMESPACE, "--for=condition=Ready", f"pod/{name}")


@pytest.mark.disruptive
def test_on_a_node_without_an_agent_pods_that_are_to_be_meshed_wait_and_all_others_are_reached(
    cluster: Cluster, mesh: Mesh, town: Shop
) -> None:
    first, second = cluster.nodes
    with cluster.namespace(f"{NAMESPACE}-not") as outside:
        plain = Shop(mesh, outside)
        plain.apply(account("bare"), service("bare"), deployment("bare", node=second.name))
        plain.rolled_out("bare")
        bare = f"http://bare.{outside}.svc.cluster.local:{PORT}/"
        with mesh.only_on(first.name, second.name):
            town.apply(deployment("late", node=second.name))
            until(lambda: "no agent listens" in said_by_init(town, "late"))
            waits = town.pod("late")["status"]
            assert [each["started"] for each in waits["containerStatuses"]] == [False]
            assert not town.call(by="deploy/webapp").well, "captured, and its agent is gone: refused"

            assert town.call(bare, by="deploy/api").well
            assert plain.call(bare, by="deploy/bare").well
            heard = ready(cluster, first)["catalog"]["version"]
            cluster.kubectl("annotate", "namespace", outside, f"{INJECT}=enabled")
            until(lambda: ready(cluster, first)["catalog"]["version"] > heard)
            assert town.call(bare, by="deploy/api").well, "it is to be meshed, is not, and is no black hole"
            where = f"{plain.address('bare')}:{PORT}"
            assert last(mesh, first, "api", "outbound", destination=where)["security"] == "plain"
        town.rolled_out("late")
        assert town.is_meshed("late")
        assert town.pod("late")["status"]["initContainerStatuses"][0]["restartCount"] == 0, "it has waited"
        until(lambda: town.call(by="deploy/webapp").well)
        assert not plain.is_meshed("bare"), "who was there before is not captured"
        assert town.call(bare, by="deploy/api").well


def said_by_init(town: Shop, name: str) -> str:
    """What the init container of a deployment's newest pod has said; nothing while there is none."""
    words = ("logs", "-l", f"app={name}", "-c", "quietwire-init")
    command = town.cluster.kubectl_command("-n", town.namespace, *words)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
