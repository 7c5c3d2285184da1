"""What is refused at the door is what an agent could not use, in the words of `authz check`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.catalog.sources.files.directory import load
from agent.objects.policy import GATEWAY_GROUP, POLICY_GROUP
from agent.webhook.review import question
from agent.webhook.validation import validate
from tests.catalog import test_as_in_the_field as field
from tests.objects.test_decode_policy import ALL, Refused
from tests.policy.test_table import CASES, EVERYWHERE, rows_of
from tests.webhook.asking import answer, documents, reason, review

SHOP = Path(__file__).parents[2] / "deploy/examples/shop"
LOOKED_AT = {"Pod", "Namespace", "HTTPRoute", "GRPCRoute"}


def server(**spec: Any) -> dict[str, Any]:
    sound = {"podSelector": {"matchLabels": {"app": "api"}}, "port": 8080, **spec}
    return {"apiVersion": f"{POLICY_GROUP}/v1beta3", "kind": "Server", "metadata": {"name": "s"}, "spec": sound}


def annotated(kind: str, **annotations: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "demo", "annotations": annotations}, "spec": {}}


def said(found: Any, operation: str = "CREATE", *, of_namespace: str | None = None, **more: Any) -> bytes:
    return validate(question(review(found, operation, **more)), of_namespace)


def warnings(found: Any, **more: Any) -> list[str]:
    response = answer(said(found, **more))
    assert response["allowed"] is True, response
    return list(response.get("warnings", ()))


SLIP = server(acessPolicy="deny")


@pytest.mark.parametrize("refused", ALL, ids=str)
def test_what_authz_check_calls_an_error_is_refused_in_its_words(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(refused.text)
    (fault,) = load([file]).faults
    (document,) = documents(refused.text)
    namespace = document["metadata"].get("namespace", "default")
    assert reason(said(document, namespace=namespace)) == fault.reason


def of_the_tables() -> Iterator[dict[str, Any]]:
    for path in sorted(CASES.glob("*.yaml")):
        if path != EVERYWHERE:
            for text in sorted({row.scenario.text for row in rows_of(path)}):
                yield from documents(text)


def of_the_field() -> Iterator[dict[str, Any]]:
    for text in (field.VIZ, field.MULTICLUSTER, field.EMOJIVOTO, *(each.read_text() for each in SHOP.glob("*.yaml"))):
        yield from documents(text)


def test_manifests_that_are_in_use_are_let_through() -> None:
    there = [*of_the_tables(), *of_the_field()]
    judged = {each["kind"] for each in there}
    assert {"Server", "AuthorizationPolicy", "HTTPRoute", "Pod", "Namespace"} <= judged
    for each in there:
        assert reason(said(each, namespace=each["metadata"].get("namespace", "default"))) == "", each


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (annotated("Pod", **{"linkerd.io/inject": "yes"}), "linkerd.io/inject is 'yes', and must be one of enabled"),
        (annotated("Namespace", **{"linkerd.io/inject": "true"}), "linkerd.io/inject is 'true', and must be one of"),
        (annotated("Namespace", **{"config.linkerd.io/skip-inbound-ports": "http"}), "http"),
        (annotated("Pod", **{"quietwire.io/egress-mod": "meshed-only"}), "quietwire.io/egress-mode is surely meant"),
        (annotated("Pod", **{"config.linkerd.io/default-inbound-policy": "none"}), "must be one of"),
        ({**server(), "apiVersion": f"{POLICY_GROUP}/v2"}, "policy.linkerd.io/v2 is not known for Server"),
        ({**server(), "kind": "Gate"}, "this version knows no Gate of policy.linkerd.io"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_annotations_and_kinds_that_cannot_be_used_are_refused(found: Any, words: str) -> None:
    assert words in reason(said(found))


def test_a_reason_names_the_field() -> None:
    assert reason(said(SLIP)).startswith("spec.acessPolicy: unknown field 'acessPolicy'; known here: podSelector, ")


@pytest.mark.parametrize(
    ("operation", "more"),
    [("DELETE", {}), ("CONNECT", {}), ("UPDATE", {"subresource": "status"}), ("CREATE", {"subresource": "binding"})],
    ids=str,
)
def test_deletions_and_subresources_are_always_let_through(operation: str, more: dict[str, str]) -> None:
    assert answer(said(SLIP, operation, **more)) == {"uid": answer(said(SLIP))["uid"], "allowed": True}


@pytest.mark.parametrize(
    "found",
    [
        {**SLIP, "apiVersion": "games.example/v1"},
        {**annotated("Service"), "spec": 3},
        {"apiVersion": f"{GATEWAY_GROUP}/v1", "kind": "Gateway", "metadata": {"name": "a"}, "spec": {"parentRefs": 3}},
    ],
    ids=["another group's Server", "a Service", "a Gateway"],
)
def test_kinds_that_are_not_looked_at_are_let_through(found: Any) -> None:
    assert answer(said(found))["allowed"] is True


def test_what_is_there_already_can_be_labelled_and_deleted_but_not_changed_into_another_fault() -> None:
    labelled = {**SLIP, "metadata": {"name": "s", "labels": {"a": "b"}, "finalizers": []}, "status": {"x": 1}}
    assert reason(said(labelled, "UPDATE", old=SLIP)) == ""
    leaving = {**server(port=0), "metadata": {"name": "s", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert reason(said(leaving, "UPDATE", old=SLIP)) == ""
    assert reason(said(server(port=0), "UPDATE", old=SLIP))
    assert reason(said(SLIP, "UPDATE", old=server()))
    assert reason(said(server(), "UPDATE", old=SLIP)) == ""


def test_a_new_object_that_says_it_is_being_deleted_is_judged_all_the_same() -> None:
    leaving = {**SLIP, "metadata": {"name": "s", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert reason(said(leaving))


def test_a_pod_without_a_name_yet_is_read_like_any_other() -> None:
    found = {**annotated("Pod", **{"linkerd.io/inject": "yes"})}
    found["metadata"] = {**found["metadata"], "generateName": "web-"}
    del found["metadata"]["name"]
    assert "linkerd.io/inject is 'yes'" in reason(said(found))
    found["metadata"]["annotations"] = {}
    assert reason(said(found)) == ""


def test_what_authz_check_warns_of_comes_as_warnings() -> None:
    everyone = {"targetRef": {"group": POLICY_GROUP, "kind": "Server", "name": "s"}, "requiredAuthenticationRefs": []}
    policy = {"apiVersion": f"{POLICY_GROUP}/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"}}
    assert warnings({**policy, "spec": everyone}) == [
        "its requiredAuthenticationRefs are empty: it lets everyone in, plaintext clients too"
    ], "and not that there is no Server s, which may come a moment later"
    (said_of_it,) = warnings(annotated("Namespace", **{"config.linkerd.io/proxy-cpu-limit": "1"}))
    assert said_of_it.startswith("config.linkerd.io/proxy-cpu-limit has no meaning here: it is about a sidecar")


@pytest.mark.parametrize(
    ("own", "of_namespace", "more", "warned"),
    [
        (None, None, {}, False),
        (None, "enabled", {}, True),
        ("enabled", None, {}, True),
        ("disabled", "enabled", {}, False),
        (None, "enabled", {"hostNetwork": True}, False),
    ],
    ids=str,
)
def test_a_meshed_pod_that_declares_the_agents_port_is_warned_of(
    own: str | None, of_namespace: str | None, more: dict[str, Any], warned: bool
) -> None:
    annotations = {} if own is None else {"linkerd.io/inject": own}
    containers = [{"name": "a", "ports": [{"containerPort": 4143}]}]
    found = {**annotated("Pod", **annotations), "spec": {"containers": containers, **more}}
    assert any("it declares port 4143" in each for each in warnings(found, of_namespace=of_namespace)) is warned


@pytest.mark.parametrize(
    "found",
    [None, [], 3, "x", {}, {"metadata": []}, {"metadata": {"name": 3}}, {"metadata": {"name": "a/b"}, "spec": []}],
    ids=str,
)
@pytest.mark.parametrize(
    "kind", [("", "v1", "Pod"), ("", "v1", "Namespace"), (POLICY_GROUP, "v1beta3", "Server")], ids=str
)
def test_what_is_no_object_is_refused_and_raises_nothing(found: Any, kind: tuple[str, str, str]) -> None:
    group, version, name = kind
    body = review(found, kind={"group": group, "version": version, "kind": name})
    assert answer(validate(question(body), None))["allowed"] is False


def test_a_deep_object_is_refused() -> None:
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    assert "nested more than 64 levels deep" in reason(said(server(port=deep)))
    assert "nested more than 64 levels deep" in reason(said(server(), "UPDATE", old=server(port=deep)))


def test_an_object_of_too_many_fields_is_refused_before_anything_is_done_with_it() -> None:
    many = {f"k{number}": "v" for number in range(100_000)}
    assert "it has more than 100000 fields" in reason(said(server(podSelector={"matchLabels": many})))
    few = {f"k{number}": "v" for number in range(50_000)}
    assert reason(said(server(podSelector={"matchLabels": few}))) == ""


def test_yaml_that_kubectl_would_send_is_what_is_read() -> None:
    (document,) = yaml.safe_load_all("{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: s}}")
    assert reason(said(document)) == "spec is missing"
