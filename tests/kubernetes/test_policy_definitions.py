"""The kinds of policy.linkerd.io as the chart defines them: what the API server takes, and what becomes of a refusal.

In a cluster of their own, of one API server: the definitions are everybody's.
"""

import datetime
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.catalog.sources.kubernetes import reading
from agent.kubernetes.kind import Kind
from agent.objects.policy import POLICY_GROUP
from deploy.helm.__main__ import DEFINITIONS
from tests.catalog import test_as_in_the_field as field
from tests.kubernetes.cluster.cluster import Cluster
from tests.objects.test_decode_policy import ALL as REFUSED
from tests.policy.test_table import CASES, EVERYWHERE, rows_of

SHOP = Path(__file__).parents[2] / "deploy/examples/shop"


@pytest.fixture(scope="module")
def api(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """An API server that has the chart's definitions."""
    made = another_cluster("d")
    try:
        made.up(0)
        made.kubectl("apply", "--server-side", "-f", str(DEFINITIONS))
        made.wait("--for=condition=Established", "crd", "--all")
        yield made
    finally:
        made.down()


def ours(documents: Iterable[Any]) -> list[dict[str, Any]]:
    """Those of our group, each under a name of its own."""
    found = [each for each in documents if each and str(each.get("apiVersion", "")).startswith(f"{POLICY_GROUP}/")]
    return [
        {**each, "metadata": {"namespace": "default", **each["metadata"], "name": f"x-{number}"}}
        for number, each in enumerate(found)
    ]


def in_the_tables() -> Iterator[Any]:
    for path in sorted(CASES.glob("*.yaml")):
        if path != EVERYWHERE:
            for text in sorted({row.scenario.text for row in rows_of(path)}):
                yield from yaml.safe_load_all(text)


def in_the_field() -> Iterator[Any]:
    for value in vars(field).values():
        if isinstance(value, str) and f"apiVersion: {POLICY_GROUP}" in value:
            yield from yaml.safe_load_all(value)


def in_the_examples() -> Iterator[Any]:
    for path in sorted(SHOP.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def tried(api: Cluster, documents: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """What the API server would store of them, and what it says of those that it refuses."""

    def rfc3339(time: datetime.datetime) -> str:
        return time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")

    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in {each["metadata"]["namespace"] for each in documents}
    ]
    api.kubectl("apply", "-f", "-", given="\n---\n".join(map(json.dumps, namespaces)))
    given = "\n---\n".join(json.dumps(each, default=rfc3339) for each in documents)
    words = api.kubectl_command("create", "--dry-run=server", "-o", "json", "-f", "-")
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=120)
    stored, rest, reader = [], done.stdout.strip(), json.JSONDecoder()
    while rest:
        found, end = reader.raw_decode(rest)
        stored.append(found)
        rest = rest[end:].strip()
    return stored, done.stderr


def fault(stored: dict[str, Any]) -> str:
    """What an agent says of an object as the API server has it."""
    group, version = stored["apiVersion"].split("/")
    return reading.read(Kind(group, version, "x", stored["kind"]), json.dumps(stored).encode()).fault


@pytest.mark.parametrize(("where", "least"), [(in_the_tables, 300), (in_the_field, 5), (in_the_examples, 3)])
def test_linkerds_manifests_are_taken_as_they_are_and_mean_what_they_meant(
    api: Cluster, where: Any, least: int
) -> None:
    documents = ours(where())
    stored, said = tried(api, documents)
    assert said == ""
    assert len(stored) == len(documents) >= least
    assert [fault(each) for each in stored if fault(each)] == []
    for given, kept in zip(documents, stored, strict=True):
        assert kept["spec"] == given["spec"]


def test_what_the_decoder_refuses_is_refused_by_the_api_server_or_comes_back_as_it_was_and_is_refused_still(
    api: Cluster,
) -> None:
    """Pruning would make a legal object of a slip, which lets in more than was written: an agent would never know."""
    documents = ours(yaml.safe_load(each.text) for each in REFUSED)
    stored, said = tried(api, documents)
    refused = re.findall("Error from server|resource mapping not found|unable to decode", said)
    assert len(documents) > 150
    assert len(stored) + len(refused) == len(documents)
    assert len(refused) > 50, "schemas say at once what is plainly wrong"
    assert [each for each in stored if not fault(each)] == []


def test_an_older_version_is_taken_and_read_in_the_newest(api: Cluster) -> None:
    for version in ("v1alpha1", "v1beta1", "v1beta2", "v1beta3"):
        spec = {"podSelector": {}, "port": 80, "proxyProtocol": "HTTP/2"}
        server = {"apiVersion": f"{POLICY_GROUP}/{version}", "kind": "Server", "metadata": {"name": version}}
        api.kubectl("apply", "-n", "default", "-f", "-", given=json.dumps({**server, "spec": spec}))
        read = json.loads(api.kubectl("get", "-n", "default", f"servers.v1beta3.{POLICY_GROUP}", version, "-o", "json"))
        assert (read["apiVersion"], read["spec"]) == (f"{POLICY_GROUP}/v1beta3", spec)


def test_people_are_told_what_a_field_means_and_see_what_matters(api: Cluster) -> None:
    assert "number or the name of a container port" in api.kubectl("explain", "server.spec.port")
    server = {
        "apiVersion": f"{POLICY_GROUP}/v1beta3",
        "kind": "Server",
        "metadata": {"name": "shown"},
        "spec": {"podSelector": {}, "port": "http", "accessPolicy": "audit"},
    }
    api.kubectl("apply", "-n", "default", "-f", "-", given=json.dumps(server))
    assert api.kubectl("get", "-n", "default", "srv", "shown", "--no-headers").split()[:3] == ["shown", "http", "audit"]
