"""A pod as the webhooks change it, on a real node: what its init container can do, and what it waits for."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from agent.webhook.injection import CONTAINER, InjectionSettings, container, patch, resources
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.webhook.asking import carried_out

NOWHERE = "/run/quietwire-elsewhere/enrol"
"""Where no agent is, whether the mesh is installed meanwhile or not."""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("test-injected-pod") as name:
        yield name


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """One that says that nobody in it is root."""
    app = {
        "name": "app",
        "image": BASE_IMAGE,
        "command": ["sleep", "600"],
        "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65534}
    more = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "securityContext": security}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [app], **more, **spec},
    }


def test_with_net_admin_alone_and_a_read_only_root_the_rules_are_written(
    cluster: Cluster, quietwire_image: str, namespace: str
) -> None:
    """As it is injected, but for the agent, which is not waited for."""
    asked = pod("rules")
    ours = container(InjectionSettings(image=quietwire_image), resources(asked["spec"]))
    asked["spec"]["initContainers"] = [{**ours, "args": ["init", "apply"], "volumeMounts": []}]
    cluster.kubectl("apply", "-n", namespace, "-f", "-", given=json.dumps(asked))
    cluster.wait("-n", namespace, "--for=condition=Ready", "pod/rules")
    said = cluster.kubectl("logs", "-n", namespace, "rules", "-c", CONTAINER)
    assert "captured by nft (changed)" in said.splitlines()
    found = json.loads(cluster.kubectl("get", "-n", namespace, "pod/rules", "-o", "json"))
    assert found["status"]["qosClass"] == "Guaranteed", "as it was without it"


def test_on_a_node_without_an_agent_a_pod_waits_and_says_why(
    cluster: Cluster, quietwire_image: str, namespace: str
) -> None:
    asked = pod("waits")
    made = carried_out(patch(asked["spec"], InjectionSettings(image=quietwire_image, enrol_directory=NOWHERE)), asked)
    cluster.kubectl("apply", "-n", namespace, "-f", "-", given=json.dumps(made))
    of_it = ("--field-selector=involvedObject.name=waits", "-o", 'jsonpath={.message}{"\\n"}')
    words = cluster.kubectl_command("get", "events", "-n", namespace, "--watch", *of_it)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        try:
            assert any(f"hostPath type check failed: {NOWHERE} is not a" in line for line in watch.stdout)
        finally:
            watch.terminate()
