"""Quietwire on the cluster of a run: installed by its chart, from this checkout's image."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster.cluster import Cluster

NAMESPACE = "quietwire"
RELEASE = "quietwire"
CHART = Path(__file__).parents[2] / "deploy" / "helm" / "quietwire"
INSTALL_SECONDS = 180
AGENT = "daemonset/quietwire-agent"
AUTHORITY = "deployment/quietwire-authority"
WEBHOOK = "deployment/quietwire-webhook"
WEBHOOKS = ("mutatingwebhookconfiguration/quietwire-webhook", "validatingwebhookconfiguration/quietwire-webhook")


class Mesh:
    """The release, and what its parts say."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self.cluster = cluster
        self.image = image

    def values(self, **more: str) -> list[str]:
        """Flags of helm: the image, and what scenarios read in the log."""
        repository, _, tag = self.image.rpartition(":")
        given = {
            "image.repository": repository,
            "image.tag": tag,
            "image.pullPolicy": "Never",
            "agent.accessLog": "true",
            "agent.drainSeconds": "1",
            **more,
        }
        return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]

    def install(self, **more: str) -> None:
        """Installs it, or upgrades it, and waits until agents and authority are ready."""
        words = ("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace")
        wait = ("--wait", "--timeout", f"{INSTALL_SECONDS}s")
        self.cluster.helm(*words, *self.values(**more), *wait, seconds=INSTALL_SECONDS + 30)
        for each in WEBHOOKS:  # helm makes them last, and no pod can be made before somebody is believed there
            is_believed = "--for=jsonpath={.webhooks[0].clientConfig.caBundle}"
            self.cluster.wait(each, is_believed)

    def uninstall(self) -> None:
        """Takes it away, definitions of kinds included."""
        self.cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", seconds=INSTALL_SECONDS)
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", seconds=INSTALL_SECONDS)

    @property
    def is_installed(self) -> bool:
        """Whether there is a release."""
        listed = json.loads(self.cluster.helm("list", "--namespace", NAMESPACE, "--output", "json"))
        return any(each["name"] == RELEASE and each["status"] == "deployed" for each in listed)

    def kubectl(self, *words: str, given: str | None = None, seconds: float = 120.0) -> str:
        """In its namespace."""
        return self.cluster.kubectl("-n", NAMESPACE, *words, given=given, seconds=seconds)

    def ready(self, what: str) -> None:
        """Waits for one of its parts."""
        self.cluster.rolled_out(NAMESPACE, what)

    @contextlib.contextmanager
    def only_on(self, stays: str, left: str) -> Iterator[None]:
        """Leaves one of two nodes without an agent: the DaemonSet selects the other one by its name meanwhile.

        Pods that stay are not made anew: they are of the newest version again when the selector is gone.
        """
        selector, kind = "/spec/template/spec/nodeSelector/kubernetes.io~1hostname", "/spec/updateStrategy"
        strategy = json.loads(self.kubectl("get", AGENT, "-o", "jsonpath={.spec.updateStrategy}"))
        gone = self.agent_on(left)

        def patch(*steps: dict[str, Any]) -> None:
            self.kubectl("patch", AGENT, "--type=json", "-p", json.dumps(steps))

        patch(
            {"op": "replace", "path": kind, "value": {"type": "OnDelete"}},
            {"op": "add", "path": selector, "value": stays},
        )
        try:
            self.cluster.wait("-n", NAMESPACE, "--for=delete", f"pod/{gone}")
            yield
        finally:
            patch({"op": "remove", "path": selector}, {"op": "replace", "path": kind, "value": strategy})
            self.ready(AGENT)

    def agent_on(self, node: str) -> str:
        """The pod of a node's agent."""
        selector = ("-l", "app.kubernetes.io/component=agent", "--field-selector", f"spec.nodeName={node}")
        return self.kubectl("get", "pods", *selector, "-o", "jsonpath={.items[0].metadata.name}")

    def log(self, node: str) -> Iterator[dict[str, Any]]:
        """What a node's agent has logged, line by line."""
        for line in self.kubectl("logs", self.agent_on(node), "--tail=-1").splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def logged(self, node: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The last line of a node's agent that is wanted; workers may still be writing."""
        return next((line for line in reversed(list(self.log(node))) if wanted(line)), None)
