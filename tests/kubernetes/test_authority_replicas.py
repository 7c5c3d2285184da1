"""Several authorities on one cluster's state, as processes: kill -9 of one under load, and what an operator types."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.authority.kubernetes.bundle_maps import NAME as MAP
from agent.authority.kubernetes.bundle_maps import OWNER_NAME
from agent.identity.authority_client import AuthorityClient, Proof
from agent.identity.provider import ProviderError, Report
from agent.identity.spiffe import SpiffeId
from agent.kubernetes.access import from_kubeconfig
from tests.authority.running import TD, newer, refused
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.kubernetes.inside import inside

T = TypeVar("T")

NAMESPACE = "test-replicas"
WEB = SpiffeId.for_service_account(TD, NAMESPACE, "web")
FIRST_PORT = 18443
READY_SECONDS = 30.0


def a_pod(name: str, account: str) -> dict[str, Any]:
    spec = {
        "nodeName": "n1",
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": BASE_IMAGE, "command": ["sleep", "100000"]}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def an_object(kind: str, name: str, api: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **fields}


def rights() -> list[dict[str, Any]]:
    """All that a replica may do. What it is refused it logs, and then these tests find no bundle, leader or record."""
    everywhere = [
        # Whose token an agent shows.
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        # Which service accounts have pods on a node; which namespaces get a bundle.
        {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
        # The bundle: server-side apply, which makes it where it is not there; RBAC knows no names for that.
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [MAP], "verbs": ["patch", "delete"]},
        # To whom it belongs, so that it goes with an uninstall.
        {
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterroles"],
            "resourceNames": [OWNER_NAME],
            "verbs": ["get"],
        },
    ]
    here = [
        # Its state.
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "verbs": ["get", "list", "watch", "create", "update", "delete"],
        },
        # Which replica leads.
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        # Whether an agent's pod is still there.
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]
    rbac, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    subjects = [{"kind": "ServiceAccount", "name": "quietwire-authority", "namespace": NAMESPACE}]
    found = []
    for kind, rules in (("ClusterRole", everywhere), ("Role", here)):
        ref = {"apiGroup": group, "kind": kind, "name": NAMESPACE}
        found += [
            an_object(kind, NAMESPACE, rbac, rules=rules),
            an_object(f"{kind}Binding", NAMESPACE, rbac, roleRef=ref, subjects=subjects),
        ]
    return found


@pytest.fixture(scope="module", autouse=True)
def _namespace(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(NAMESPACE):
        for account in ("quietwire-agent", "quietwire-authority", "web"):
            cluster.kubectl("create", "serviceaccount", "-n", NAMESPACE, account)
        objects = [a_pod("agent", "quietwire-agent"), a_pod("web", "web"), *rights()]
        cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", given="\n---\n".join(map(json.dumps, objects)))
        cluster.wait("-n", NAMESPACE, "--for=condition=Ready", "pod", "--all")
        yield
    for kind in ("clusterrolebinding", "clusterrole"):
        cluster.kubectl("delete", kind, NAMESPACE)


def kubeconfig_of(cluster: Cluster, account: str, path: Path) -> Path:
    """One of a service account."""
    access = from_kubeconfig([cluster.layout.kubeconfig])
    token = cluster.kubectl("create", "token", "-n", NAMESPACE, account).strip()
    ca = base64.b64encode(access.ca.data or Path(access.ca.file).read_bytes()).decode()
    server = {"server": access.address, "certificate-authority-data": ca}
    path.write_text(
        json.dumps(
            {
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": server}],
                "users": [{"name": "it", "user": {"token": token}}],
            }
        )
    )
    return path


class Replicas:
    """Three, each a process in the control plane's namespace, with the authority's rights; and an operator's shell."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.where: tuple[str, ...] = ("--kubeconfig", str(cluster.layout.kubeconfig), "--namespace", NAMESPACE)

    def words(self, *words: str, where: tuple[str, ...] | None = None) -> list[str]:
        command = [sys.executable, "-m", "agent.cli", "authority", *words, *(where or self.where)]
        return ["nsenter", f"--net=/run/netns/{self.cluster.layout.hub}", *command]

    def typed(self, *words: str, code: int = 0) -> str:
        """What an operator's command prints, or what it says where it fails."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def log(self, number: int) -> Path:
        return self._directory / f"replica-{number}.log"

    def start(self, *numbers: int) -> None:
        """Returns when they serve."""
        kubeconfig = kubeconfig_of(self.cluster, "quietwire-authority", self._directory / "authority.conf")
        where = ("--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE)
        for number in numbers:
            listen = ("--listen", f"127.0.0.1:{FIRST_PORT + number}")
            words = self.words("run", "--trust-domain", TD, *listen, where=where)
            with self.log(number).open("wb") as log:
                self.processes[number] = subprocess.Popen(words, stderr=log, stdout=subprocess.DEVNULL)
        for number in numbers:
            self.heard(number, "serves on 127.0.0.1")

    def heard(self, number: int, words: str) -> None:
        """Returns once one has said this."""
        watching = ["timeout", f"{READY_SECONDS:g}", "tail", "-n", "+1", "-f", str(self.log(number))]
        with subprocess.Popen(watching, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
            assert tail.stdout is not None
            found = any(words.encode() in line for line in tail.stdout)
            tail.terminate()
        assert found, self.log(number).read_text()

    def leader(self) -> int:
        """The one that leads, as soon as one does: the last that did may have been killed 15 seconds ago."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for number in self.processes:
                if "this replica leads now" in self.log(number).read_text():
                    return number
            time.sleep(0.1)
        raise AssertionError("nobody leads")

    def kill(self, number: int) -> None:
        """kill -9."""
        self.processes[number].send_signal(signal.SIGKILL)
        self.processes.pop(number).wait()

    def addresses(self, *first: int) -> list[str]:
        """Of all that were started, these first."""
        return [
            f"127.0.0.1:{FIRST_PORT + number}" for number in (*first, *(each for each in range(3) if each not in first))
        ]

    def client(self, *first: int, only: bool = False, token: str = "") -> AuthorityClient:
        """An agent of n1, by its pod's token or by one that is given."""

        async def given() -> str:
            return token or self._token

        return AuthorityClient(
            addresses=self.addresses(*first)[: 1 if only else 3],
            anchors_pem=self.bundle,
            trust_domain=TD,
            node="n1",
            tokens=given,
            proof=Proof.JOIN_TOKEN if token else Proof.SERVICE_ACCOUNT,
        )

    def ready(self) -> None:
        self.bundle = self.typed("bundle", "--pem").encode()
        words = ("--audience", "quietwire-authority", "--bound-object-kind", "Pod", "--bound-object-name", "agent")
        self._token = self.cluster.kubectl("create", "token", "-n", NAMESPACE, "quietwire-agent", *words).strip()


