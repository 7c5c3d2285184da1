"""What a process can do to its pod's capture with the capability that container runtimes give to everybody."""

import sys
from collections.abc import Callable

import pytest

from agent.capture.address import show
from tests.netns.test_capture import DIAL_WITH_MARK, WITH_NET_RAW
from tests.netns.world import MARKER, Echo, World

PORT = 8080


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_net_raw_alone_gets_nobody_past_an_egress_mode_that_forbids_it(
    make_world: Callable[..., World], backend: str
) -> None:
    world = make_world("--egress-mode", "meshed-only", "--backend", backend)
    app, server, outside = world.pod("app"), world.pod("server"), world.stranger("outside")
    serving, forbidden = (Echo(world, player, PORT, 6) for player in (server, outside))
    world.start()
    for version in (4, 6):
        for mark in (0, 0x539, 0x111):
            for device in ("", "eth0"):
                words = (sys.executable, "-c", DIAL_WITH_MARK, outside.address(version), str(PORT), str(mark), device)
                done = world.run(app, *WITH_NET_RAW, *words)
                assert done.returncode == 0, done.stderr
        world.denial(pod=f"demo/{app.name}", destination=show(outside.address(version), PORT))
        with world.connect(app, server.address(version), PORT) as sock:
            sock.sendall(MARKER)
            assert sock.recv(len(MARKER)) == MARKER, "and what is allowed works as ever"
    assert forbidden.peers == []
    for echo in (serving, forbidden):
        echo.close()
