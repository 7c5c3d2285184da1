"""`make cluster`, `make cluster-down`, and kubectl for the cluster."""

import argparse
import os
import sys
from collections.abc import Sequence

from agent.process import die_with_parent
from deploy.helm import __main__ as chart
from deploy.image import ImageError
from deploy.image import build as image
from tests.kubernetes.cluster import programs
from tests.kubernetes.cluster.cluster import NODES, Cluster, ClusterError
from tests.kubernetes.cluster.programs import BuildError

EXAMPLE = """examples:
  python -m tests.kubernetes.cluster up
  python -m tests.kubernetes.cluster kubectl get nodes -o wide
  python -m tests.kubernetes.cluster down
"""


def main(arguments: Sequence[str]) -> int:
    """Does what was typed; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kubernetes.cluster",
        description="A real Kubernetes of two nodes in network namespaces of this machine (root).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default="qwk", help="tells clusters of one machine apart (default: %(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="build and fetch what it is made of, once")
    build.add_argument("--parent", type=int, help="the process that must not be outlived")
    up = verbs.add_parser("up", help="bring it up, in place of one that is up")
    up.add_argument("--nodes", type=int, default=NODES, choices=range(1, 6), help="default: %(default)s")
    up.add_argument("--proxy-mode", default="iptables", choices=["iptables", "nftables"], help="kube-proxy's")
    verbs.add_parser("down", help="end it, and leave nothing")
    verbs.add_parser("load", help="make the image of this checkout, and import it into every node; `up` does so too")
    verbs.add_parser("chart", help="write the parts of the chart that are made from the code, with its helm")
    kubectl = verbs.add_parser("kubectl", help="call kubectl as the cluster's administrator")
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    typed = parser.parse_args(arguments)
    if typed.verb != "chart" and os.geteuid() != 0:
        parser.error("namespaces need root: sudo make cluster")

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    cluster = Cluster(typed.name, say)
    try:
        if typed.verb == "build":
            if typed.parent is not None:
                die_with_parent(typed.parent)
            image.make(say)
            cluster.prepare()
        elif typed.verb == "up":
            cluster.up(typed.nodes, proxy_mode=typed.proxy_mode)
            cluster.load_everywhere(image.make(say).archive)
            print(f"up: {sys.executable} -m tests.kubernetes.cluster kubectl get nodes", file=sys.stderr)
        elif typed.verb == "chart":
            return chart.main([str(programs.build(say) / "helm")])
        elif typed.verb == "down":
            cluster.down()
        elif typed.verb == "load":
            cluster.prepare()
            cluster.load_everywhere(image.make(say).archive)
        else:
            cluster.prepare()
            command = cluster.kubectl_command(*typed.words)
            os.execvp(command[0], command)  # noqa: S606 - its terminal and its exit code are kubectl's
    except (BuildError, ClusterError, ImageError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
