"""What many pods at once cost: `python -m bench.pods_at_once [--pods 200]` (root; builds a cluster).

Brings up two nodes with the mesh, and a client that calls a server all the time. Then a Deployment is scaled up, first
in a namespace that is not injected, and in one that is when that is gone. Prints one JSON object, with the same figures
of both: pods that were ready, and said to be meshed, with the seconds from the command to the middle one and to the
last; CPU seconds of the whole machine meanwhile, and among it of the agents, the authority, the webhooks, of these pods
and their init steps (`many`), and of what runs them (`nodes`); Warning Events by their reason; denials in the agents'
logs by their outcome; and calls of the client, with those that failed.
"""

import argparse
import collections
import contextlib
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.image import build
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.layout import CGROUPS
from tests.kubernetes.load import Load, loop
from tests.kubernetes.mesh import Mesh
from tests.kubernetes.shop import Shop, account, deployment

CONDITIONS = ("Ready", "quietwire.io/meshed")
LOOK_SECONDS = 1.0
DELETE_SECONDS = 1200.0
PROBE_SECONDS = 5
"""Two hundred probes a second would be the machine's only work."""
TICK = os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """CPU that was used so far, of all processors: all but idle and iowait (proc(5))."""
    user, nice, system, _, _, *more = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(more)) / TICK


def group_seconds(cluster: Cluster, pattern: str) -> float:
    """CPU of control groups of the nodes so far, those below them included; nothing where there is none."""
    found = 0.0
    for node in cluster.nodes:
        for root in (CGROUPS, CGROUPS / "cpuacct"):
            for group in root.glob(f"{node.cgroup}{pattern}"):
                if (used := group / "cpuacct.usage").exists():
                    found += int(used.read_text()) / 1e9
                elif (stat := group / "cpu.stat").exists() and "usage_usec" in stat.read_text():
                    found += int(dict(line.split() for line in stat.read_text().splitlines())["usage_usec"]) / 1e6
    return found


class Meter:
    """CPU of the mesh's parts, and of everything."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        pods = json.loads(mesh.kubectl("get", "pods", "-o", "json"))["items"]
        self._parts = [
            (each["metadata"]["labels"]["app.kubernetes.io/component"], each["metadata"]["uid"]) for each in pods
        ]

    def seconds(self) -> dict[str, float]:
        """So far."""
        found = collections.defaultdict[str, float](float, machine=machine_seconds())
        for part, uid in self._parts:
            found[part] += group_seconds(self._mesh.cluster, f"/kubepods/*/pod{uid}")
        found["many"] = group_seconds(self._mesh.cluster, "/kubepods/besteffort")
        found["nodes"] = group_seconds(self._mesh.cluster, "") - group_seconds(self._mesh.cluster, "/kubepods")
        return dict(found)


def said_at(pod: dict[str, Any], kind: str) -> float | None:
    """When a condition of a pod came true, POSIX seconds; None: it is not."""
    for each in pod["status"].get("conditions", ()):
        if each["type"] == kind and each["status"] == "True":
            return datetime.datetime.fromisoformat(each["lastTransitionTime"]).timestamp()
    return None


def warnings(shop: Shop) -> dict[str, int]:
    """Events that tell of something wrong, by reason."""
    events = json.loads(shop.kubectl("get", "events", "-o", "json"))["items"]
    found: collections.Counter[str] = collections.Counter()
    for each in events:
        if each["type"] == "Warning":
            found[each["reason"]] += each.get("count") or 1
    return dict(found)


def denials(mesh: Mesh, namespace: str) -> dict[str, int]:
    """In the logs of all agents, by direction and outcome."""
    lines = [line for node in mesh.cluster.nodes for line in mesh.log(node.name)]
    of_it = (line for line in lines if line.get("event") == "denied" and str(line["pod"]).startswith(f"{namespace}/"))
    return dict(collections.Counter(f"{line['direction']} {line['outcome']}" for line in of_it))


def measure(shop: Shop, pods: int, seconds: float, *, meshed: bool) -> dict[str, Any]:
    """Scales up, waits for so long, and scales down again."""
    made = deployment("many", replicas=0)
    made["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSeconds"] = PROBE_SECONDS
    shop.apply(account("many"), made)
    meter = Meter(shop.mesh)
    load = Load(shop) if meshed else None
    if load is not None:
        load.begin()
    before, began = meter.seconds(), time.time()
    shop.kubectl("scale", "deployment/many", f"--replicas={pods}")
    wanted = CONDITIONS if meshed else CONDITIONS[:1]
    while time.time() < began + seconds:
        time.sleep(LOOK_SECONDS)
        if shop.kubectl("get", "deployment/many", "-o", "jsonpath={.status.readyReplicas}") == str(pods):
            break
    after = meter.seconds()
    found = json.loads(shop.kubectl("get", "pods", "-l", "app=many", "-o", "json"))["items"]
    figures: dict[str, Any] = {}
    for kind in wanted:
        at = sorted(when - began for each in found if (when := said_at(each, kind)) is not None)
        name = kind.rpartition("/")[2].lower()
        figures[name] = {"pods": len(at)}
        if at:
            figures[name] |= {"half_seconds": round(statistics.median(at)), "last_seconds": round(at[-1])}
    figures["restarts"] = sum(
        each["restartCount"]
        for pod in found
        for kind in ("containerStatuses", "initContainerStatuses")
        for each in pod["status"].get(kind, ())
    )
    figures["cpu_seconds"] = {part: round(after[part] - before[part], 1) for part in after}
    figures["warnings"] = warnings(shop)
    figures["denials"] = denials(shop.mesh, shop.namespace)
    if load is not None:
        figures["calls"], figures["calls_failed"] = load.count, load.failures(at_least=1)
    shop.kubectl("delete", "deployment", "many", "--cascade=foreground", seconds=DELETE_SECONDS)
    return figures


@contextlib.contextmanager
def up() -> Iterator[Mesh]:
    """A cluster with the mesh."""

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    cluster = Cluster("qwb", say)
    image = build.make(say)
    cluster.up()
    try:
        cluster.load_everywhere(image.archive)
        mesh = Mesh(cluster, image.name)
        mesh.install()
        yield mesh
    finally:
        cluster.down()


def main() -> None:
    """Measures once, and takes the cluster down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1200.0, help="to wait for all of them, each time")
    given = parser.parse_args()
    figures: dict[str, Any] = {"pods": given.pods}
    with up() as mesh:
        with mesh.cluster.namespace("plain") as plain:
            figures["plain"] = measure(Shop(mesh, plain), given.pods, given.seconds, meshed=False)
        with mesh.cluster.namespace("meshed") as meshed:
            shop = Shop(mesh, meshed)
            shop.open(client=loop(meshed))
            figures["meshed"] = measure(shop, given.pods, given.seconds, meshed=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
