"""Bad days of a cluster, under load: what goes on, what waits, and what must not open."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.load import Load, loop
from tests.kubernetes.mesh import AGENT, AUTHORITY, NAMESPACE, WEBHOOK, Mesh
from tests.kubernetes.shop import INJECT, Shop, account, deployment

pytestmark = pytest.mark.disruptive

AWAY_SECONDS = 120.0
POLICY = "config.linkerd.io/default-inbound-policy"
UNTIL_SECONDS = 180.0
"""After an outage kube-proxy, and then whoever goes by it, may wait half a minute each before they try again."""


@pytest.fixture
def shop(cluster: Cluster, mesh: Mesh) -> Iterator[Shop]:
    """`webapp` calls `api` all the time."""
    with cluster.namespace(f"bad-days-{uuid.uuid4().hex[:6]}") as name:
        made = Shop(mesh, name)
        made.open(client=loop(name))
        load = Load(made)
        until(lambda: load.goes_well)
        yield made
        cluster.wait("--for=condition=Ready", "node", "--all")


def until(holds: Callable[[], object]) -> None:
    """Looks again and again; what a cluster comes to has no event that we could wait for."""
    deadline = time.monotonic() + UNTIL_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def control_plane_away(cluster: Cluster, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Without an API server for so long."""
    cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
    began = time.monotonic()
    meanwhile()
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    cluster.restart("kube-apiserver")


def test_nothing_fails_while_the_api_server_is_away_and_a_changed_policy_holds_when_it_is_back(
    cluster: Cluster, mesh: Mesh, shop: Shop
) -> None:
    """For two minutes; etcd forgets meanwhile what had been, so that every watch begins anew (410 Gone)."""
    load = Load(shop)
    load.begin()
    control_plane_away(cluster, AWAY_SECONDS, cluster.compact)
    assert load.failures(at_least=int(AWAY_SECONDS)) == []
    until(lambda: shop.call().well)
    shop.kubectl("annotate", "namespace", shop.namespace, f"{POLICY}=deny", "--overwrite")
    until(lambda: not shop.call().well)
    shop.kubectl("annotate", "namespace", shop.namespace, f"{POLICY}-")
    until(lambda: shop.call().well)
    for what in (AGENT, AUTHORITY):
        mesh.ready(what)


def test_an_agent_that_starts_without_an_api_server_knows_what_was_known_and_refuses_until_it_has_identities(
    cluster: Cluster, mesh: Mesh, shop: Shop
) -> None:
    """Its kubelet starts it again. SVIDs are signed only when that can be recorded: no authority signs meanwhile."""
    node = cluster.nodes[0]
    api = shop.pod("api")
    until(lambda: _remembers(cluster, api))
    cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
    try:
        agents = [*cluster.inside(node), "pgrep", "-f", "quietwire supervisor"]
        (first, *_) = subprocess.run(agents, capture_output=True, text=True, check=True).stdout.split()
        subprocess.run([*cluster.inside(node), "kill", "-9", first], check=True)
        until(lambda: _ready(cluster) and _ready(cluster)["catalog"]["remembered"])
        assert _ready(cluster)["catalog"]["unheard"]
        name = f"{shop.namespace}/{api['metadata']['name']}"
        until(lambda: any(name == each["pod"] for each in _ready(cluster).get("waiting", ())))  # it is known, and waits
    finally:
        cluster.restart("kube-apiserver")
    until(lambda: not _ready(cluster)["catalog"]["remembered"])
    until(lambda: shop.call().well)
    mesh.ready(AGENT)


def test_a_new_pod_waits_while_no_authority_is_there_and_is_not_open_and_says_why(mesh: Mesh, shop: Shop) -> None:
    load = Load(shop)
    load.begin()
    replicas = mesh.kubectl("get", AUTHORITY, "-o", "jsonpath={.spec.replicas}")
    mesh.kubectl("scale", AUTHORITY, "--replicas=0")
    mesh.cluster.wait("-n", NAMESPACE, "--for=delete", "pod", "-l", "app.kubernetes.io/component=authority")
    try:
        shop.apply(account("late"), deployment("late"))
        # Each reason is told: on a slow machine its namespace is what it waits for at first.
        until(lambda: any(each.startswith("NotCaptured") and "SVID" in each for each in _events(shop).splitlines()))
        late = shop.pod("late")
        assert all(not each["ready"] for each in late["status"]["containerStatuses"])
        assert not shop.is_meshed("late")
    finally:
        mesh.kubectl("scale", AUTHORITY, f"--replicas={replicas}")
    mesh.ready(AUTHORITY)
    shop.rolled_out("late")
    assert shop.is_meshed("late")
    assert load.failures(at_least=20) == [], "who has an SVID needs no authority"


def test_any_replica_of_the_authority_may_go_while_pods_start(mesh: Mesh, shop: Shop) -> None:
    names = [f"p{at}" for at in range(6)]
    for name in names:
        shop.apply(account(name), deployment(name))
    pods = mesh.kubectl("get", "pods", "-l", "app.kubernetes.io/component=authority", "-o", "name").split()
    mesh.kubectl("delete", *pods[:2], "--grace-period=0", "--force")
    shop.rolled_out(*names)
    assert all(shop.is_meshed(name) for name in names)
    mesh.ready(AUTHORITY)


