"""The capture itself: a proof by absence is only worth something if presence would have been seen."""

import socket
from collections.abc import Callable

import pytest

from tests.netns.world import Echo, World

MARKER = b"a-marker-that-nobody-else-writes"


@pytest.mark.parametrize("version", [4, 6])
def test_plaintext_between_unmeshed_pods_is_seen(make_world: Callable[..., World], version: int) -> None:
    world = make_world()
    one, two = world.stranger("one"), world.stranger("two")
    echo = Echo(world, two, 7000, version)
    with world.wire() as wire, world.connect(one, two.address(version), 7000) as sock:
        sock.sendall(MARKER)
        assert sock.recv(100) == MARKER
    echo.close()
    assert wire.contains(MARKER)
    assert not wire.contains(MARKER[::-1])


def test_a_marker_cut_in_two_by_segments_is_seen(make_world: Callable[..., World]) -> None:
    world = make_world()
    one, two = world.stranger("one"), world.stranger("two")
    echo = Echo(world, two, 7000)
    with world.wire() as wire, world.connect(one, two.ipv4, 7000) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for half in (MARKER[:10], MARKER[10:]):
            sock.sendall(half)
            assert sock.recv(100) == half  # so that each half is a segment of its own
    echo.close()
    assert not any(MARKER in segment.payload for segment in wire.segments())
    assert wire.contains(MARKER)


def test_a_client_hello_is_seen_with_its_port_and_name(make_world: Callable[..., World]) -> None:
    world = make_world()
    one, two = world.stranger("one"), world.stranger("two")
    listener = world.listen(two, 7443)
    with world.wire() as wire:
        world.run(
            one, "curl", "-sk", "--max-time", "1", "--resolve", f"name.test:7443:{two.ipv4}", "https://name.test:7443/"
        )
    listener.close()
    (hello,) = {(*seen.flow[2:], seen.hello.server_name) for seen in wire.client_hellos()}
    assert hello == (two.ipv4, 7443, "name.test")