@pytest.fixture
def replicas(cluster: Cluster, tmp_path: Path) -> Iterator[Replicas]:
    made = Replicas(cluster, tmp_path)
    try:
        made.start(0, 1, 2)
        made.ready()
        yield made
    finally:
        for process in made.processes.values():
            process.terminate()
        for process in made.processes.values():
            process.wait(20)


def run(cluster: Cluster, work: Callable[[], Coroutine[Any, Any, T]], seconds: float = 60.0) -> T:
    """`inside`, for clients that leave it to the loop to say goodbye to their authorities, which tell nobody."""

    async def whole() -> T:
        try:
            return await work()
        finally:
            await asyncio.sleep(0.2)

    return inside(cluster, whole, seconds)


CLIENTS, BEFORE, AFTER = 6, 60, 120


def test_kill_9_of_a_replica_under_load_fails_no_issuance_and_loses_none(cluster: Cluster, replicas: Replicas) -> None:
    given: list[str] = []
    more, late = asyncio.Event(), asyncio.Event()

    async def ask(number: int) -> None:
        """An agent that asks the replica that is to be killed first, and the others where that one fails."""
        client = replicas.client(0, 1 + number % 2)
        while not late.is_set():
            given.append((await client.issue(WEB)).serial)
            more.set()

    async def until(count: int) -> None:
        while len(given) < count:
            more.clear()
            await more.wait()

    async def kill() -> None:
        await until(BEFORE)
        await asyncio.to_thread(replicas.kill, 0)
        await until(len(given) + AFTER)
        late.set()

    async def work() -> None:
        await asyncio.gather(kill(), *(ask(number) for number in range(CLIENTS)))

    run(cluster, work, 120.0)
    recorded = {each["serial"] for each in json.loads(replicas.typed("issued", "--json"))}
    assert len(set(given)) == len(given) >= BEFORE + AFTER
    assert set(given) <= recorded
    replicas.start(0)
    assert run(cluster, lambda: replicas.client(0, only=True).issue(WEB)).spiffe_id == WEB, "it is back"


