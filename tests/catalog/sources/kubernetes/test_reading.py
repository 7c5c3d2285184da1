"""One object as the API sends it: what it says, where a fault in it is, and what nobody can make anything of."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.sources.kubernetes.kinds import (
    ENDPOINT_SLICES,
    FOLLOWED,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    SERVICES,
    Followed,
)
from agent.catalog.sources.kubernetes.reading import Decoded, UnreadableError, key, read
from agent.objects.decode import RawNamespace, RawPod
from agent.objects.decode_services import RawService
from agent.objects.key import ObjectKey
from agent.objects.model import ContainerPort, Node
from agent.objects.policy import BrokenServer, Server

SERVERS = POLICIES[0]


def raw(followed: Followed, value: dict[str, Any]) -> Decoded:
    return read(followed.kind, json.dumps(value).encode())


def metadata(**more: Any) -> dict[str, Any]:
    managed = [{"manager": "kubectl", "fieldsV1": {"f:metadata": {}}}]
    return {
        "name": "api-0",
        "namespace": "demo",
        "uid": "u-1",
        "resourceVersion": "5",
        "managedFields": managed,
        **more,
    }


def a_pod(**status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata(labels={"app": "api"}),
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "api",
            "containers": [
                {
                    "name": "api",
                    "image": "localhost/api:1",
                    "env": [{"name": "SECRET", "value": "x"}],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "livenessProbe": {"httpGet": {"port": "http"}},
                }
            ],
        },
        "status": {"phase": "Running", "podIP": "192.0.2.1", "startTime": "2026-01-01T00:00:00Z", **status},
    }


def test_a_pod() -> None:
    decoded = raw(PODS, a_pod())
    assert decoded.key == ObjectKey("Pod", "demo", "api-0")
    assert (decoded.uid, decoded.started, decoded.fault) == ("u-1", "2026-01-01T00:00:00Z", "")
    assert isinstance(decoded.found, RawPod)
    pod = decoded.found.pod
    assert (pod.node, pod.service_account, pod.ips, pod.uid) == ("n1", "api", ("192.0.2.1",), "u-1")
    assert pod.container_ports == (ContainerPort("http", 8080),)
    assert pod.probe_ports == (8080,)


@pytest.mark.parametrize(
    ("conditions", "published"),
    [
        ([], False),
        ([{"type": "Ready", "status": "True"}], False),
        ([{"type": "quietwire.io/meshed", "status": "False"}], False),
        ([{"type": "Ready", "status": "False"}, {"type": "quietwire.io/meshed", "status": "True"}], True),
    ],
)
def test_a_pod_is_meshed_for_others_when_its_agent_has_said_so_in_a_condition(
    conditions: list[dict[str, str]], published: bool
) -> None:
    sound = raw(PODS, a_pod(conditions=conditions)).found
    assert isinstance(sound, RawPod)
    assert sound.pod.published is published
    assert sound.pod.meshed is published
    broken = a_pod(conditions=conditions)
    broken["metadata"]["annotations"] = {"config.linkerd.io/skip-inbound-ports": "no port"}
    stand_in = raw(PODS, broken).stand_in
    assert isinstance(stand_in, RawPod)
    assert stand_in.pod.published is published, "a fault makes no one dial it in plaintext"


def test_an_object_of_a_list_does_not_say_what_it_is() -> None:
    value = a_pod()
    del value["kind"], value["apiVersion"]
    assert raw(PODS, value) == raw(PODS, a_pod())


def test_a_pod_that_has_finished_is_none() -> None:
    decoded = raw(PODS, a_pod(phase="Succeeded"))
    assert (decoded.found, decoded.fault) == (None, "")


def test_a_namespace_comes_as_its_metadata_alone() -> None:
    annotations = {"linkerd.io/inject": "enabled"}
    value = {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "demo", "annotations": annotations},
    }
    assert raw(NAMESPACES, value).found == RawNamespace("demo", annotations)


def test_a_node() -> None:
    value = {
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}], "images": [{"names": ["x"]}]},
    }
    assert raw(NODES, value).found == Node("n1", "z", ("192.0.2.9",))


def test_a_service() -> None:
    decoded = raw(SERVICES, {"metadata": metadata(), "spec": {"clusterIP": "192.0.2.5", "ports": [{"port": 80}]}})
    assert isinstance(decoded.found, RawService)
    assert decoded.found.cluster_ips == ("192.0.2.5",)


def test_a_slice_with_a_fault_stands_for_no_endpoints() -> None:
    value = {
        "metadata": metadata(labels={"kubernetes.io/service-name": "api"}),
        "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["nowhere"]}],
    }
    decoded = raw(ENDPOINT_SLICES, value)
    assert decoded.path == "endpoints[1].addresses[0]"
    assert decoded.fault == "endpoints[1].addresses[0]: 'nowhere' is no IP address"
    assert decoded.stand_in is not None


def test_a_server_and_where_its_fault_is() -> None:
    spec: dict[str, Any] = {"port": 8080, "podSelector": {"matchLabels": {"app": "api"}}}
    assert isinstance(raw(SERVERS, {"metadata": metadata(), "spec": spec}).found, Server)
    decoded = raw(SERVERS, {"metadata": metadata(), "spec": {**spec, "proxyProtocol": "HTTP/9"}})
    assert decoded.path == "spec.proxyProtocol"
    assert isinstance(decoded.stand_in, Server)
    nothing = raw(SERVERS, {"metadata": metadata(), "spec": {"port": [], "podSelector": {}}})
    assert isinstance(nothing.stand_in, BrokenServer)


def test_what_managers_have_written_is_no_field_that_nobody_knows() -> None:
    assert raw(SERVERS, {"metadata": metadata(), "spec": {"port": 1, "podSelector": {}}}).remarks == ()


def test_annotations_without_meaning_are_remarked_on() -> None:
    value = a_pod()
    value["metadata"]["annotations"] = {"config.linkerd.io/proxy-cpu-limit": "1"}
    (words,) = raw(PODS, value).remarks
    assert "proxy-cpu-limit" in words


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"5",
        b"{}",
        b"{",
        b"\xff",
        b'{"metadata":5}',
        b'{"metadata":{}}',
        b'{"metadata":{"name":5}}',
        b'{"metadata":{"name":"UPPER"}}',
        b'{"metadata":{"name":"a","namespace":"a/b"}}',
        b"[" * 100_000,
    ],
)
def test_what_has_no_name_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        key(PODS.kind, data)
    with pytest.raises(UnreadableError):
        read(PODS.kind, data)


def test_what_is_nested_too_deeply_is_a_fault_of_this_object_alone() -> None:
    deep = b'{"metadata":{"name":"a","namespace":"b"},"spec":' + b'{"a":' * 900 + b"1" + b"}" * 901
    decoded = read(SERVERS.kind, deep)
    assert decoded.fault
    assert decoded.found is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(FOLLOWED), st.dictionaries(st.sampled_from(["spec", "status", "endpoints", "ports"]), json_values)
)
def test_whatever_an_object_says_it_is_something_or_a_fault(followed: Followed, value: dict[str, Any]) -> None:
    decoded = raw(followed, {**value, "metadata": metadata()})
    assert decoded.key.name == "api-0"
    assert not (decoded.found is not None and decoded.fault)
