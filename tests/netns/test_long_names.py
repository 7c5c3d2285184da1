"""The longest names that Kubernetes allows: connections under them are as good as any."""

from collections.abc import Callable

import pytest

from tests.netns.world import MARKER, Echo, World, alive

PORT = 7000
NAMESPACE = "n" * 63


@pytest.mark.parametrize(
    "account", ["s" * 199, ".".join(["a" * 63, "b" * 63, "c" * 63]), "s" * 253], ids=["one label", "labels", "longest"]
)
def test_pods_whose_identities_are_too_long_for_a_servers_name_speak_under_them(
    make_world: Callable[..., World], account: str
) -> None:
    world = make_world(workers=1)
    client = world.pod("client", namespace=NAMESPACE, service_account=account)
    server = world.pod("server", namespace=NAMESPACE, service_account=f"{account[:-1]}z")
    echo = Echo(world, server, PORT)
    world.start()
    with world.wire() as wire:
        for _ in range(3):  # a full handshake, and resumed ones
            with world.connect(client, server.ipv4, PORT) as sock:
                assert alive(sock)
    said = world.closed(direction="inbound", outcome="completed")
    echo.close()
    assert said["client_id"] == f"spiffe://example.test/ns/{NAMESPACE}/sa/{account}"
    assert said["security"] == "mtls"
    assert not wire.contains(MARKER)
