"""Linkerd's annotations, and our own, with the meaning that they have there."""

import re
from collections.abc import Mapping

from agent.objects.field import FaultError, Field
from agent.objects.model import ContainerPort, MeshSettings, PortRange
from agent.objects.policy import DefaultPolicy
from init.model import OptionError, Subnets, parse_ports, parse_subnets

INJECT = "linkerd.io/inject"
SKIP_INBOUND = "config.linkerd.io/skip-inbound-ports"
SKIP_OUTBOUND = "config.linkerd.io/skip-outbound-ports"
SKIP_SUBNETS = "config.linkerd.io/skip-subnets"
OPAQUE = "config.linkerd.io/opaque-ports"
DEFAULT_POLICY = "config.linkerd.io/default-inbound-policy"
REQUIRE_IDENTITY = "config.linkerd.io/proxy-require-identity-inbound-ports"
"""Ports of a pod on which a default policy that would not ask for an identity does."""
EGRESS_MODE = "quietwire.io/egress-mode"
NETNS = "quietwire.io/netns"
LEFT_BY_LINKERD = "config.linkerd.io/admission-webhooks"
"""A label of a namespace: `DISABLED` says that Linkerd's injector is to leave it alone."""

_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # and not a number, which was tried before

ENABLED = "enabled"
DISABLED = "disabled"
"""Of `INJECT`: the pod is not meshed."""
ALLOW = "allow"
MESHED_ONLY = "meshed-only"
EGRESS_MODES = (ALLOW, MESHED_ONLY)


def settings(
    own: Mapping[str, Field],
    inherited: Mapping[str, str],
    ports: tuple[ContainerPort, ...],
    *,
    host_network: bool,
    by_default: bool = True,
    is_linkerds: bool = False,
) -> MeshSettings:
    """A pod's settings: each annotation of its own, else its namespace's. Raises FaultError at the pod's line.

    The namespace's annotations were checked with `check` when it was read. `by_default` is whether a pod is meshed
    where nothing says, `is_linkerds` whether Linkerd's proxy is in it.
    """
    merged = {key: Field(value, 0) for key, value in inherited.items()} | dict(own)
    asks = _injected(merged, by_default=by_default) and not host_network
    return MeshSettings(
        injected=asks and not is_linkerds,
        left_to_linkerd=asks and is_linkerds,
        skip_inbound_ports=_ports(merged.get(SKIP_INBOUND)),
        skip_outbound_ports=_ports(merged.get(SKIP_OUTBOUND)),
        skip_subnets=_subnets(merged.get(SKIP_SUBNETS)).networks,
        opaque_ports=_opaque(merged.get(OPAQUE), ports, of_namespace=OPAQUE not in own),
        identity_ports=_ports(merged.get(REQUIRE_IDENTITY)),
        default_policy=_one_of(merged.get(DEFAULT_POLICY), DEFAULT_POLICY, tuple(DefaultPolicy)),
        egress_mode=_one_of(merged.get(EGRESS_MODE), EGRESS_MODE, EGRESS_MODES),
    )


def check(annotations: Mapping[str, Field]) -> None:
    """Raises FaultError where a namespace's annotation cannot be used."""
    settings({key: field for key, field in annotations.items() if key != OPAQUE}, {}, (), host_network=False)
    _opaque(annotations.get(OPAQUE), (), of_namespace=True)


def _injected(annotations: Mapping[str, Field], *, by_default: bool) -> bool:
    value = _one_of(annotations.get(INJECT), INJECT, (ENABLED, DISABLED, "ingress"))
    return by_default if value is None else value != DISABLED


def _one_of(field: Field | None, name: str, allowed: tuple[str, ...]) -> str | None:
    if field is None:
        return None
    value = field.text()
    if value not in allowed:
        raise FaultError(field, f"{name} is {value!r}, and must be one of {', '.join(allowed)}")
    return value


def _ports(field: Field | None) -> tuple[PortRange, ...]:
    if field is None:
        return ()
    try:
        return tuple(PortRange(first, last) for first, last in parse_ports(field.text()))
    except OptionError as error:
        raise FaultError(field, str(error)) from None


def _opaque(
    field: Field | None, named: tuple[ContainerPort, ...], *, of_namespace: bool = False
) -> tuple[PortRange, ...]:
    """The same, where a port's name may stand for its number: in a namespace's annotation, that of another pod too."""
    if field is None:
        return ()
    numbers = []
    for part in field.text().split(","):
        text = part.strip()
        by_name = [str(port.port) for port in named if text and port.name == text]
        if by_name:
            numbers.extend(by_name)
        elif not (of_namespace and _PORT_NAME.fullmatch(text) and not text[0].isdigit()):
            numbers.append(text)
    return _ports(Field(",".join(numbers), field.line, field.path))


def _subnets(field: Field | None) -> Subnets:
    if field is None:
        return Subnets()
    try:
        return parse_subnets(field.text())
    except OptionError as error:
        raise FaultError(field, str(error)) from None


def notes(own: Mapping[str, Field]) -> list[tuple[Field, str]]:
    """What is to be said about how sound annotations are written, each with its field."""
    field = own.get(SKIP_SUBNETS)
    return [] if field is None else [(field, f"{SKIP_SUBNETS}: {note}") for note in _subnets(field).notes]
