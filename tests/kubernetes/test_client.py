"""Requests to a real API server: what it answers, what it refuses, and what a stream of its events does."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from agent.kubernetes.access import Access, Material, from_kubeconfig
from agent.kubernetes.client import Client
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.follow import Follower
from agent.kubernetes.kind import Kind
from agent.tasks import spawn
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.inside import inside

CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
WIDGETS = Kind("example.quietwire.io", "v1", "widgets", "Widget")
NAMESPACE = "test-client"


@pytest.fixture(scope="module", autouse=True)
def _namespace(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(NAMESPACE):
        yield


@pytest.fixture
def access(cluster: Cluster) -> Access:
    """The administrator's."""
    return from_kubeconfig([cluster.layout.kubeconfig])


def a_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


class Names:
    """A sink that knows what is there, of one namespace; `heard` is set by whatever it is told."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self.there: dict[str, Any] = {}
        self.lists = 0
        self.heard = asyncio.Event()
        self._namespace = namespace
        self._listed: set[str] | None = None

    def begin(self) -> None:
        self._listed = set()

    def put(self, raw: bytes) -> None:
        found = json.loads(raw)
        if found["metadata"]["namespace"] == self._namespace:
            self.there[found["metadata"]["name"]] = found
            if self._listed is not None:
                self._listed.add(found["metadata"]["name"])
            self.heard.set()

    def remove(self, raw: bytes) -> None:
        self.there.pop(json.loads(raw)["metadata"]["name"], None)
        self.heard.set()

    def complete(self) -> None:
        assert self._listed is not None
        self.there = {name: self.there[name] for name in self._listed}
        self._listed = None
        self.lists += 1
        self.heard.set()

    async def until(self, names: set[str]) -> None:
        """Waits until these are there, and no others, but for what the cluster puts into every namespace."""
        while self._listed is not None or not self.lists or self.there.keys() - {"kube-root-ca.crt"} != names:
            self.heard.clear()
            await self.heard.wait()


@contextlib.asynccontextmanager
async def following(access: Access, sink: Names, kind: Kind = CONFIG_MAPS, **how: Any) -> AsyncIterator[Follower]:
    client = Client(access)
    follower = Follower(client, [kind], sink, **{"streaming": True, **how})
    task = spawn(follower.run(), name="follower")
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])
        client.close()


def is_absent(follower: Follower) -> bool:
    return follower.absent


def is_failing(follower: Follower) -> bool:
    return follower.failure is not None


def test_an_object_is_made_read_changed_and_deleted(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        client = Client(access)
        path = CONFIG_MAPS.path_of(NAMESPACE)
        await client.request("POST", path, body=a_map("one", key="first"))
        patch = {"data": {"key": "second"}}
        await client.request("PATCH", f"{path}/one", body=patch, content_type="application/merge-patch+json")
        assert json.loads(await client.get(f"{path}/one"))["data"] == {"key": "second"}
        with pytest.raises(Refused, match="AlreadyExists") as raised:
            await client.request("POST", path, body=a_map("one"))
        assert raised.value.conflict
        await client.request("DELETE", f"{path}/one")
        with pytest.raises(Refused) as missing:
            await client.get(f"{path}/one")
        assert missing.value.not_found
        client.close()

    inside(cluster, work)


def test_a_client_without_a_credential_is_nobody(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        client = Client(msgspec.structs.replace(access, certificate=Material(), key=Material()))
        with pytest.raises(Refused, match=r"403 Forbidden.*system:anonymous"):
            await client.get(CONFIG_MAPS.path)
        client.close()

    inside(cluster, work)


def test_a_token_that_is_none_is_refused_with_401(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        client = Client(msgspec.structs.replace(access, certificate=Material(), key=Material(), token=Material(b"no")))
        with pytest.raises(Refused, match="401 Unauthorized"):
            await client.get(CONFIG_MAPS.path)
        client.close()

    inside(cluster, work)


def test_a_service_accounts_token_is_somebody(cluster: Cluster, access: Access) -> None:
    token = cluster.kubectl("create", "token", "default", "-n", NAMESPACE).strip()

    async def work() -> None:
        as_it = msgspec.structs.replace(access, certificate=Material(), key=Material(), token=Material(token.encode()))
        client = Client(as_it)
        with pytest.raises(Refused, match=f"system:serviceaccount:{NAMESPACE}:default"):
            await client.get(CONFIG_MAPS.path)
        client.close()

    inside(cluster, work)


def test_a_server_under_another_ca_is_not_spoken_to(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        other = Material(file=str(cluster.layout.pki / "front-proxy-ca.crt"))
        client = Client(msgspec.structs.replace(access, ca=other))
        with pytest.raises(Unreachable, match="does not vouch for"):
            await client.get("/version")

    inside(cluster, work)


def test_a_server_of_another_name_is_not_spoken_to(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        client = Client(msgspec.structs.replace(access, server_name="elsewhere.example"))
        with pytest.raises(Unreachable, match="does not vouch for"):
            await client.get("/version")

    inside(cluster, work)


def test_a_port_at_which_nobody_listens_is_named(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        client = Client(msgspec.structs.replace(access, port=6444))
        with pytest.raises(Unreachable, match=r":6444 cannot be reached: .*refused"):
            await client.get("/version")

    inside(cluster, work)


def test_one_connection_serves_many_requests(cluster: Cluster, access: Access) -> None:
    async def work() -> int:
        client = Client(access)
        for _ in range(20):
            await client.get("/version")
        mine = [task for task in asyncio.all_tasks() if not task.done()]
        assert len(mine) == 1, "nothing of ours goes on in between"
        opened = len(client.idle)
        client.close()
        return opened

    assert inside(cluster, work) == 1


@pytest.mark.disruptive
def test_a_connection_that_ended_while_it_was_idle_is_replaced(cluster: Cluster, access: Access) -> None:
    async def work() -> None:
        client = Client(access)
        await client.get("/version")
        await asyncio.to_thread(cluster.restart, "kube-apiserver")
        assert json.loads(await client.get("/version"))["major"] == "1"
        client.close()

    inside(cluster, work)


@pytest.mark.parametrize("streaming", [True, False], ids=["by a watch", "by pages"])
def test_what_is_there_and_what_happens_is_told(cluster: Cluster, access: Access, streaming: bool) -> None:
    async def work() -> None:
        client, names = Client(access), Names()
        path = CONFIG_MAPS.path_of(NAMESPACE)
        for name in ("a", "b"):
            await client.request("POST", path, body=a_map(name))
        async with following(access, names, streaming=streaming):
            await names.until({"a", "b"})
            await client.request("POST", path, body=a_map("c"))
            await names.until({"a", "b", "c"})
            for name in ("a", "b", "c"):
                await client.request("DELETE", f"{path}/{name}")
            await names.until(set())
        assert names.lists == 1
        client.close()

    inside(cluster, work)


@pytest.fixture
def widgets(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """A kind that the cluster does not have until somebody applies this, and has no more at the end."""
    group, _, plural = WIDGETS.group, WIDGETS.version, WIDGETS.plural
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    yield {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": WIDGETS.kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [{"name": WIDGETS.version, "served": True, "storage": True, "schema": schema}],
        },
    }
    cluster.kubectl("delete", "crd", f"{plural}.{group}", "--ignore-not-found")


def widget(name: str) -> dict[str, Any]:
    return {
        "apiVersion": WIDGETS.api_version,
        "kind": WIDGETS.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
    }


def test_a_kind_that_comes_later_is_followed_from_then_on(
    cluster: Cluster, access: Access, widgets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.kubernetes.follow.ABSENT_SECONDS", 0.2)

    async def work() -> None:
        names = Names()
        async with following(access, names, WIDGETS, optional=True) as follower:
            await names.until(set())
            assert is_absent(follower)
            await asyncio.to_thread(cluster.kubectl, "apply", "-f", "-", given=json.dumps(widgets))
            await asyncio.to_thread(cluster.wait, "--for=condition=Established", f"crd/{widgets['metadata']['name']}")
            await asyncio.to_thread(cluster.kubectl, "apply", "-f", "-", given=json.dumps(widget("w")))
            await names.until({"w"})
            assert not is_absent(follower)
            await asyncio.to_thread(cluster.kubectl, "delete", "crd", widgets["metadata"]["name"])
            await names.until(set())

    inside(cluster, work)


@pytest.mark.disruptive
def test_what_happened_before_a_compaction_is_listed_anew_and_nothing_stays_that_is_gone(
    cluster: Cluster, access: Access, widgets: dict[str, Any]
) -> None:
    cluster.kubectl("apply", "-f", "-", given=json.dumps(widgets))
    cluster.wait("--for=condition=Established", f"crd/{widgets['metadata']['name']}")
    for name in ("a", "b"):
        cluster.kubectl("apply", "-f", "-", given=json.dumps(widget(name)))

    async def work() -> None:
        names = Names()
        async with following(access, names, WIDGETS):
            await names.until({"a", "b"})
        version = max(int(each["metadata"]["resourceVersion"]) for each in names.there.values())
        await asyncio.to_thread(cluster.kubectl, "delete", "-n", NAMESPACE, str(WIDGETS), "a")
        await asyncio.to_thread(restart_api_server, cluster)
        client = Client(access)
        follower = Follower(client, [WIDGETS], names, streaming=True)
        follower.resume(str(version))
        task = spawn(follower.run(), name="follower")
        await names.until({"b"})
        task.cancel()
        await asyncio.wait([task])
        client.close()
        assert names.lists == 2

    inside(cluster, work)


def restart_api_server(cluster: Cluster) -> None:
    """With everything before now forgotten by etcd: what an outage of some minutes leads to."""
    cluster.compact()
    cluster.restart("kube-apiserver")


@pytest.mark.disruptive
def test_a_server_that_is_silent_is_noticed_and_followed_again(
    cluster: Cluster, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it answers nothing and its kernel goes on to acknowledge what comes."""
    monkeypatch.setattr("agent.kubernetes.follow.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("agent.kubernetes.http.CONNECT_SECONDS", 1.0)
    server = cluster.processes.named("kube-apiserver")
    assert server is not None

    async def work() -> None:
        names, states = Names(), asyncio.Event()
        client = Client(access)
        async with following(access, names, changed=states.set) as follower:
            await names.until(set())
            server.signal(signal.SIGSTOP)
            try:
                while not is_failing(follower):
                    states.clear()
                    await states.wait()
            finally:
                server.signal(signal.SIGCONT)
            assert names.lists == 1
            while is_failing(follower):
                states.clear()
                await states.wait()
            await client.request("POST", CONFIG_MAPS.path_of(NAMESPACE), body=a_map("after"))
            await names.until({"after"})
            await client.request("DELETE", f"{CONFIG_MAPS.path_of(NAMESPACE)}/after")
            await names.until(set())
        client.close()

    inside(cluster, work, 120.0)