def test_while_the_webhooks_are_away_no_pod_is_made_that_might_be_meshed_and_then_it_comes_by_itself(
    mesh: Mesh, shop: Shop
) -> None:
    """Nobody knows of a namespace but they whether it is injected: so in all of them, where a pod does not say no."""
    load = Load(shop)
    load.begin()
    replicas = mesh.kubectl("get", WEBHOOK, "-o", "jsonpath={.spec.replicas}")
    mesh.kubectl("scale", WEBHOOK, "--replicas=0")
    mesh.cluster.wait("-n", NAMESPACE, "--for=delete", "pod", "-l", "app.kubernetes.io/component=webhook")
    try:
        shop.kubectl("scale", "deployment/api", "--replicas=2")
        until(lambda: "FailedCreate" in _events(shop))
        assert 'failed calling webhook "inject.quietwire.io"' in _events(shop)
        says_no = deployment("not-meshed")
        says_no["spec"]["template"]["metadata"]["annotations"] = {INJECT: "disabled"}
        shop.apply(account("not-meshed"), says_no)
        shop.rolled_out("not-meshed")
        assert shop.kubectl("get", "deployment/api", "-o", "jsonpath={.status.replicas}") == "1"
    finally:
        mesh.kubectl("scale", WEBHOOK, f"--replicas={replicas}")
    mesh.ready(WEBHOOK)
    shop.rolled_out("api")
    assert shop.is_meshed("api")
    assert load.failures(at_least=20) == []


def test_a_namespace_that_leaves_the_mesh_and_comes_back_is_never_sent_plaintext_while_it_is_in(
    mesh: Mesh, shop: Shop
) -> None:
    shop.kubectl("annotate", "namespace", shop.namespace, f"{INJECT}=disabled", "--overwrite")
    until(lambda: not shop.is_meshed("api") and not shop.is_meshed("webapp"))
    until(lambda: shop.call().well)
    assert mesh.logged(mesh.cluster.nodes[0].name, lambda line: "not to be meshed any more" in str(line.get("msg")))
    shop.kubectl("annotate", "namespace", shop.namespace, f"{INJECT}=enabled", "--overwrite")
    shop.kubectl("rollout", "restart", "deployment/api", "deployment/webapp")
    shop.rolled_out("api", "webapp")
    until(lambda: shop.is_meshed("api") and shop.is_meshed("webapp"))
    until(lambda: shop.call().well)


def test_twenty_pods_at_once_are_all_captured_before_they_start(mesh: Mesh, shop: Shop) -> None:
    shop.kubectl("scale", "deployment/api", "--replicas=20")
    shop.rolled_out("api")
    pods = json.loads(shop.kubectl("get", "pods", "-l", "app=api", "-o", "json"))["items"]
    said = [
        {each["type"]: each["status"] for each in pod["status"]["conditions"]}.get("quietwire.io/meshed")
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
    ]
    assert said == ["True"] * 20
    assert shop.call().well
    assert mesh.logged(mesh.cluster.nodes[0].name, lambda line: line.get("level") == "critical") is None


def test_a_node_that_loses_its_power_comes_back_with_its_pods(cluster: Cluster, mesh: Mesh, shop: Shop) -> None:
    node = cluster.nodes[0]
    cluster.cut_power(node)
    assert not shop.call().well
    cluster.power_on(node)
    mesh.ready(AGENT)
    until(lambda: shop.call().well)
    assert shop.is_meshed("api")


def test_a_node_that_is_deleted_while_its_pods_run_is_served_until_they_are_gone(
    cluster: Cluster, mesh: Mesh, shop: Shop
) -> None:
    """The service has no endpoint on a node that is none. Its kubelet registers it again when it is started anew."""
    node = cluster.nodes[0]
    former = json.loads(cluster.kubectl("get", "node", node.name, "-o", "json"))
    cluster.kubectl("delete", "node", node.name, "--wait=false")
    time.sleep(2)
    assert shop.call(f"http://{shop.address('api')}:8080/").well
    # With another range of addresses the bridge of its pods would have to be made anew.
    again = {"metadata": {"name": node.name}, "spec": {key: former["spec"][key] for key in ("podCIDR", "podCIDRs")}}
    cluster.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "Node", **again}))
    cluster.restart_kubelet(node)
    cluster.wait("--for=condition=Ready", f"node/{node.name}")
    mesh.ready(AGENT)
    shop.rolled_out("api")
    until(lambda: shop.call().well)


def _events(shop: Shop) -> str:
    return shop.kubectl("get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}{'\\n'}{end}")


def _ready(cluster: Cluster) -> dict[str, Any]:
    """What the first node's agent says of itself; nothing while there is none."""
    words = ["curl", "-s", "--max-time", "2", "http://127.0.0.1:4191/ready"]
    said = subprocess.run(
        [*cluster.inside(cluster.nodes[0]), *words], capture_output=True, text=True, check=False
    ).stdout
    body: dict[str, Any] = json.loads(said) if said else {}
    return body


def _remembers(cluster: Cluster, pod: dict[str, Any]) -> bool:
    """Whether the first node's agent would know a pod, and its address, when it starts anew."""
    of_node = cluster.nodes[0].directory / "layers" / "var" / "upper"
    known = of_node / "lib" / "quietwire" / "last-good-of-cluster.msgpack"
    wanted = (pod["metadata"]["uid"], pod["status"]["podIP"])
    return known.exists() and all(each.encode() in known.read_bytes() for each in wanted)