def test_a_join_token_is_used_once_at_whichever_replica_and_also_when_all_are_tried_at_once(
    cluster: Cluster, replicas: Replicas
) -> None:
    token = replicas.typed("token", "create", "--node", "n1").strip()

    async def work() -> None:
        clients = [replicas.client(number, only=True, token=token) for number in range(3)]
        found = await asyncio.gather(*(each.issue(WEB) for each in clients), return_exceptions=True)
        errors = [each for each in found if isinstance(each, ProviderError)]
        assert [each.code for each in errors] == ["bad_token"] * 2
        for number in range(3):
            error = await refused(replicas.client(number, only=True, token=token).issue(WEB), "bad_token")
            assert "has been used already" in error.message

    run(cluster, work)


def published(cluster: Cluster) -> str:
    """The roots in the ConfigMap of the authority's own namespace."""
    found = json.loads(cluster.kubectl("get", "configmap", "-n", NAMESPACE, MAP, "-o", "json"))
    return str(found["data"]["ca.crt"])


def test_what_an_operator_types_holds_at_every_replica(cluster: Cluster, replicas: Replicas) -> None:
    async def each_says(code: str | None) -> None:
        for number in range(3):
            client = replicas.client(number, only=True)
            if code is None:
                assert (await client.issue(WEB)).spiffe_id == WEB
            else:
                await refused(client.issue(WEB), code)

    async def told(known: int) -> list[Any]:
        """What each replica tells an agent that waits, after `known`."""
        return await asyncio.gather(*(newer(replicas.client(number, only=True), known) for number in range(3)))

    replicas.leader()  # what only a leader does, and has to have rights for, is done from here on
    run(cluster, lambda: each_says(None))
    status = json.loads(replicas.typed("status", "--json"))
    assert (status["trust_domain"], status["stage"], status["agents"], status["refused"]) == (TD, "none", 1, None)
    assert [each["node"] for each in json.loads(replicas.typed("agents", "--json"))] == ["n1"]

    replicas.typed("revoke", "--spiffe-id", str(WEB), "--reason", "leaked")
    run(cluster, lambda: each_says("revoked"))
    bundles = run(cluster, lambda: told(status["sequence"]))
    assert [bundle.revoked_ids for bundle in bundles] == [{str(WEB)}] * 3
    assert len({bundle.sequence for bundle in bundles}) == 1
    replicas.typed("unrevoke", "--spiffe-id", str(WEB))
    run(cluster, lambda: each_says(None))

    assert published(cluster).encode() == bundles[0].anchors_pem
    started = json.loads(replicas.typed("rotate-root", "start", "--json"))
    bundles = run(cluster, lambda: told(bundles[0].sequence + 1))
    assert [bundle.anchors_pem.count(b"BEGIN CERTIFICATE") for bundle in bundles] == [2] * 3
    assert (started["stage"], started["roots"]) == ("distribute", [1, 2])
    assert "not yet: the agent of node n1 has not confirmed" in replicas.typed("rotate-root", "advance", code=1)
    replicas.typed("rotate-root", "abort")
    for number in range(3):
        assert "403 Forbidden" not in replicas.log(number).read_text(), "it has all the rights that it needs"
    minted = json.loads(
        replicas.typed("mint", "--spiffe-id", str(WEB), "--out", str(replicas.log(9).parent / "minted"), "--json")
    )
    recorded = {each["serial"]: each["node"] for each in json.loads(replicas.typed("issued", "--json"))}
    assert recorded[minted["serial"]] == "(mint)"
    replicas.typed("revoke", "--serial", minted["serial"])  # it would hold the next rotation for an hour


