"""The bundle as ConfigMaps on a real cluster: where they come, and go again, by whichever replica leads."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from agent.authority import ca
from agent.authority.kubernetes.bundle_maps import NAME, OWNER_NAME, BundleMaps
from agent.authority.ledger import Publication, Trust
from agent.kubernetes.access import from_kubeconfig
from agent.kubernetes.client import Client
from agent.tasks import spawn
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.inside import inside
from tests.tls.pki import Pki

OWN, SHOP, OTHER = "test-bundle-own", "test-bundle-shop", "test-bundle-other"


def publication(sequence: int) -> Publication:
    return Publication(Trust(ca.pem(Pki().root.certificate), "aa", 1e12), sequence=sequence, trust_sequence=sequence)


@pytest.fixture(scope="module")
def api(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """An API server without nodes, of its own: wherever a mesh is installed, its authority publishes as well."""
    made = another_cluster("b")
    try:
        made.up(0)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module", autouse=True)
def _namespaces(api: Cluster) -> Iterator[None]:
    with api.namespace(OWN), api.namespace(SHOP), api.namespace(OTHER):
        api.kubectl("annotate", "namespace", SHOP, "linkerd.io/inject=enabled")
        yield


@contextlib.asynccontextmanager
async def running(api: Cluster, leads: Callable[[], bool]) -> AsyncIterator[BundleMaps]:
    maps = BundleMaps(Client(from_kubeconfig([api.layout.kubeconfig])), OWN, "example.test", leads)
    task = spawn(maps.run(), name="maps")
    try:
        yield maps
    finally:
        task.cancel()
        await asyncio.wait([task])
        maps.close()


def roots(api: Cluster, namespace: str) -> str | None:
    """What is published in a namespace; None where nothing is."""
    found = api.kubectl("get", "configmap", "-n", namespace, NAME, "--ignore-not-found", "-o", "json")
    return json.loads(found)["data"]["ca.crt"] if found else None


async def until(holds: Callable[[], Any]) -> None:
    """Looks, as somebody else would, until it is so."""
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it happens at the API server
            await asyncio.sleep(0.2)


def test_the_bundle_is_where_it_is_needed_and_follows_roots_and_namespaces(api: Cluster) -> None:
    first, second = publication(1), publication(2)
    pem = [each.trust.anchors_pem.decode() for each in (first, second)]

    async def work() -> None:
        async with running(api, lambda: True) as maps:
            maps.publish(first)
            await until(lambda: roots(api, OWN) == roots(api, SHOP) == pem[0])
            assert await asyncio.to_thread(roots, api, OTHER) is None
            maps.publish(second)
            await until(lambda: roots(api, OWN) == roots(api, SHOP) == pem[1])
            await asyncio.to_thread(api.kubectl, "annotate", "namespace", OTHER, "linkerd.io/inject=enabled")
            await until(lambda: roots(api, OTHER) == pem[1])
            await asyncio.to_thread(api.kubectl, "annotate", "namespace", OTHER, "linkerd.io/inject-")
            await until(lambda: roots(api, OTHER) is None)
            assert await asyncio.to_thread(roots, api, SHOP) == pem[1]

    inside(api, work)


def test_whoever_does_not_lead_writes_nothing_and_whoever_comes_to_lead_writes_what_is_in_force(
    api: Cluster,
) -> None:
    third = publication(3)
    leads: list[bool] = []

    async def work() -> None:
        before = await asyncio.to_thread(roots, api, OWN)
        async with running(api, lambda: bool(leads)) as maps:
            maps.publish(third)
            await asyncio.sleep(3)  # longer than it waits before it looks whether it leads
            assert await asyncio.to_thread(roots, api, OWN) == before
            leads.append(True)
            await until(lambda: roots(api, OWN) == roots(api, SHOP) == third.trust.anchors_pem.decode())

    inside(api, work)


def test_a_namespace_that_is_being_deleted_is_no_fault_and_gets_none_any_more(
    api: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays for as long as somebody's finalizer holds it, and nothing can be made in it meanwhile."""
    name = "test-bundle-goes"
    finalizer = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "last", "finalizers": ["test/last"]}}
    maps = BundleMaps(Client(from_kubeconfig([api.layout.kubeconfig])), OWN, "example.test", lambda: True)

    async def work() -> None:
        maps.publish(publication(5))
        maps._namespaces.injected.add(name)  # the watch has not told yet
        try:
            assert not await maps.write()
            await asyncio.to_thread(let_go)
            await until(lambda: not api.kubectl("get", "namespace", name, "--ignore-not-found"))
            assert not await maps.write()
            maps._namespaces.injected.discard(name)
            assert await maps.write()
        finally:
            maps.close()

    def let_go() -> None:
        api.kubectl("patch", "configmap", "-n", name, "last", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    api.kubectl("create", "namespace", name)
    api.kubectl("apply", "-n", name, "-f", "-", given=json.dumps(finalizer))
    api.kubectl("delete", "namespace", name, "--wait=false")
    # Its other objects go before it stops being made anew.
    api.wait("--for=jsonpath={.status.phase}=Terminating", f"namespace/{name}")
    inside(api, work)
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == []


def test_they_are_owned_by_the_authoritys_cluster_role_and_go_with_it(api: Cluster) -> None:
    fourth = publication(4)
    api.kubectl("create", "clusterrole", OWNER_NAME, "--verb=get", "--resource=pods")
    try:

        async def work() -> None:
            async with running(api, lambda: True) as maps:
                maps.publish(fourth)
                await until(lambda: roots(api, OWN) == roots(api, SHOP) == fourth.trust.anchors_pem.decode())

        inside(api, work)
    finally:
        api.kubectl("delete", "clusterrole", OWNER_NAME)
    for namespace in (OWN, SHOP):
        api.wait("-n", namespace, "--for=delete", f"configmap/{NAME}")
