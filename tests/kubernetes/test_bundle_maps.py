"""The bundle as ConfigMaps on a real cluster: where they come, and go again, by whichever replica leads."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from agent.authority import ca
from agent.authority.kubernetes.bundle_maps import NAME, BundleMaps
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


@pytest.fixture(scope="module", autouse=True)
def _namespaces(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(OWN), cluster.namespace(SHOP), cluster.namespace(OTHER):
        cluster.kubectl("annotate", "namespace", SHOP, "linkerd.io/inject=enabled")
        yield


@contextlib.asynccontextmanager
async def running(cluster: Cluster, leads: Callable[[], bool]) -> AsyncIterator[BundleMaps]:
    maps = BundleMaps(Client(from_kubeconfig([cluster.layout.kubeconfig])), OWN, "example.test", leads)
    task = spawn(maps.run(), name="maps")
    try:
        yield maps
    finally:
        task.cancel()
        await asyncio.wait([task])
        maps.close()


def roots(cluster: Cluster, namespace: str) -> str | None:
    """What is published in a namespace; None where nothing is."""
    found = cluster.kubectl("get", "configmap", "-n", namespace, NAME, "--ignore-not-found", "-o", "json")
    return json.loads(found)["data"]["ca.crt"] if found else None


async def until(holds: Callable[[], Any]) -> None:
    """Looks, as somebody else would, until it is so."""
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it happens at the API server
            await asyncio.sleep(0.2)


def test_the_bundle_is_where_it_is_needed_and_follows_roots_and_namespaces(cluster: Cluster) -> None:
    first, second = publication(1), publication(2)
    pem = [each.trust.anchors_pem.decode() for each in (first, second)]

    async def work() -> None:
        async with running(cluster, lambda: True) as maps:
            maps.publish(first)
            await until(lambda: roots(cluster, OWN) == roots(cluster, SHOP) == pem[0])
            assert await asyncio.to_thread(roots, cluster, OTHER) is None
            maps.publish(second)
            await until(lambda: roots(cluster, OWN) == roots(cluster, SHOP) == pem[1])
            await asyncio.to_thread(cluster.kubectl, "annotate", "namespace", OTHER, "linkerd.io/inject=enabled")
            await until(lambda: roots(cluster, OTHER) == pem[1])
            await asyncio.to_thread(cluster.kubectl, "annotate", "namespace", OTHER, "linkerd.io/inject-")
            await until(lambda: roots(cluster, OTHER) is None)
            assert await asyncio.to_thread(roots, cluster, SHOP) == pem[1]

    inside(cluster, work)


def test_whoever_does_not_lead_writes_nothing_and_whoever_comes_to_lead_writes_what_is_in_force(
    cluster: Cluster,
) -> None:
    third = publication(3)
    leads: list[bool] = []

    async def work() -> None:
        before = await asyncio.to_thread(roots, cluster, OWN)
        async with running(cluster, lambda: bool(leads)) as maps:
            maps.publish(third)
            await asyncio.sleep(3)  # longer than it waits before it looks whether it leads
            assert await asyncio.to_thread(roots, cluster, OWN) == before
            leads.append(True)
            await until(lambda: roots(cluster, OWN) == roots(cluster, SHOP) == third.trust.anchors_pem.decode())

    inside(cluster, work)
