"""Agents of a real cluster join by the tokens of their pods, and are signed for what is on their node."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.authority import token_review
from agent.authority.attestation import ServiceAccount
from agent.authority.directory import StateDirectory
from agent.authority.server import AuthorityServer
from agent.authority.service import AuthorityService
from agent.authority.sqlite_store import SqliteStore
from agent.authority.token_review import AUDIENCE, TokenReviews
from agent.authority.workloads import CatalogWorkloads
from agent.catalog.sources.kubernetes.kinds import PODS
from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.identity.authority_client import AuthorityClient, Proof, projected
from agent.identity.provider import ProviderError
from agent.identity.spiffe import SpiffeId
from agent.kubernetes.access import Access, Material, from_kubeconfig
from agent.kubernetes.client import Client
from agent.tasks import spawn
from tests.authority.running import TD, refused
from tests.kubernetes.cluster import pki
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.kubernetes.inside import inside

NAMESPACE = "test-attestation"
AGENTS = ServiceAccount(NAMESPACE, "agent")
TOKEN = "/var/run/quietwire/token"
WEB = SpiffeId.for_service_account(TD, NAMESPACE, "web")
ELSEWHERE = SpiffeId.for_service_account(TD, NAMESPACE, "elsewhere")


def an_object(kind: str, name: str, api: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **fields}


def a_pod(name: str, node: str, account: str) -> dict[str, Any]:
    """With a token for the authority, as an agent's pod has it."""
    projection = {"serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 600}}
    spec = {
        "nodeName": node,
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "main",
                "image": BASE_IMAGE,
                "command": ["sleep", "100000"],
                "volumeMounts": [{"name": "token", "mountPath": str(Path(TOKEN).parent)}],
            }
        ],
        "volumes": [{"name": "token", "projected": {"sources": [projection]}}],
    }
    return an_object("Pod", name, spec=spec)


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", given="\n---\n".join(map(json.dumps, objects)))


def rights() -> list[dict[str, Any]]:
    """All that an authority needs for this: to ask about tokens, to follow pods, and to look at one of its agents'."""
    rbac = "rbac.authorization.k8s.io/v1"
    everywhere = [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    ]
    here = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    subject = [{"kind": "ServiceAccount", "name": "authority", "namespace": NAMESPACE}]

    def ref(kind: str) -> dict[str, str]:
        return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAMESPACE}

    return [
        an_object("ClusterRole", NAMESPACE, rbac, rules=everywhere),
        an_object("ClusterRoleBinding", NAMESPACE, rbac, roleRef=ref("ClusterRole"), subjects=subject),
        an_object("Role", NAMESPACE, rbac, rules=here),
        an_object("RoleBinding", NAMESPACE, rbac, roleRef=ref("Role"), subjects=subject),
    ]


