"""The `kubernetes` source on a real cluster: what it knows, also while the API server is away."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.kubernetes.remembered import ClusterMemory
from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.catalog.sources.kubernetes.standing import Held
from agent.kubernetes.access import Access, Material, from_kubeconfig
from agent.kubernetes.client import Client
from agent.manifests.fault import Fault
from agent.objects.decode import RawNamespace
from agent.objects.key import ObjectKey, pod_key
from agent.objects.model import Pod, Service
from agent.tasks import spawn
from tests.kubernetes.cluster import pki
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.kubernetes.inside import inside

log = logging.getLogger("quietwire.catalog")

NAMESPACE = "test-source"
PORT = 8080


class Told:
    """What a source has told, as an index; `until` waits for what it comes to."""

    def __init__(self) -> None:
        self.index = CatalogIndex(Catalog())
        self.faults: tuple[Fault, ...] = ()
        self.times = 0
        self._again = asyncio.Event()

    def take(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        self.times += 1
        self.faults = faults
        if change is not None:
            self.index.apply(change)
        self._again.set()

    async def until(self, holds: Callable[[], Any]) -> Any:
        while not (found := holds()):
            self._again.clear()
            await self._again.wait()
        return found

    def pod(self, name: str) -> Pod | None:
        return next((pod for pod in self.index.catalog.pods if pod.key == pod_key(NAMESPACE, name)), None)

    def service(self, name: str) -> Service | None:
        key = ObjectKey("Service", NAMESPACE, name)
        return next((each for each in self.index.catalog.services if each.object_key == key), None)

    def endpoints(self, name: str) -> set[str]:
        service = self.service(name)
        return {each.address for port in service.ports for each in port.ready} if service is not None else set()


class Said(logging.Handler):
    """Sets `heard` when something is logged that has these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.heard = asyncio.Event()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.heard.set()


class Noticed(ClusterMemory):
    """A memory that tells when it was written."""

    def __init__(self, path: Path, server: str) -> None:
        super().__init__(path, server)
        self._written = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def save(self, held: Mapping[ObjectKey, Held]) -> bool:
        done = super().save(held)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._written.set)
        return done

    async def until(self, holds: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        while not holds():
            await self._written.wait()
            self._written.clear()
        self._loop = None


@contextlib.asynccontextmanager
async def followed(
    cluster: Cluster, memory: ClusterMemory | None = None, access: Access | None = None
) -> AsyncIterator[tuple[KubernetesSource, Told]]:
    told = Told()
    client = Client(access or from_kubeconfig([cluster.layout.kubeconfig]))
    source = KubernetesSource(client, told.take, memory)
    await source.start()
    task = spawn(source.run(), name="source")
    try:
        yield source, told
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(scope="module", autouse=True)
def _namespace(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(NAMESPACE):
        cluster.kubectl("annotate", "namespace", NAMESPACE, "config.linkerd.io/default-inbound-policy=deny")
        yield


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", given="\n---\n".join(map(json.dumps, objects)))


def a_pod(name: str, *, ready: bool = True) -> dict[str, Any]:
    probe = {"exec": {"command": ["test", "-e", "/tmp" if ready else "/tmp/ready"]}, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "web",
                    "image": BASE_IMAGE,
                    "command": ["sleep", "100000"],
                    "ports": [{"name": "http", "containerPort": PORT}],
                    "readinessProbe": probe,
                }
            ],
        },
    }


def a_service(**more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], **more},
    }


def test_what_is_in_the_cluster_is_known_and_what_happens_to_it(cluster: Cluster) -> None:
    apply(cluster, a_pod("one"), a_service(ipFamilyPolicy="RequireDualStack"))
    kubectl = cluster.kubectl

    async def work() -> None:
        async with followed(cluster) as (source, told):
            assert source.waiting == []
            assert source.failures == {}
            assert {node.name for node in told.index.catalog.nodes} == {"n1", "n2"}
            await told.until(lambda: len(told.endpoints("web")) == 2)
            pod = told.pod("one")
            assert pod is not None
            assert told.endpoints("web") == set(pod.ips)
            assert pod.settings.default_policy == "deny", "its namespace's annotation"
            service = told.service("web")
            assert service is not None
            assert len(service.cluster_ips) == 2
            await asyncio.to_thread(apply, cluster, a_pod("late", ready=False))
            await told.until(lambda: (late := told.pod("late")) is not None and len(late.ips) == 2)
            assert told.endpoints("web") == set(pod.ips), "it is not ready"
            await asyncio.to_thread(kubectl, "exec", "-n", NAMESPACE, "late", "--", "touch", "/tmp/ready")
            await told.until(lambda: len(told.endpoints("web")) == 4)
            await asyncio.to_thread(
                kubectl, "annotate", "namespace", NAMESPACE, "config.linkerd.io/default-inbound-policy-"
            )
            await told.until(lambda: (one := told.pod("one")) is not None and one.settings.default_policy is None)
            await asyncio.to_thread(kubectl, "delete", "pod", "-n", NAMESPACE, "late", "--now")
            await told.until(lambda: told.pod("late") is None and told.endpoints("web") == set(pod.ips))
            await asyncio.to_thread(kubectl, "delete", "service", "-n", NAMESPACE, "web")
            await told.until(lambda: told.service("web") is None)
            assert told.faults == ()

    inside(cluster, work)


@contextlib.contextmanager
def an_account(cluster: Cluster, file: Path) -> Iterator[Access]:
    """A service account that may read everything, and shows the token in a file."""
    bound = ("--clusterrole=cluster-admin", f"--serviceaccount={NAMESPACE}:reader")
    cluster.kubectl("create", "serviceaccount", "-n", NAMESPACE, "reader")
    cluster.kubectl("create", "clusterrolebinding", NAMESPACE, *bound)
    try:
        admin = from_kubeconfig([cluster.layout.kubeconfig])
        none = Material()
        yield msgspec.structs.replace(admin, certificate=none, key=none, token=Material(file=str(file)))
    finally:
        cluster.kubectl("delete", "clusterrolebinding", NAMESPACE)


