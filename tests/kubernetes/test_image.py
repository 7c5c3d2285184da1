"""The image as a node runs it: what it can do, what is not in it, and that its root is read-only."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.image import build
from deploy.image.root import PYTHON
from tests.kubernetes.cluster.cluster import Cluster


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("test-image") as name:
        yield name


def pod(name: str, image: str, *words: str, **more: Any) -> dict[str, Any]:
    """One that runs the image's command with some words, once; `more` of its container."""
    security = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "quietwire", "image": image, "args": list(words), "securityContext": security, **more}
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def said(cluster: Cluster, namespace: str, asked: dict[str, Any]) -> str:
    """What a pod says until it has ended well; what it said is in the failure of one that did not."""
    name = asked["metadata"]["name"]
    cluster.kubectl("apply", "-n", namespace, "-f", "-", given=json.dumps(asked))
    state = "{.status.containerStatuses[0].state.terminated.exitCode}"
    cluster.wait("-n", namespace, f"--for=jsonpath={state}", f"pod/{name}")
    words = cluster.kubectl("logs", "-n", namespace, name)
    assert cluster.kubectl("get", "-n", namespace, f"pod/{name}", "-o", f"jsonpath={state}") == "0", words
    return words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--version"], build.version()),
        (["init", "show"], "QUIETWIRE_OUTPUT"),
        (["agent", "--help"], "Usage: quietwire agent"),
        (["authority", "run", "--help"], "Usage: quietwire authority run"),
        (["authz", "--help"], "Usage: quietwire authz"),
    ],
    ids=" ".join,
)
def test_commands_run_in_a_pod_with_a_read_only_root(
    cluster: Cluster, quietwire_image: str, namespace: str, words: list[str], expected: str
) -> None:
    name = "-".join(word.strip("-") for word in words)
    assert expected in said(cluster, namespace, pod(name, quietwire_image, *words))


RULES = """
import subprocess, sys
quietwire = "/usr/local/bin/quietwire"
for backend in ("legacy", "nft"):
    for words in (("apply",), ("check",), ("remove",)):
        subprocess.run([quietwire, "init", *words, "--backend", backend], check=True)
print("both")
"""


def test_rules_are_written_by_either_backend_with_what_is_in_the_image(
    cluster: Cluster, quietwire_image: str, namespace: str
) -> None:
    """In the pod's own namespace, as an init container does it."""
    asked = pod(
        "rules",
        quietwire_image,
        command=[f"/usr/bin/{PYTHON}", "-c", RULES],
        securityContext={"readOnlyRootFilesystem": True, "privileged": True},
    )
    assert said(cluster, namespace, asked).endswith("both\n")


IMPORTS = """
import importlib, pathlib, sys
failed = []
for site in [each for each in sys.path if each.endswith("dist-packages")]:
    for room in ("agent", "init"):
        for path in sorted(pathlib.Path(site, room).rglob("*.py")):
            name = ".".join(path.relative_to(site).with_suffix("").parts).removesuffix(".__init__")
            if not name.endswith("__main__") and not name.startswith(("agent.lab", "agent.cli.demo")):
                try:
                    importlib.import_module(name)
                except ImportError as error:
                    failed.append(f"{name}: {error}")
print(failed)
"""


def test_every_module_finds_what_it_imports(cluster: Cluster, quietwire_image: str, namespace: str) -> None:
    asked = pod("imports", quietwire_image, command=[f"/usr/bin/{PYTHON}", "-c", IMPORTS])
    assert said(cluster, namespace, asked) == "[]\n"


@pytest.fixture(scope="module")
def contents(quietwire_image: str) -> dict[str, tarfile.TarInfo]:
    """Every file in it."""
    image = build.make(lambda _: None)
    with tarfile.open(image.archive) as archive:
        (layer,) = [each for each in archive if each.size > 1_000_000]
        opened = archive.extractfile(layer)
        assert opened is not None
        with tarfile.open(fileobj=opened, mode="r:gz") as files:
            return {entry.name: entry for entry in files}


def test_it_is_small(quietwire_image: str) -> None:
    size = build.make(lambda _: None).size
    assert 20_000_000 < size.compressed < 60_000_000
    assert size.compressed < size.unpacked < build.MOST


def test_there_is_no_shell_no_compiler_and_no_installer(contents: dict[str, tarfile.TarInfo]) -> None:
    programs = {Path(name).name for name in contents if name.startswith(("usr/bin/", "usr/sbin/", "usr/local/bin/"))}
    assert programs == {PYTHON, "nft", "quietwire"}
    assert not [name for name in contents if "/pip/" in name or name.endswith((".a", ".h", ".pyx"))]


def test_nothing_gains_privileges_and_no_time_is_in_it(contents: dict[str, tarfile.TarInfo]) -> None:
    assert not [name for name, entry in contents.items() if entry.mode & 0o6000]
    assert {entry.mtime for entry in contents.values()} == {0}
    assert {(entry.uid, entry.gid) for entry in contents.values()} == {(0, 0)}


def test_each_module_is_there_compiled_once(contents: dict[str, tarfile.TarInfo]) -> None:
    """Where the root is read-only, what is not compiled is compiled again at every start."""
    compiled = [name for name in contents if name.endswith(".pyc")]
    ours = [name for name in contents if "/dist-packages/agent/" in name and name.endswith(".py")]
    assert len(ours) > 100
    assert len([name for name in compiled if "/dist-packages/agent/" in name]) == len(ours)
    assert not [name for name in compiled if ".opt-" in name]