@pytest.fixture(scope="module", autouse=True)
def _namespace(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(NAMESPACE):
        accounts = [an_object("ServiceAccount", name) for name in ("agent", "authority", "web", "elsewhere", "other")]
        apply(cluster, *accounts, *rights())
        apply(
            cluster,
            a_pod("agent-1", "n1", "agent"),
            a_pod("agent-2", "n2", "agent"),
            a_pod("web", "n1", "web"),
            a_pod("elsewhere", "n2", "elsewhere"),
            a_pod("other", "n1", "other"),
        )
        cluster.wait("-n", NAMESPACE, "--for=condition=Ready", "pod", "agent-1", "agent-2", "web", "elsewhere", "other")
        yield
    for kind in ("clusterrolebinding", "clusterrole"):
        cluster.kubectl("delete", kind, NAMESPACE)


def in_pod(cluster: Cluster, pod: str) -> str:
    """The token that the kubelet has put into a pod."""
    return cluster.kubectl("exec", "-n", NAMESPACE, pod, "--", "cat", TOKEN).strip()


def a_token(cluster: Cluster, account: str, pod: str | None = None, audience: str = AUDIENCE) -> str:
    bound = [] if pod is None else ["--bound-object-kind", "Pod", "--bound-object-name", pod]
    return cluster.kubectl("create", "token", "-n", NAMESPACE, account, "--audience", audience, *bound).strip()


class Running:
    """An authority with the rights of its service account, in the control plane's namespace."""

    def __init__(self, service: AuthorityService, workloads: CatalogWorkloads, port: int) -> None:
        self.workloads = workloads
        self.heard = asyncio.Event()
        self._service = service
        self._port = port

    def client(self, token: str | Path, node: str) -> AuthorityClient:
        async def given() -> str:
            return str(token)

        return AuthorityClient(
            addresses=(f"127.0.0.1:{self._port}",),
            anchors_pem=self._service.publication.trust.anchors_pem,
            trust_domain=TD,
            node=node,
            tokens=projected(token) if isinstance(token, Path) else given,
            proof=Proof.SERVICE_ACCOUNT,
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for what comes of the authority's own watch."""
        while not holds():
            self.heard.clear()
            await self.heard.wait()

    def has(self, node: str, account: str) -> bool:
        return self.workloads.has_workload(node, NAMESPACE, account)


@contextlib.asynccontextmanager
async def authority(access: Access, directory: Path) -> AsyncIterator[Running]:
    store = StateDirectory(directory / "authority")
    store.prepare(TD)
    ledger = SqliteStore(store)
    workloads = CatalogWorkloads()
    reviews = TokenReviews(Client(access), AGENTS)
    service = AuthorityService(ledger, workloads, trust_domain=TD, svid_seconds=600, attestor=reviews)
    await service.start()
    server = AuthorityServer(service, host="127.0.0.1", port=0)
    running = Running(service, workloads, await server.start())

    def told(*words: Any) -> None:
        workloads.update(*words)
        running.heard.set()

    source = KubernetesSource(Client(access), told, followed=(PODS,))
    await source.start()
    tasks = [spawn(source.run(), name="source"), spawn(server.run(), name="server")]
    try:
        yield running
    finally:
        await server.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        reviews.close()
        await ledger.close()


@pytest.fixture
def access(cluster: Cluster) -> Access:
    """The authority's, by its service account."""
    token = cluster.kubectl("create", "token", "-n", NAMESPACE, "authority").strip()
    admin = from_kubeconfig([cluster.layout.kubeconfig])
    return msgspec.structs.replace(admin, certificate=Material(), key=Material(), token=Material(token.encode()))


def test_an_agent_joins_by_its_pods_token_and_is_signed_for_what_is_on_its_node_and_nothing_else(
    cluster: Cluster, access: Access, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(in_pod(cluster, "agent-1"))

    async def work() -> None:
        async with authority(access, tmp_path) as running:
            agent = running.client(file, "n1")
            assert (await agent.issue(WEB)).spiffe_id == WEB
            assert agent.agent is not None
            assert agent.agent.spiffe_id == SpiffeId.for_agent(TD, "n1")
            await refused(agent.issue(ELSEWHERE), "no_such_workload")
            assert (await running.client(in_pod(cluster, "agent-2"), "n2").issue(ELSEWHERE)).spiffe_id == ELSEWHERE
            await asyncio.to_thread(cluster.kubectl, "delete", "pod", "-n", NAMESPACE, "web", "--now")
            await running.until(lambda: not running.has("n1", "web"))
            await refused(agent.issue(WEB), "no_such_workload")
            await asyncio.to_thread(apply, cluster, a_pod("web", "n1", "web"))
            await running.until(lambda: running.has("n1", "web"))
            assert await agent.issue(WEB)

    inside(cluster, work)


Shown = Callable[[Cluster], str]
REFUSED: dict[str, tuple[Shown, str, str, str]] = {
    "another audience": (lambda c: a_token(c, "agent", "agent-1", "vault"), "n1", "wrong_audience", "vault"),
    "the API server's audience": (
        lambda c: c.kubectl("create", "token", "-n", NAMESPACE, "agent").strip(),
        "n1",
        "wrong_audience",
        "kubernetes.default.svc",
    ),
    "another service account": (lambda c: in_pod(c, "other"), "n1", "wrong_service_account", "test-attestation:other"),
    "another node's": (lambda c: in_pod(c, "agent-2"), "n1", "wrong_node", "pod agent-2 on node n2"),
    "a node that is none": (lambda c: in_pod(c, "agent-1"), "nowhere", "wrong_node", "on node n1, and no agent of"),
    "bound to no pod": (lambda c: a_token(c, "agent"), "n1", "no_node", "bound to no pod on a node"),
    "no token": (lambda _: "rather not", "n1", "not_authenticated", "does not vouch"),
    "two lines": (lambda c: in_pod(c, "agent-1") + "\nx", "n1", "not_authenticated", "is no token"),
    "a token whose signature is another's": (
        lambda c: ".".join([*in_pod(c, "agent-1").split(".")[:2], in_pod(c, "agent-2").split(".")[2]]),
        "n1",
        "not_authenticated",
        "does not vouch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_other_token_is_refused_with_its_reason(
    cluster: Cluster, access: Access, tmp_path: Path, case: str
) -> None:
    shown, node, code, words = REFUSED[case]
    token = shown(cluster)

    async def work() -> None:
        async with authority(access, tmp_path) as running:
            error = await refused(running.client(token, node).issue(WEB), code)
            assert words in error.message

    inside(cluster, work)


def test_a_token_that_has_expired_is_refused_with_that_reason_and_the_one_that_is_put_in_its_place_is_taken(
    cluster: Cluster, access: Access, tmp_path: Path
) -> None:
    """As when nobody renews an agent's token, and then somebody does: the agent is not started again."""
    file, token = tmp_path / "token", in_pod(cluster, "agent-1")
    file.write_text(pki.reissued(cluster.layout.pki, token, time.time() - 1))

    async def work() -> None:
        async with authority(access, tmp_path) as running:
            agent = running.client(file, "n1")
            error = await refused(agent.issue(WEB), "not_authenticated")
            assert "service account token has expired" in error.message
            assert "the agent has to read its file anew" in error.message
            file.write_text(pki.reissued(cluster.layout.pki, token, time.time() + 600))
            assert (await agent.issue(WEB)).spiffe_id == WEB

    inside(cluster, work)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another under its name"])
def test_a_token_is_worth_nothing_from_the_moment_on_that_its_pod_is_gone(
    cluster: Cluster, access: Access, tmp_path: Path, again: bool
) -> None:
    """It was just used: the API server itself would still take it, for it remembers for ten seconds whom it took."""
    apply(cluster, a_pod("brief", "n1", "agent"))
    cluster.wait("-n", NAMESPACE, "--for=condition=Ready", "pod/brief")
    token = in_pod(cluster, "brief")

    async def work() -> None:
        async with authority(access, tmp_path) as running:
            assert await running.client(token, "n1").issue(WEB)
            await asyncio.to_thread(cluster.kubectl, "delete", "pod", "-n", NAMESPACE, "brief", "--now")
            if again:
                await asyncio.to_thread(apply, cluster, a_pod("brief", "n1", "agent"))
            error = await refused(running.client(token, "n1").issue(WEB), "pod_gone")
            assert "another has its name now" in error.message if again else "is gone" in error.message

    try:
        inside(cluster, work)
    finally:
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, "brief", "--now", "--ignore-not-found")


@pytest.mark.disruptive
def test_while_the_api_server_cannot_be_asked_nobody_joins_and_then_he_does(
    cluster: Cluster, access: Access, tmp_path: Path
) -> None:
    token = in_pod(cluster, "agent-1")

    async def work() -> None:
        async with authority(access, tmp_path) as running:
            cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
            agent = running.client(token, "n1")
            error = await refused(agent.issue(WEB), "review_unavailable")
            assert "try again in a moment" in error.message
            await asyncio.to_thread(cluster.restart, "kube-apiserver")
            assert await until_it_works(lambda: agent.issue(WEB))

    inside(cluster, work, 120.0)


async def until_it_works(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """As an agent's keeper does it: what may be tried again is."""
    while True:
        try:
            return await attempt()
        except ProviderError as error:
            if error.code != "review_unavailable":
                raise
            await asyncio.sleep(0.2)


@pytest.mark.disruptive
def test_an_api_server_that_answers_nothing_is_waited_for_in_bounded_time(
    cluster: Cluster, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_review, "REVIEW_SECONDS", 1.0)
    token = in_pod(cluster, "agent-1")
    server = cluster.processes.named("kube-apiserver")
    assert server is not None

    async def work() -> None:
        async with authority(access, tmp_path) as running:
            await asyncio.to_thread(subprocess.run, ["kill", "-STOP", str(server.pid)], check=True)
            try:
                error = await refused(running.client(token, "n1").issue(WEB), "review_unavailable")
            finally:
                await asyncio.to_thread(subprocess.run, ["kill", "-CONT", str(server.pid)], check=True)
            assert "did not answer in 1 s" in error.message

    inside(cluster, work, 120.0)