def test_a_rotation_goes_on_by_itself_when_the_replica_that_leads_is_killed(
    cluster: Cluster, replicas: Replicas
) -> None:
    leader = replicas.leader()
    others = [number for number in range(3) if number != leader]
    agents = [each["node"] for each in json.loads(replicas.typed("agents", "--json"))]
    assert set(agents) <= {"n1"}

    async def follow() -> None:
        """The agent confirms whatever it is told, as its node's does, until the rotation is over."""
        client = replicas.client(*others)
        await client.issue(WEB)
        bundle = await newer(client, 0)
        await asyncio.to_thread(replicas.typed, "rotate-root", "start", "--auto")
        await asyncio.to_thread(replicas.kill, leader)
        first = bundle.anchors_pem
        while bundle.anchors_pem.count(b"BEGIN CERTIFICATE") > 1 or bundle.anchors_pem == first:
            report = Report(bundle.sequence, frozenset({bundle.issuer_key_id}))
            with contextlib.suppress(ProviderError):
                bundle = await client.bundle(bundle.sequence, report) or bundle
            await client.issue(WEB)

    run(cluster, follow, 110.0)
    assert json.loads(replicas.typed("status", "--json"))["stage"] == "none"
    assert any("this replica leads now" in replicas.log(number).read_text() for number in others)


def test_where_there_is_no_authority_or_no_cluster_an_operator_is_told(cluster: Cluster, tmp_path: Path) -> None:
    nowhere = Replicas(cluster, tmp_path)
    nowhere.where = ("--kubeconfig", str(cluster.layout.kubeconfig), "--namespace", "default")
    assert "holds no authority: start one once" in nowhere.typed("status", code=2)
    nowhere.where = ("--kubeconfig", str(tmp_path / "none"))
    assert "there is no such file" in nowhere.typed("status", code=2)
    nowhere.where = ("--kubernetes",)
    environ = {name: value for name, value in os.environ.items() if name not in {"KUBECONFIG", "HOME"}}
    done = subprocess.run(
        nowhere.words("status"), capture_output=True, text=True, timeout=60, check=False, env={**environ, "HOME": "/x"}
    )
    assert (done.returncode, "there is no kubeconfig" in done.stderr) == (2, True)


@pytest.mark.disruptive
def test_a_replica_that_starts_while_the_api_server_is_away_waits_for_it(cluster: Cluster, replicas: Replicas) -> None:
    replicas.kill(0)
    cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
    try:
        kubeconfig = replicas.log(9).with_name("authority.conf")
        words = replicas.words(
            "run", "--trust-domain", TD, "--listen", replicas.addresses(0)[0],
            where=("--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE),
        )  # fmt: skip
        with replicas.log(0).open("wb") as log:
            replicas.processes[0] = subprocess.Popen(words, stderr=log, stdout=subprocess.DEVNULL)
        replicas.heard(0, "nothing can be signed before the API server answers")
    finally:
        cluster.restart("kube-apiserver")
    replicas.heard(0, "serves on 127.0.0.1")
    assert run(cluster, lambda: replicas.client(0, only=True).issue(WEB)).spiffe_id == WEB
    assert all(process.poll() is None for process in replicas.processes.values()), "the others outlived it"
