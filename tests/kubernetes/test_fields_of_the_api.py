"""The table of fields beside the schemas that a real API server publishes: it has each of them, and no other."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from agent.objects.fields import TABLES
from tests.kubernetes.cluster.cluster import Cluster
from tests.objects.test_fields import API

Schema = Mapping[str, Any]

DOCUMENTS = ("/openapi/v3/api/v1", "/openapi/v3/apis/discovery.k8s.io/v1")
OF_EVERY_OBJECT = {"apiVersion", "kind", "metadata"}
LOOKED_AT: dict[str, tuple[str, tuple[str, ...]]] = {
    "Service": ("io.k8s.api.core.v1.Service", ("spec", "status")),
    "EndpointSlice": ("io.k8s.api.discovery.v1.EndpointSlice", ("",)),
    "Endpoints": ("io.k8s.api.core.v1.Endpoints", ("",)),
    "Pod": ("io.k8s.api.core.v1.Pod", ("spec",)),
    "Node": ("io.k8s.api.core.v1.Node", ("status.addresses[]",)),
}
"""By kind: its schema, and below which of its fields every one matters."""
LATER = {"Pod spec.evictionResponders"}
"""Of a release after the one that is built here: the table has it already."""
A_LABEL = "metadata.labels.topology.kubernetes.io/zone"


class Schemas:
    """What one API server says of its objects."""

    def __init__(self, cluster: Cluster) -> None:
        self._by_name: dict[str, Schema] = {}
        for document in DOCUMENTS:
            self._by_name |= json.loads(cluster.kubectl("get", "--raw", document))["components"]["schemas"]

    def of(self, kind: str, path: str = "") -> Schema:
        """The schema of a kind, or of a field of it by its path. Raises KeyError where there is none."""
        found = self._by_name[LOOKED_AT[kind][0]]
        for step in path.split(".") if path else ():
            found = self._followed(found["properties"][step.removesuffix("[]")])
            if step.endswith("[]"):
                found = self._followed(found["items"])
        return found

    def _followed(self, schema: Schema) -> Schema:
        """What a schema refers to: a reference stands alone, or in allOf beside a default."""
        (reference,) = [schema, *schema.get("allOf", ())][-1:]
        name = str(reference.get("$ref", "")).rpartition("/")[2]
        return self._by_name[name] if name else schema


@pytest.fixture(scope="module")
def schemas(cluster: Cluster) -> Schemas:
    return Schemas(cluster)


def unknown(schemas: Schemas, kind: str, path: str) -> Iterator[str]:
    """Fields below a path that the table has neither itself nor by those that they hold."""
    for name, schema in schemas.of(kind, path).get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if here in TABLES[kind] or (not path and name in OF_EVERY_OBJECT):
            continue
        below = f"{here}[]" if schema.get("type") == "array" else here
        if any(each.startswith(f"{below}.") for each in TABLES[kind]):
            yield from unknown(schemas, kind, below)
        else:
            yield here


@pytest.mark.parametrize("kind", LOOKED_AT)
def test_every_field_that_the_api_server_knows_is_in_the_table(schemas: Schemas, kind: str) -> None:
    assert [found for path in LOOKED_AT[kind][1] for found in unknown(schemas, kind, path)] == []


@pytest.mark.parametrize("kind", LOOKED_AT)
def test_every_field_of_the_table_is_one_that_the_api_server_knows(schemas: Schemas, kind: str) -> None:
    for path in TABLES[kind].keys() - {A_LABEL, *(each.removeprefix(f"{kind} ") for each in LATER)}:
        assert schemas.of(kind, path), path


@pytest.mark.parametrize(("kind", "path"), [tuple(each.split(" ", 1)) for each in API])
def test_the_list_that_other_tests_walk_is_the_api_servers(schemas: Schemas, kind: str, path: str) -> None:
    listed = {name for name in API[f"{kind} {path}"].split() if f"{kind} {path}.{name}" not in LATER}
    assert listed == set(schemas.of(kind, path)["properties"]) - OF_EVERY_OBJECT
