"""Who is to be meshed in a cluster: nobody by default, and what a fault cannot open."""

from typing import Any

import pytest

from agent.catalog.join import Assembly
from agent.objects.decode import RawObject, decode, key_of
from agent.objects.field import FaultError, Field
from agent.objects.key import ObjectKey
from agent.objects.model import Pod

INJECT = "linkerd.io/inject"
BROKEN = {"config.linkerd.io/default-inbound-policy": "nobody-knows-it"}


def field(value: Any, path: str = "") -> Field:
    if isinstance(value, dict):
        value = {name: field(each, f"{path}.{name}") for name, each in value.items()}
    elif isinstance(value, list):
        value = [field(each, path) for each in value]
    return Field(value, 0, path)


def read(value: dict[str, Any]) -> tuple[ObjectKey, RawObject]:
    """An object, or what stands in for it where it has a fault."""
    document = field({"apiVersion": "v1", **value})
    key = key_of(document)
    try:
        found = decode(key, document)
    except FaultError as fault:
        found = fault.stand_in
    assert found is not None
    return key, found


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> tuple[ObjectKey, RawObject]:
    metadata = {"name": "api", "namespace": "demo", "annotations": annotations or {}}
    return read({"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1", **spec}, "status": {}})


def namespace(annotations: dict[str, str] | None = None) -> tuple[ObjectKey, RawObject]:
    return read({"kind": "Namespace", "metadata": {"name": "demo", "annotations": annotations or {}}})


def joined(assembly: Assembly, *objects: tuple[ObjectKey, RawObject]) -> Pod:
    change = assembly.apply(dict(objects))
    assert change is not None
    (found,) = change.pods
    return found


@pytest.mark.parametrize(
    ("of_namespace", "own", "wanted"),
    [
        (None, None, False),
        ({}, None, False),
        ({INJECT: "enabled"}, None, True),
        ({INJECT: "enabled"}, {INJECT: "disabled"}, False),
        ({INJECT: "disabled"}, {INJECT: "enabled"}, True),
        ({INJECT: "ingress"}, None, True),
        (None, {INJECT: "enabled"}, True),
        ({}, {"config.linkerd.io/skip-inbound-ports": "80"}, False),
    ],
)
def test_a_pod_is_meshed_where_it_or_its_namespace_says_so(
    of_namespace: dict[str, str] | None, own: dict[str, str] | None, wanted: bool
) -> None:
    objects = [pod(own)] if of_namespace is None else [pod(own), namespace(of_namespace)]
    assert joined(Assembly(meshed_by_default=False), *objects).settings.injected is wanted


@pytest.mark.parametrize(
    ("of_namespace", "own", "wanted"),
    [
        ({}, BROKEN, False),
        ({INJECT: "enabled"}, BROKEN, True),
        ({}, {**BROKEN, INJECT: "enabled"}, True),
        ({INJECT: "enabled"}, {**BROKEN, INJECT: "disabled"}, False),
        ({}, {INJECT: "enabeld"}, True),
        ({**BROKEN, INJECT: "enabled"}, {}, True),
        ({INJECT: "enabeld"}, {}, True),
        (BROKEN, {}, False),
        ({**BROKEN, INJECT: "disabled"}, {}, False),
    ],
)
def test_a_fault_takes_nobody_out_of_the_mesh_and_nobody_in_who_did_not_ask(
    of_namespace: dict[str, str], own: dict[str, str], wanted: bool
) -> None:
    found = joined(Assembly(meshed_by_default=False), pod(own), namespace(of_namespace))
    assert found.settings.injected is wanted
    if wanted:
        assert found.settings.default_policy == "deny"


def test_a_namespace_that_comes_to_ask_for_it_brings_its_pods_in_and_out_again() -> None:
    assembly = Assembly(meshed_by_default=False)
    assert not joined(assembly, pod(), namespace()).settings.injected
    assert joined(assembly, namespace({INJECT: "enabled"})).settings.injected
    assert not joined(assembly, namespace()).settings.injected
    assert joined(assembly, namespace({INJECT: "enabled"})).settings.injected
    key, _ = namespace()
    change = assembly.apply({}, [key])
    assert change is not None
    assert [each.settings.injected for each in change.pods] == [False]


def test_a_pod_on_the_hosts_network_is_never_meshed() -> None:
    found = joined(Assembly(meshed_by_default=False), pod({INJECT: "enabled"}, hostNetwork=True))
    assert not found.settings.injected
    assert not found.meshed
