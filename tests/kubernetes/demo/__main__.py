"""Brings a cluster up, installs the mesh, tells the story, and takes it down again: `make demo-kubernetes`."""

import argparse
import json
import sys
import time

from agent.cli.demo.play import tell
from agent.lab.frames import WireError
from deploy.image import build
from tests.kubernetes.cluster.cluster import Cluster, ClusterError
from tests.kubernetes.demo.story import OUTSIDE, SHOP, Story, explore
from tests.kubernetes.mesh import Mesh

NAME = "qwd"


def main() -> int:
    """The exit status: 0 where every step is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up; --down takes it down")
    parser.add_argument("--down", action="store_true", help="take down what --keep has left")
    parser.add_argument("--json", action="store_true", help="one JSON object with the evidence of each step")
    given = parser.parse_args()
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", file=sys.stderr, flush=True)

    cluster = Cluster(NAME, say)
    if given.down:
        cluster.down()
        return 0
    try:
        image = build.make(say)
        if cluster.is_up:
            cluster.prepare()
        else:
            cluster.up()
        cluster.load_everywhere(image.archive)
        mesh = Mesh(cluster, image.name)
        say("installing the chart: agents on both nodes, an authority of three replicas")
        mesh.install()
        for namespace in (SHOP, OUTSIDE):
            cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=true")
            cluster.kubectl("create", "namespace", namespace)
        story = Story(mesh, (lambda _: None) if given.json else tell)
        say("webapp and api are injected, stranger is in a namespace that is not")
        story.set_up()
        steps = story.play()
    except (ClusterError, WireError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        if not given.keep:
            cluster.down()
    good = sum(step.ok for step in steps)
    if given.json:
        report = {step.key: {"ok": step.ok, "title": step.title, "evidence": step.evidence} for step in steps}
        print(json.dumps({"ok": good == len(steps), **report}))
    else:
        print(f"\n{good} of {len(steps)} as they should be.")
        if given.keep:
            print(explore(cluster))
    return 0 if good == len(steps) else 1


sys.exit(main())