def test_while_its_token_has_expired_what_is_known_stays_and_the_one_that_is_put_in_its_place_is_used(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that is open goes on with the token that it was opened with: these are ended every second."""
    monkeypatch.setattr("agent.kubernetes.follow.WATCH_SECONDS", (1, 1))
    monkeypatch.setattr("agent.kubernetes.follow.SETTLED_SECONDS", 0.5)
    file = tmp_path / "token"

    async def work() -> None:
        async with followed(cluster, access=access) as (source, told):
            await asyncio.to_thread(apply, cluster, a_pod("before"))
            await told.until(lambda: told.pod("before"))
            while len(source.state.unheard) < 5:
                await source.stirred()
            assert all("401" in why and "Unauthorized" in why for _, why in source.state.unheard)
            assert source.state.since is not None
            await asyncio.to_thread(apply, cluster, a_pod("meanwhile"))
            assert told.pod("before") is not None
            assert told.pod("meanwhile") is None
            file.write_text(pki.reissued(cluster.layout.pki, token, time.time() + 600))
            await told.until(lambda: told.pod("meanwhile"))
            while source.failures:
                await source.stirred()

    with an_account(cluster, file) as access:
        token = cluster.kubectl("create", "token", "-n", NAMESPACE, "reader").strip()
        file.write_text(pki.reissued(cluster.layout.pki, token, time.time() + 5))
        inside(cluster, work, 120.0)


@pytest.mark.disruptive
def test_while_the_api_server_is_away_what_is_known_stays_and_then_it_is_what_is_there(cluster: Cluster) -> None:
    apply(cluster, a_pod("stays"), a_service())
    cluster.wait("-n", NAMESPACE, "--for=condition=Ready", "pod", "--all")

    async def work() -> None:
        async with followed(cluster) as (source, told):
            stays = told.pod("stays")
            assert stays is not None
            known = await told.until(lambda: stays.ips[0] in told.endpoints("web") and told.endpoints("web"))
            cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
            while len(source.failures) < 5:
                await source.stirred()
            assert told.endpoints("web") == known
            assert told.pod("stays") is not None
            await asyncio.to_thread(cluster.restart, "kube-apiserver")
            await asyncio.to_thread(apply, cluster, a_pod("new"))
            await told.until(lambda: told.pod("new"))
            while source.failures:
                await source.stirred()

    inside(cluster, work, 120.0)


@pytest.mark.disruptive
def test_a_source_that_starts_while_the_api_server_is_away_waits_for_it(
    cluster: Cluster,
) -> None:
    cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])

    async def work() -> None:
        said = Said("no pod can be served before the API server answers")
        log.addHandler(said)
        starting = spawn(known(), name="starting")
        await said.heard.wait()
        log.removeHandler(said)
        assert not starting.done()
        await asyncio.to_thread(cluster.restart, "kube-apiserver")
        assert "n1" in await starting

    async def known() -> set[str]:
        async with followed(cluster) as (_, told):
            return {node.name for node in told.index.catalog.nodes}

    inside(cluster, work, 120.0)


@pytest.mark.disruptive
def test_a_restart_without_an_api_server_goes_by_what_was_known_and_then_by_what_is_there(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "agent.catalog.sources.kubernetes.source"
    monkeypatch.setattr(f"{module}.SOON_SECONDS", 0.0)
    monkeypatch.setattr(f"{module}.MEMORY_AFTER_SECONDS", 0.2)
    memory = Noticed(tmp_path / "known", "the cluster")
    apply(cluster, a_pod("kept"), a_pod("goes"), a_service())
    cluster.wait("-n", NAMESPACE, "--for=condition=Ready", "pod", "--all")

    async def before() -> None:
        async with followed(cluster, memory) as (source, told):
            await told.until(
                lambda: {ip for name in ("kept", "goes") for ip in ips(told, name)} <= told.endpoints("web")
            )
            assert not source.state.remembered
            annotate = ("annotate", "namespace", NAMESPACE, "config.linkerd.io/default-inbound-policy=deny")
            await asyncio.to_thread(cluster.kubectl, *annotate)
            await memory.until(lambda: any(_denies(held) for held in memory.load().values()))

    async def after() -> None:
        async with followed(cluster, memory) as (source, told):
            assert source.state.remembered
            assert {kind for kind, _ in source.state.unheard} >= {"pods", "services", "namespaces"}
            assert source.state.since is not None
            assert told.pod("goes") is not None
            kept = told.pod("kept")
            assert kept is not None
            assert kept.settings.default_policy == "deny"
            assert kept.ips[0] in told.endpoints("web")
            await asyncio.to_thread(cluster.restart, "kube-apiserver")
            await asyncio.to_thread(cluster.kubectl, "delete", "pod", "-n", NAMESPACE, "goes", "--now")
            await told.until(lambda: told.pod("goes") is None)
            while (state := source.state).remembered or state.unheard:
                await source.stirred()
            assert state.since is None
            assert told.pod("kept") is not None

    inside(cluster, before)
    cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
    inside(cluster, after, 120.0)


def ips(told: Told, name: str) -> tuple[str, ...]:
    """The IPv4 address of a pod."""
    pod = told.pod(name)
    return pod.ips[:1] if pod is not None else ()


def _denies(held: Held) -> bool:
    return isinstance(held.raw, RawNamespace) and "deny" in held.raw.annotations.values()
