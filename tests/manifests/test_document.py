"""Lists as the API gives them: their items take kind and apiVersion from the list."""

import json
import textwrap
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.sources.files.directory import load
from agent.manifests.document import ListType, documents

ITEM = {"metadata": {"name": "web", "namespace": "demo"}, "status": {"podIP": "192.0.2.1"}}
SERVER = {"metadata": {"name": "web", "namespace": "demo"}, "spec": {"podSelector": {}, "port": 80}}


def names(directory: Path, text: str, suffix: str = "yaml") -> list[str]:
    path = directory / f"a.{suffix}"
    path.write_text(text)
    loaded = load([path])
    assert loaded.faults == ()
    return [str(key) for key in loaded.objects]


def test_items_of_a_pod_list_are_pods_in_yaml_and_in_json(tmp_path: Path) -> None:
    listed = {"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [ITEM]}
    assert names(tmp_path, json.dumps(listed), "json") == ["Pod demo/web"]
    text = """\
        apiVersion: v1
        items:
        - metadata: {name: web, namespace: demo}
        - metadata: {name: api, namespace: demo}
        kind: PodList
        """
    assert names(tmp_path, textwrap.dedent(text)) == ["Pod demo/web", "Pod demo/api"]
    assert names(tmp_path, "{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}]}") == ["Pod default/a"]


def test_items_of_a_list_of_policy_take_its_api_version_too(tmp_path: Path) -> None:
    listed = {"apiVersion": "policy.linkerd.io/v1beta3", "kind": "ServerList", "items": [SERVER]}
    assert names(tmp_path, json.dumps(listed), "json") == ["Server demo/web"]
    path = tmp_path / "old.json"
    old = {**SERVER, "spec": {"podSelector": {}, "port": 80, "accessPolicy": "deny"}}
    path.write_text(json.dumps({"apiVersion": "policy.linkerd.io/v1beta1", "kind": "ServerList", "items": [old]}))
    (fault,) = load([path]).faults
    assert "accessPolicy needs apiVersion policy.linkerd.io/v1beta3" in fault.reason


def test_an_item_that_says_what_it_is_stays_that(tmp_path: Path) -> None:
    listed = {"kind": "PodList", "apiVersion": "v1", "items": [{"kind": "Namespace", "metadata": {"name": "demo"}}]}
    assert names(tmp_path, json.dumps(listed), "json") == ["Namespace demo"]


def test_a_plain_list_gives_its_items_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("apiVersion: v1\nkind: List\nitems:\n- metadata: {name: web}\n")
    (fault,) = load([path]).faults
    assert "the document has no kind" in fault.reason


@given(st.sampled_from(["Pod", "Service", "Endpoints", "List", ""]), st.none() | st.sampled_from(["Pod", "Namespace"]))
def test_what_an_item_is_given_never_replaces_what_it_says(kind: str, own: str | None) -> None:
    (item,) = documents(json.dumps({"metadata": {}} | ({} if own is None else {"kind": own})).encode())
    given_to = ListType.of(f"{kind}List", "v1").given_to(item)
    assert given_to.get("kind").value == (own or kind or None)
