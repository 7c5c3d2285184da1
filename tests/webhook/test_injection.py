"""Which pods are captured by an init container of ours, and that nothing else of them is another."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.webhook.injection import (
    CONTAINER,
    VOLUME,
    InjectionSettings,
    container,
    mutate,
    quantity,
    resources,
    volume,
)
from agent.webhook.review import question
from init.cli import parser
from init.constants import AGENT_SOCKET
from tests.webhook.asking import answer, patched, reason, review

SETTINGS = InjectionSettings(image="registry.example/quietwire:1")
OURS, VOLUMES = container(SETTINGS, {}), volume(SETTINGS)
APP = {"name": "app", "image": "app:1"}


def pod(*, inject: Any = None, **spec: Any) -> dict[str, Any]:
    annotations = {"annotations": {"linkerd.io/inject": inject, "other": "kept"}} if inject is not None else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "web-", **annotations},
        "spec": {"containers": [APP], **spec},
    }


def stored(found: Any, of_namespace: str | None = "enabled", **more: Any) -> Any:
    return patched(mutate(question(review(found, **more)), of_namespace, SETTINGS), found)


@pytest.mark.parametrize(
    ("own", "of_namespace", "injected"),
    [
        (None, None, False),
        (None, "disabled", False),
        (None, "enabled", True),
        (None, "ingress", True),
        ("enabled", None, True),
        ("enabled", "disabled", True),
        ("disabled", "enabled", False),
        ("ingress", None, True),
        ("Enabled", None, True),
        ("", "disabled", True),
        (7, None, True),
    ],
)
def test_a_pods_own_annotation_goes_before_its_namespaces_and_what_is_not_understood_is_a_wish(
    own: Any, of_namespace: str | None, injected: bool
) -> None:
    found = pod(inject=own)
    made = stored(found, of_namespace)
    if injected:
        assert made["spec"] == {**found["spec"], "initContainers": [OURS], "volumes": [VOLUMES]}
    else:
        assert made == found


@pytest.mark.parametrize(
    ("found", "more"),
    [
        (pod(inject="enabled", hostNetwork=True), {}),
        (pod(inject="enabled"), {"operation": "UPDATE"}),
        (pod(inject="enabled"), {"operation": "DELETE"}),
        (pod(inject="enabled"), {"subresource": "ephemeralcontainers"}),
        ({**pod(inject="enabled"), "kind": "Deployment", "apiVersion": "apps/v1"}, {}),
        ({**pod(inject="enabled"), "apiVersion": "games.example/v1"}, {}),
    ],
    ids=["host's network", "update", "delete", "subresource", "another kind", "another group"],
)
def test_what_is_not_to_be_captured_is_left_alone(found: Any, more: Any) -> None:
    assert stored(found, **more) == found


def test_a_pod_that_says_that_it_is_not_on_the_hosts_network_is_captured() -> None:
    assert stored(pod(hostNetwork=False))["spec"]["initContainers"] == [OURS]


@pytest.mark.parametrize("written", [None, [], [{"name": "first"}, {"name": "proxy", "restartPolicy": "Always"}]])
def test_it_comes_before_everybody_sidecars_too(written: Any) -> None:
    found = pod(initContainers=written, volumes=copy.deepcopy(written))
    made = stored(found)
    assert made["spec"]["initContainers"] == [OURS, *(written or [])]
    assert made["spec"]["volumes"] == [*(written or []), VOLUMES]


def test_a_pod_that_has_it_is_left_alone_whatever_ours_looks_like_now() -> None:
    once = stored(pod(initContainers=[{"name": "other"}]))
    assert stored(once) == once
    former = mutate(question(review(once)), "enabled", InjectionSettings(image="another:2", enrol_directory="/run/b"))
    assert patched(former, once) == once


def test_it_is_put_first_again_where_another_webhook_came_before_it() -> None:
    once = stored(pod())
    once["spec"]["initContainers"].insert(0, {"name": "sidecar", "restartPolicy": "Always"})
    again = stored(once)
    assert again["spec"]["initContainers"] == [OURS, {"name": "sidecar", "restartPolicy": "Always"}]


PROXY = {"name": "linkerd-proxy", "image": "proxy:1"}
LINKERDS = [{"containers": [APP, PROXY]}, {"initContainers": [{**PROXY, "restartPolicy": "Always"}]}]


@pytest.mark.parametrize("spec", LINKERDS)
def test_a_pod_with_linkerds_proxy_is_left_to_linkerd_and_who_made_it_is_told(spec: dict[str, Any]) -> None:
    found = pod(**spec)
    said = mutate(question(review(found)), "enabled", SETTINGS)
    assert patched(said, found) == found
    assert "has Linkerd's proxy" in answer(said)["warnings"][0]
    assert "warnings" not in answer(mutate(question(review(found)), None, SETTINGS)), "it did not ask for it"


@pytest.mark.parametrize("spec", LINKERDS)
def test_where_linkerd_was_asked_after_us_what_is_ours_goes_again(spec: dict[str, Any]) -> None:
    other = {"name": "other", "emptyDir": {}}
    inits = spec.get("initContainers", [])
    found = pod(**{**spec, "initContainers": [OURS, *inits], "volumes": [other, VOLUMES]})
    made = stored(found)
    assert made["spec"]["volumes"] == [other]
    assert made["spec"]["initContainers"] == inits


def test_a_volume_of_its_name_that_leads_elsewhere_is_refused() -> None:
    asked = question(review(pod(volumes=[{"name": VOLUME, "emptyDir": {}}])))
    assert "has a volume quietwire-enrol of its own" in reason(mutate(asked, "enabled", SETTINGS))


@pytest.mark.parametrize(
    "found",
    [None, [], "pod", {}, {"spec": []}, {"spec": {"initContainers": {}}}, {"spec": {"volumes": 3}}],
    ids=str,
)
def test_what_is_no_pod_is_refused(found: Any) -> None:
    body = review(found, kind={"group": "", "version": "v1", "kind": "Pod"})
    assert reason(mutate(question(body), "enabled", SETTINGS))


def test_an_object_that_is_no_text_is_refused() -> None:
    body = review(pod()).replace(b"app:1", b"\xff\xfe")
    assert "cannot be read" in reason(mutate(question(body), "enabled", SETTINGS))


def test_it_may_do_no_more_than_write_rules() -> None:
    security = OURS["securityContext"]
    assert security["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert security["privileged"] is False
    assert OURS["volumeMounts"] == [{"name": VOLUME, "mountPath": "/run/quietwire/enrol", "readOnly": True}]


def asking(*containers: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What ours requests beside containers with these resources."""
    return resources({"containers": [{"name": f"c{at}", "resources": each} for at, each in enumerate(containers)]})


