"""Sessions between agents: a full handshake once, and after it none, whichever worker the kernel chooses."""

from collections.abc import Callable

from tests.netns.world import MARKER, Echo, World

PORT = 7000
CONNECTIONS = 40


def test_two_agents_resume_their_sessions_whichever_worker_takes_the_connection(
    make_world: Callable[..., World],
) -> None:
    world = make_world(workers=2)
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    with world.wire() as wire:
        for _ in range(CONNECTIONS):
            with world.connect(client, server.ipv4, PORT) as sock:
                sock.sendall(MARKER)
                assert sock.recv(100) == MARKER
    assert not wire.contains(MARKER)
    echo.close()

    def ends() -> list[dict[str, object]]:
        return [
            line
            for line in world.mesh.lines()
            if line.get("event") == "closed" and line.get("direction") == "inbound" and line.get("pod") == "demo/server"
        ]

    world.until(lambda: len(ends()) == CONNECTIONS, "every connection has ended")
    served_by = {line["process"] for line in ends()}
    assert served_by == {"worker 0", "worker 1"}, "the kernel spreads forty connections over both workers"
    full = [line for line in ends() if not line.get("tls_resumed")]
    # Each worker of the client's side needs a ticket of its own, and may open several connections before one comes.
    assert 1 <= len(full) <= 4
    assert {line["client_id"] for line in ends()} == {"spiffe://example.test/ns/demo/sa/client"}
