"""Leadership on a real cluster: one of several leads, and another when that one is gone."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from agent.authority.kubernetes.lease import LASTS_SECONDS, LEADS_SECONDS, Leadership
from agent.kubernetes.access import from_kubeconfig
from agent.kubernetes.client import Client
from agent.kubernetes.errors import Unreachable
from agent.tasks import spawn
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.inside import inside

NAMESPACE = "test-leadership"


@pytest.fixture(scope="module", autouse=True)
def _namespace(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(NAMESPACE):
        yield


class Replicas:
    """Two, on a clock that we turn."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.now = 1000.0
        self.client = Client(from_kubeconfig([cluster.layout.kubeconfig]))
        self.one, self.other = (
            Leadership(self.client, NAMESPACE, name, me, clock=lambda: self.now) for me in ("one", "other")
        )

    @property
    def leads(self) -> tuple[bool, bool]:
        return self.one.leads, self.other.leads


def test_whoever_comes_first_leads_for_as_long_as_he_renews_it(cluster: Cluster) -> None:
    async def work() -> None:
        replicas = Replicas(cluster, "renewed")
        for _ in range(10):
            assert await replicas.one.once()
            assert not await replicas.other.once()
            assert replicas.leads == (True, False)
            replicas.now += LEADS_SECONDS - 1
        replicas.client.close()

    inside(cluster, work)


def test_a_leader_that_is_killed_is_followed_when_its_lease_is_over_and_knows_before(cluster: Cluster) -> None:
    async def work() -> None:
        replicas = Replicas(cluster, "killed")
        assert await replicas.one.once()
        assert not await replicas.other.once()
        replicas.now += LEADS_SECONDS
        assert replicas.leads == (False, False), "it could not renew it, and stops"
        assert not await replicas.other.once()
        replicas.now += LASTS_SECONDS - LEADS_SECONDS
        assert await replicas.other.once()
        assert not await replicas.one.once(), "it is back, and too late"
        assert replicas.leads == (False, True)
        replicas.client.close()

    inside(cluster, work)


def test_of_many_that_try_at_once_one_leads(cluster: Cluster) -> None:
    async def work() -> None:
        client = Client(from_kubeconfig([cluster.layout.kubeconfig]))
        many = [Leadership(client, NAMESPACE, "many", f"replica-{number}") for number in range(8)]
        assert sum(await asyncio.gather(*(each.once() for each in many))) == 1
        assert sum(each.leads for each in many) == 1
        client.close()

    inside(cluster, work)


def test_a_leader_that_ends_lets_it_go_at_once(cluster: Cluster) -> None:
    async def work() -> None:
        replicas = Replicas(cluster, "let-go")
        running = spawn(replicas.one.run(), name="leader")
        async with asyncio.timeout(30):
            while not replicas.one.leads:
                assert not replicas.other.leads
                await asyncio.sleep(0.05)  # it tells nobody
        assert not await replicas.other.once()
        running.cancel()
        await asyncio.wait([running])
        assert await replicas.other.once()
        replicas.client.close()

    inside(cluster, work)
    spec = json.loads(cluster.kubectl("get", "lease", "-n", NAMESPACE, "let-go", "-o", "json"))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("other", 1)


@pytest.mark.disruptive
def test_while_the_api_server_is_away_nobody_comes_to_lead(cluster: Cluster) -> None:
    async def work() -> None:
        replicas = Replicas(cluster, "away")
        assert await replicas.one.once()
        cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
        replicas.now += LASTS_SECONDS + 1
        for each in (replicas.one, replicas.other):
            with pytest.raises(Unreachable):
                await each.once()
        assert replicas.leads == (False, False)
        await asyncio.to_thread(cluster.restart, "kube-apiserver")
        assert await replicas.one.once()
        replicas.client.close()

    inside(cluster, work, 120.0)