GUARANTEED = {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([{}], {}),
        ([GUARANTEED], GUARANTEED),
        ([GUARANTEED, {}], {}),
        (
            [GUARANTEED, {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}],
            {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        ),
        ([{"requests": {"cpu": "10m", "memory": "8Mi"}}], {"requests": {"cpu": "10m", "memory": "8Mi"}}),
        (
            [{"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"cpu": "10m", "memory": "16Mi"}}],
            {"requests": {"cpu": "100m", "memory": "8Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
        ),
        ([{"limits": {"cpu": "many", "memory": 7}}, {"limits": []}], {}),
    ],
)
def test_a_pod_is_of_the_class_that_it_was_and_costs_a_node_no_more(
    containers: list[dict[str, Any]], expected: dict[str, dict[str, str]]
) -> None:
    assert asking(*containers) == expected


def test_a_pod_without_containers_is_the_api_servers_to_refuse() -> None:
    assert resources({}) == {}
    assert resources({"containers": 3}) == {}
    assert resources({"containers": [3]}) == {}


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", 0.1), ("1", 1.0), ("1.5", 1.5), ("64Mi", 67108864.0), ("1G", 1e9), ("1e3", 1000.0), ("2Ki", 2048.0)],
)
def test_quantities(text: str, number: float) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "-1", "m", "1 ", "1mm", "0x1", "1KiB", "NaN", "9" * 40])
def test_what_is_no_quantity(text: str) -> None:
    assert quantity(text) is None


def test_its_words_are_those_of_init() -> None:
    first, *words = OURS["args"]
    given_words = parser().parse_args(words)
    assert first == "init"
    assert (given_words.verb, given_words.enrol, given_words.enrol_timeout) == ("apply", AGENT_SOCKET, 300.0)
    assert given_words.pod == "$(POD_NAMESPACE)/$(POD_NAME)"
    assert [each["name"] for each in OURS["env"]] == ["POD_NAMESPACE", "POD_NAME"]


_names = st.sampled_from(["app", "other", "proxy", "x", CONTAINER])
_elements = st.lists(
    st.fixed_dictionaries({"name": _names}, optional={"restartPolicy": st.just("Always"), "image": st.text()}),
    unique_by=lambda each: each["name"],
)
_volumes = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c"])}), unique_by=lambda each: each["name"]
)
_specs = st.fixed_dictionaries(
    {"containers": st.lists(st.fixed_dictionaries({"name": st.text()}))},
    optional={
        "initContainers": st.none() | _elements,
        "volumes": st.none() | _volumes,
        "securityContext": st.dictionaries(st.text(), st.integers()),
        "~tilde/and~1slash": st.text(),
    },
)


@given(_specs, st.sampled_from([None, "enabled"]))
def test_any_pod_gets_exactly_one_first_and_keeps_everything_else(spec: dict[str, Any], own: str | None) -> None:
    found = {**pod(inject=own), "spec": spec}
    before = copy.deepcopy(found)
    made = stored(found)
    assert found == before
    inits = made["spec"].pop("initContainers")
    assert [each["name"] for each in inits].count(CONTAINER) == 1
    assert inits[0]["name"] == CONTAINER
    written = before["spec"].pop("initContainers", None) or []
    assert inits[1:] == [each for each in written if each["name"] != CONTAINER]
    assert made["spec"].pop("volumes") == [*(before["spec"].pop("volumes", None) or []), VOLUMES]
    assert made == before
