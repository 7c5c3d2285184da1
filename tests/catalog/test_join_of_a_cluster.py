"""Who is to be meshed in a cluster: nobody by default, and what a fault cannot open."""

from typing import Any

import pytest
from msgspec.structs import replace

from agent.catalog.join import Assembly
from agent.objects.decode import RawObject, RawPod, decode, key_of
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


def namespace(
    annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None
) -> tuple[ObjectKey, RawObject]:
    metadata = {"name": "demo", "annotations": annotations or {}, "labels": labels or {}}
    return read({"kind": "Namespace", "metadata": metadata})


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


ASKS = {INJECT: "enabled"}
LEFT = {"config.linkerd.io/admission-webhooks": "disabled"}
PROXY = {"name": "linkerd-proxy"}


@pytest.mark.parametrize("where", [{"containers": [{"name": "app"}, PROXY]}, {"initContainers": [PROXY]}])
@pytest.mark.parametrize("beside_linkerd", [True, False])
@pytest.mark.parametrize("own", [{}, BROKEN])
def test_a_pod_with_linkerds_proxy_is_linkerds_whatever_is_said_of_it(
    where: dict[str, Any], beside_linkerd: bool, own: dict[str, str]
) -> None:
    assembly = Assembly(meshed_by_default=False, beside_linkerd=beside_linkerd)
    found = joined(assembly, pod({**own, **ASKS}, **where), namespace(ASKS, LEFT))
    assert not found.settings.injected
    assert not found.meshed
    assert found.settings.left_to_linkerd, "and that is said"
    found = joined(Assembly(), pod(own, **where))
    assert not found.meshed, "on a host too"


def test_a_pod_with_linkerds_proxy_that_asks_for_nothing_is_no_news() -> None:
    for own in ({}, {INJECT: "disabled"}):
        found = joined(Assembly(meshed_by_default=False), pod(own, containers=[PROXY]))
        assert not found.settings.left_to_linkerd


@pytest.mark.parametrize("labels", [{}, {"config.linkerd.io/admission-webhooks": "enabled"}])
def test_beside_linkerd_only_a_namespace_that_linkerd_leaves_alone_is_meshed(labels: dict[str, str]) -> None:
    assembly = Assembly(meshed_by_default=False, beside_linkerd=True)
    assert not joined(assembly, pod(ASKS), namespace(ASKS, labels)).settings.injected
    assert joined(assembly, namespace(ASKS, LEFT)).settings.injected
    assert not joined(assembly, namespace({INJECT: "disabled"}, LEFT), pod()).settings.injected
    assert not joined(Assembly(meshed_by_default=False, beside_linkerd=True), pod(ASKS)).settings.injected
    assert joined(Assembly(meshed_by_default=False), pod(), namespace(ASKS, labels)).settings.injected, "by itself"


def test_what_is_captured_when_its_namespace_goes_back_to_linkerd_stays_captured_until_it_ends() -> None:
    """Else it would be open from the label on until somebody has started it again."""
    assembly = Assembly(meshed_by_default=False, beside_linkerd=True)
    key, raw = pod()
    assert isinstance(raw, RawPod)
    captured = replace(raw, pod=replace(raw.pod, published=True))
    assert joined(assembly, (key, captured), namespace(ASKS, LEFT)).meshed
    assert assembly.apply(dict([namespace(ASKS)])) is None, "nothing has changed for it"
    assert not joined(assembly, namespace({INJECT: "disabled"})).meshed


def test_labels_with_a_fault_elsewhere_in_their_namespace_still_say_whose_it_is() -> None:
    assembly = Assembly(meshed_by_default=False, beside_linkerd=True)
    assert not joined(assembly, pod(), namespace({**BROKEN, **ASKS})).settings.injected
    found = joined(assembly, namespace({**BROKEN, **ASKS}, LEFT))
    assert found.settings.injected
    assert found.settings.default_policy == "deny"
