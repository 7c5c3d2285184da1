"""What agents ask of an API server: `python -m bench.api_server [--agents 50] [--pods 2000]` (root; builds a cluster).

Brings up a real cluster, makes pods on nodes that have no kubelet, and has many sources follow it, with connections of
their own, as as many agents would. Prints one JSON object: CPU seconds of kube-apiserver for all first lists and the
bytes that one agent was sent by them; its CPU, in per cent of a core, with nobody and with all agents while nothing
happens; and what one change costs it, with and without agents, and so for one of them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.kubernetes.access import Access, from_kubeconfig
from agent.kubernetes.client import JSON, MERGE_PATCH, Client, Query
from agent.tasks import spawn
from deploy.helm.__main__ import DEFINITIONS
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.inside import inside

NAMESPACE = "bench"
AT_ONCE = 16
TICK = os.sysconf("SC_CLK_TCK")


class Counting(Client):
    """A client that counts what it is sent by watches and lists."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.received = 0

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, query: Query, *, accept: str = JSON, silent_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Client."""

        async def counted(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for line in lines:
                self.received += len(line) + 1
                yield line

        async with super().lines(path, query, accept=accept, silent_seconds=silent_seconds) as lines:
            yield counted(lines)


class Meter:
    """CPU of one process, by the kernel's count of it."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")

    def seconds(self) -> float:
        """So far, user and system."""
        fields = self._stat.read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    async def percent(self, seconds: float) -> float:
        """Of a core, over some seconds from now on."""
        before, began = self.seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        return round((self.seconds() - before) / (time.monotonic() - began) * 100, 1)


def a_pod(number: int) -> dict[str, Any]:
    """One on a node without a kubelet."""
    return {
        "metadata": {"name": f"pod-{number}", "labels": {"app": f"app-{number // 5}"}},
        "spec": {
            "nodeName": f"none-{number % 20}",
            "containers": [
                {
                    "name": "main",
                    "image": "none",
                    "env": [{"name": f"VARIABLE_{at}", "value": "a value of some length"} for at in range(12)],
                    "ports": [{"name": "http", "containerPort": 8080}],
                }
            ],
        },
    }


async def make(client: Client, pods: int) -> None:
    """All objects, some at once."""
    await client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": NAMESPACE}})
    for at in range(20):
        await client.request("POST", "/api/v1/nodes", body={"metadata": {"name": f"none-{at}"}})
    numbers = iter(range(pods))

    async def work() -> None:
        for number in numbers:
            await client.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body=a_pod(number))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def change(client: Client, pods: int, per_second: float, seconds: float) -> int:
    """Annotates one pod after the other, so many times a second; how many changes were made."""
    began, made = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/pod-{made * 37 % pods}"
        patch = {"metadata": {"annotations": {"bench": str(time.monotonic_ns())}}}
        await client.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
        made += 1
        await asyncio.sleep(max(0.0, began + made / per_second - time.monotonic()))
    return made


async def measure(access: Access, meter: Meter, given: argparse.Namespace) -> dict[str, Any]:
    """The whole."""
    client = Client(access)
    await make(client, given.pods)
    await asyncio.sleep(5)
    found: dict[str, Any] = {"agents": given.agents, "pods": given.pods}
    found["nobody_idle_percent"] = await meter.percent(given.seconds)
    before = meter.seconds()
    made = await change(client, given.pods, given.rate, given.seconds)
    alone = meter.seconds() - before
    clients = [Counting(access) for _ in range(given.agents)]
    sources = [KubernetesSource(each, lambda *_: None) for each in clients]
    before = meter.seconds()
    await asyncio.gather(*(source.start() for source in sources))
    found["first_lists_cpu_seconds"] = round(meter.seconds() - before, 2)
    found["first_list_bytes_each"] = clients[0].received
    running = [spawn(source.run(), name="source") for source in sources]
    found["agents_idle_percent"] = await meter.percent(given.seconds)
    received, before = clients[0].received, meter.seconds()
    with_agents = await change(client, given.pods, given.rate, given.seconds)
    await asyncio.sleep(1)
    watched = meter.seconds() - before
    found["changes_per_second"] = round(with_agents / given.seconds, 1)
    found["bytes_of_a_change"] = round((clients[0].received - received) / with_agents)
    found["change_ms"] = round(alone / made * 1000, 2)
    found["change_ms_with_agents"] = round(watched / with_agents * 1000, 2)
    found["change_us_for_one_agent"] = round((watched / with_agents - alone / made) / given.agents * 1e6, 1)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    client.close()
    return found


def main() -> None:
    """Measures once, and takes the cluster down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=20.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    given = parser.parse_args()
    cluster = Cluster("qwb", lambda _: None)
    cluster.prepare()
    cluster.up()
    try:
        cluster.kubectl("apply", "--server-side", "-f", str(DEFINITIONS))  # a kind that is not there is asked for again
        cluster.wait("--for=condition=Established", "crd", "--all")
        server = cluster.processes.named("kube-apiserver")
        if server is None:
            raise SystemExit("the API server has ended")
        access, meter = from_kubeconfig([cluster.layout.kubeconfig]), Meter(server.pid)
        print(json.dumps(inside(cluster, lambda: measure(access, meter, given), 900.0)))
    finally:
        cluster.down()


if __name__ == "__main__":
    main()
