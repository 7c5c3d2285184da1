"""Which traffic of a pod is captured, by its settings alone."""

from collections.abc import Callable

import pytest

from agent.catalog.mesh import accepts_mesh, in_subnets, sends_mesh
from agent.objects.model import MeshSettings, PortRange

ALL = MeshSettings()
Captured = Callable[[MeshSettings, int, str], bool]


@pytest.mark.parametrize("captured", [accepts_mesh, sends_mesh])
def test_all_of_a_meshed_pods_traffic_is_captured_and_none_of_another_ones(
    captured: Captured,
) -> None:
    assert captured(ALL, 80, "192.0.2.1")
    assert not captured(MeshSettings(injected=False), 80, "192.0.2.1")


def test_a_port_is_skipped_in_its_own_direction_only() -> None:
    settings = MeshSettings(
        skip_inbound_ports=(PortRange(25, 25),), skip_outbound_ports=(PortRange(80, 89), PortRange(443, 443))
    )
    ports = (25, 79, 80, 89, 90, 443)
    assert [accepts_mesh(settings, port, "192.0.2.1") for port in ports] == [False, True, True, True, True, True]
    assert [sends_mesh(settings, port, "192.0.2.1") for port in ports] == [True, True, False, False, True, False]


def test_a_subnet_is_skipped_both_ways_and_is_of_one_family() -> None:
    settings = MeshSettings(skip_subnets=("192.0.2.0/25", "2001:db8::/64"))
    for address, skipped in (
        ("192.0.2.127", True),
        ("192.0.2.128", False),
        ("2001:db8::1", True),
        ("2001:db8:0:1::1", False),
    ):
        assert in_subnets(settings.skip_subnets, address) is skipped
        assert accepts_mesh(settings, 80, address) is not skipped
        assert sends_mesh(settings, 80, address) is not skipped
