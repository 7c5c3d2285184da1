"""Which traffic of a pod its agent captures: pure, from the settings that annotations gave."""

import ipaddress
from functools import lru_cache

from agent.objects.model import MeshSettings


def accepts_mesh(settings: MeshSettings, port: int, peer_address: str) -> bool:
    """Whether traffic from `peer_address` to this port of a pod with these settings is captured by its agent."""
    return (
        settings.injected
        and not any(port in skipped for skipped in settings.skip_inbound_ports)
        and not (settings.skip_subnets and in_subnets(settings.skip_subnets, peer_address))
    )


def sends_mesh(settings: MeshSettings, port: int, destination: str) -> bool:
    """Whether what a pod with these settings sends to this destination and port is captured by its agent."""
    return (
        settings.injected
        and not any(port in skipped for skipped in settings.skip_outbound_ports)
        and not (settings.skip_subnets and in_subnets(settings.skip_subnets, destination))
    )


@lru_cache(maxsize=65536)
def in_subnets(subnets: tuple[str, ...], address: str) -> bool:
    """Whether an address lies in one of the subnets (texts in CIDR form)."""
    parsed = ipaddress.ip_address(address)
    return any(parsed in ipaddress.ip_network(subnet) for subnet in subnets)
