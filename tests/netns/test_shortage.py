"""A worker that has no descriptors left: who comes waits, is served when there are some, and somebody hears of it."""

import contextlib
import os
import resource
from collections.abc import Callable

from tests.netns.world import MARKER, Echo, World, alive

PORT = 7000


def test_who_dials_while_a_worker_has_no_descriptors_waits_and_is_served(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    held = world.connect(client, server.ipv4, PORT)
    assert alive(held)
    (pid,) = world.workers().values()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))  # what is open stays so
    with world.wire() as wire:
        waiting = [world.connect(client, server.ipv4, PORT) for _ in range(20)]
        for sock in waiting:
            sock.sendall(MARKER)
        world.until(
            lambda: world.count("quietwire_accept_pauses_total", listener="outbound") >= 3,
            "it asks again and again, and pauses each time",
        )
        said = world.mesh.wait_for_log(lambda line: "nobody is accepted for 0.5 s" in str(line.get("msg")))
        assert said is not None
        assert "outbound connections of demo/client" in said["msg"]
        assert "LimitNOFILE" in said["msg"]
        assert alive(held), "what is open is served meanwhile"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert [sock.recv(100) for sock in waiting] == [MARKER] * 20
    for sock in (held, *waiting):
        sock.close()
    echo.close()
    assert not wire.contains(MARKER)
    assert world.workers() == {0: pid}


def test_who_is_accepted_with_the_last_descriptor_is_reset_and_counted(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    (pid,) = world.workers().values()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free(pid) + 1, hard))
    with contextlib.suppress(ConnectionResetError), world.connect(client, server.ipv4, PORT) as sock:
        assert not alive(sock)
    said = world.denial(outcome="exhausted", direction="outbound")
    assert "LimitNOFILE" in said["reason"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    with world.connect(client, server.ipv4, PORT) as sock:
        assert alive(sock)
    echo.close()


def lowest_free(pid: int) -> int:
    """The number of the descriptor that a process would open next."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)
