"""Linkerd's annotations, and our own, with the meaning that they have there."""

import ipaddress
import re
from collections.abc import Mapping

from agent.catalog.document import Field
from agent.catalog.fault import FaultError
from agent.catalog.model import ContainerPort, MeshSettings, PortRange
from agent.policy.model import DefaultPolicy

INJECT = "linkerd.io/inject"
SKIP_INBOUND = "config.linkerd.io/skip-inbound-ports"
SKIP_OUTBOUND = "config.linkerd.io/skip-outbound-ports"
SKIP_SUBNETS = "config.linkerd.io/skip-subnets"
OPAQUE = "config.linkerd.io/opaque-ports"
DEFAULT_POLICY = "config.linkerd.io/default-inbound-policy"
EGRESS_MODE = "quietwire.io/egress-mode"
NETNS = "quietwire.io/netns"

_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # and not a number, which was tried before

DISABLED = "disabled"
"""Of `INJECT`: the pod is not meshed."""
ALLOW = "allow"
MESHED_ONLY = "meshed-only"
EGRESS_MODES = (ALLOW, MESHED_ONLY)


def settings(
    own: Mapping[str, Field], inherited: Mapping[str, str], ports: tuple[ContainerPort, ...], *, host_network: bool
) -> MeshSettings:
    """A pod's settings: each annotation of its own, else its namespace's. Raises FaultError at the pod's line.

    The namespace's annotations were checked with `check` when it was read.
    """
    merged = {key: Field(value, 0) for key, value in inherited.items()} | dict(own)
    return MeshSettings(
        meshed=_injected(merged) and not host_network,
        skip_inbound_ports=_ports(merged.get(SKIP_INBOUND), ()),
        skip_outbound_ports=_ports(merged.get(SKIP_OUTBOUND), ()),
        skip_subnets=_subnets(merged.get(SKIP_SUBNETS)),
        opaque_ports=_ports(merged.get(OPAQUE), ports, of_namespace=OPAQUE not in own),
        default_policy=_one_of(merged.get(DEFAULT_POLICY), DEFAULT_POLICY, tuple(DefaultPolicy)),
        egress_mode=_one_of(merged.get(EGRESS_MODE), EGRESS_MODE, EGRESS_MODES),
    )


def check(annotations: Mapping[str, Field]) -> None:
    """Raises FaultError where a namespace's annotation cannot be used."""
    settings({key: field for key, field in annotations.items() if key != OPAQUE}, {}, (), host_network=False)
    _ports(annotations.get(OPAQUE), (), of_namespace=True)


def _injected(annotations: Mapping[str, Field]) -> bool:
    value = _one_of(annotations.get(INJECT), INJECT, ("enabled", DISABLED, "ingress"))
    return value != DISABLED


def _one_of(field: Field | None, name: str, allowed: tuple[str, ...]) -> str | None:
    if field is None:
        return None
    value = field.text()
    if value not in allowed:
        raise FaultError(field, f"{name} is {value!r}, and must be one of {', '.join(allowed)}")
    return value


def _ports(
    field: Field | None, named: tuple[ContainerPort, ...], *, of_namespace: bool = False
) -> tuple[PortRange, ...]:
    if field is None:
        return ()
    found: list[PortRange] = []
    for part in field.text().split(","):
        text = part.strip()
        if not text:
            continue
        by_name = [port.port for port in named if port.name == text]
        if by_name:
            found.extend(PortRange(port, port) for port in by_name)
            continue
        first, dash, last = text.partition("-")
        try:
            ports = PortRange(_port(first), _port(last if dash else first))
        except ValueError:
            if of_namespace and _PORT_NAME.fullmatch(text):
                continue  # other pods of the namespace have a port of this name
            raise FaultError(field, f"{text!r} is no port, port range or port name; write 22 or 8000-8100") from None
        if ports.last < ports.first:
            raise FaultError(field, f"port range {text!r} ends before it begins")
        found.append(ports)
    return tuple(sorted(set(found)))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def _subnets(field: Field | None) -> tuple[str, ...]:
    if field is None:
        return ()
    found = []
    for part in field.text().split(","):
        text = part.strip()
        if not text:
            continue
        try:
            found.append(str(ipaddress.ip_network(text, strict=False)))  # host bits are cut off, as in Go
        except ValueError as error:
            raise FaultError(field, f"{SKIP_SUBNETS}: {error}") from None
    return tuple(sorted(set(found)))
