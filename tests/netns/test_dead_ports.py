"""A port on which nobody listens: connect(2) succeeds, because the agent answers it, and then there is a reset.

README's Limits and ARCHITECTURE say why. What an application must be able to rely on is that nothing looks like an
answer, and nothing like an end.
"""

from collections.abc import Callable

import pytest

from tests.netns.world import World

PORT = 7000
TRIES = 10


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("meshed", [True, False])
def test_a_dead_port_is_a_reset_and_the_log_says_where_nobody_listened(
    make_world: Callable[..., World], version: int, *, meshed: bool
) -> None:
    world = make_world()
    client = world.pod("client")
    server = world.pod("server") if meshed else world.stranger("server")
    world.start()
    # The reset may even come before connect(2) is heard to have succeeded.
    with pytest.raises(ConnectionResetError), world.connect(client, server.address(version), PORT) as sock:
        sock.recv(1)
    where = f"[{server.ipv6}]:{PORT}" if version == 6 else f"{server.ipv4}:{PORT}"
    told_by = "demo/server" if meshed else "demo/client"
    reason = world.closed(pod=told_by, outcome="unreachable")["reason"]
    assert reason == f"cannot connect to {where} from {told_by}: Connection refused"


def test_whoever_tries_a_dead_port_again_resumes_its_session(make_world: Callable[..., World]) -> None:
    """Nearly all of the time that the reset takes is the handshake's; what waits for an application tries and tries."""
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    world.start()
    for _ in range(TRIES):
        with pytest.raises(ConnectionResetError), world.connect(client, server.ipv4, PORT) as sock:
            sock.recv(1)

    def resumed() -> list[object]:
        return [
            line.get("tls_resumed")
            for line in world.mesh.lines()
            if line.get("outcome") == "unreachable" and line.get("pod") == "demo/server"
        ]

    world.until(lambda: len(resumed()) == TRIES, "each try has been logged")
    assert resumed()[0] is None
    assert resumed()[-1] is True
