"""Processes die at the worst moment: what others held lives on, what is new succeeds or is refused, nothing leaks."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.netns.world import MARKER, Echo, Load, World, alive

PORT = 7000


def test_kill_9_of_a_worker_under_load(make_world: Callable[..., World]) -> None:
    world = make_world(workers=2)
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    held = [world.connect(client, server.ipv4, PORT) for _ in range(80)]
    assert all(alive(sock) for sock in held)
    with world.wire() as wire:
        load = Load(world, client, server.ipv4, PORT)
        world.until(lambda: load.good > 20, "the load runs")
        died = world.kill_worker(0)
        world.until(lambda: world.workers().get(0, died) != died, "the worker is replaced")
        after = load.good
        world.until(lambda: load.good > after + 50, "new connections succeed")
        load.stop()
        survivors = [sock for sock in held if alive(sock)]
    # Each connection has an outbound and an inbound half, on either worker: about a quarter are wholly on the other.
    assert 5 <= len(survivors) < 80, "those of the other worker live on, and only those"
    # Only what the dead worker held at that moment may have failed: this load holds one connection at a time.
    assert len(load.bad) <= 1, load.report()
    for sock in held:
        sock.close()
    echo.close()
    assert not wire.contains(MARKER)
    assert world.count("quietwire_worker_restarts_total", reason="signal") == 1
    assert world.count("quietwire_connections_opened_total") >= 160, "counters do not fall when a worker dies"


def test_connections_that_wait_in_a_dead_workers_queue_are_served_by_its_successor(
    make_world: Callable[..., World],
) -> None:
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    pid = world.workers()[0]
    os.kill(pid, signal.SIGSTOP)  # it accepts nothing more; the kernel queues
    queued = [world.connect(client, server.ipv4, PORT) for _ in range(50)]
    for sock in queued:
        sock.sendall(MARKER)
    os.kill(pid, signal.SIGKILL)
    assert [sock.recv(100) for sock in queued] == [MARKER] * 50
    for sock in queued:
        sock.close()
    echo.close()


def test_a_worker_that_hangs_is_replaced_and_its_pods_were_never_in_plaintext(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    held = world.connect(client, server.ipv4, PORT)
    assert alive(held)
    pid = world.workers()[0]
    with world.wire() as wire:
        os.kill(pid, signal.SIGSTOP)
        queued = world.connect(client, server.ipv4, PORT)
        queued.settimeout(60)
        queued.sendall(MARKER)
        assert queued.recv(100) == MARKER, "who came meanwhile is served by the successor"
        assert world.workers()[0] != pid
        assert not running(pid)
        assert not alive(held), "what it held is reset, and never ends cleanly"
    said = world.mesh.wait_for_log(lambda line: line.get("event") == "worker" and line.get("reason") == "hung")
    assert said is not None
    assert "nothing was heard of it for" in said["msg"]
    assert world.count("quietwire_worker_restarts_total", reason="hung") == 1
    assert not wire.contains(MARKER)
    for sock in (held, queued):
        sock.close()
    echo.close()


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found |= {int(directory.name)} | descendants(int(directory.name))
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("version", [4, 6])
def test_kill_9_of_the_supervisor_means_refused_and_a_new_start_captures_again(
    make_world: Callable[..., World], version: int
) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT, version)
    world.start()
    held = world.connect(client, server.address(version), PORT)
    assert alive(held)
    supervisor = world.mesh.pid
    assert supervisor is not None
    children = descendants(supervisor)
    assert len(children) == 3, "two workers and the authority"
    with world.wire() as wire:
        world.mesh.kill()
        world.until(lambda: not any(running(pid) for pid in children), "the workers and the authority end with it")
        assert not alive(held)
        for _ in range(20):
            with pytest.raises(ConnectionRefusedError):
                world.connect(client, server.address(version), PORT)
    assert not wire.contains(MARKER)
    held.close()
    with world.wire() as wire:
        world.start()
        with world.connect(client, server.address(version), PORT) as sock:
            assert alive(sock)
    assert not wire.contains(MARKER)
    echo.close()


def test_a_supervisor_that_is_stopped_does_not_stop_the_workers(make_world: Callable[..., World]) -> None:
    """kill -STOP stands for a supervisor that hangs: connections need it for nothing."""
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    pid = world.mesh.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(10):
            with world.connect(client, server.ipv4, PORT) as sock:
                assert alive(sock)
    finally:
        os.kill(pid, signal.SIGCONT)
    echo.close()


def test_the_authority_dies_and_what_has_an_svid_keeps_working(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    pid = world.mesh.pid
    assert pid is not None
    (authority,) = descendants(pid) - set(world.workers().values())
    os.kill(authority, signal.SIGKILL)
    found = world.mesh.wait_for_log(lambda line: "the authority ended" in str(line.get("msg")))
    assert found is not None
    with world.connect(client, server.ipv4, PORT) as sock:
        assert alive(sock)
    echo.close()


def test_short_lived_svids_are_renewed_and_no_connection_notices(make_world: Callable[..., World]) -> None:
    world = make_world("--svid-ttl", "10s")
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    held = world.connect(client, server.ipv4, PORT)
    load = Load(world, client, server.ipv4, PORT)
    serials: set[str] = set()

    def renewed() -> bool:
        for line in world.mesh.lines():
            if line.get("event") == "svid" and str(line.get("spiffe_id")).endswith("/sa/server"):
                serials.add(str(line["serial"]))
        return len(serials) >= 4

    world.until(renewed, "three renewals", 60)
    load.stop()
    assert load.bad == [], load.report()
    assert load.good > 20
    assert alive(held), "a connection that outlives its SVIDs lives on"
    held.close()
    echo.close()
    assert time.time() < max(world.mesh.expiries().values())


def test_after_a_fault_of_the_agents_live_connections_end_at_once_and_not_after_the_drain(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """Nobody follows any more what they are allowed. The fault is brought about in a part that the agent needs."""
    trigger = tmp_path / "fault"
    code = f"""
import asyncio, pathlib, sys
from agent.node.identities import Identities

async def fault(self, keeper, in_force):
    while not pathlib.Path({str(trigger)!r}).exists():
        await asyncio.sleep(0.01)
    raise ZeroDivisionError("brought about by a test")

Identities.report = fault
from agent.cli import main
sys.exit(main())
"""
    world = make_world("--drain-timeout", "100", program=("-c", code))
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    with world.connect(client, server.ipv4, PORT) as held:
        held.sendall(b"hello")
        assert held.recv(100) == b"hello"
        trigger.touch()
        with pytest.raises(ConnectionResetError):
            held.recv(100)
    ended = world.mesh.wait_for_log(lambda line: "identity report has ended by a fault" in str(line.get("msg")))
    assert ended is not None
    world.until(lambda: world.mesh.ended, "the agent has ended, and its listeners with it")
    with pytest.raises(ConnectionRefusedError):
        world.connect(client, server.ipv4, PORT)
    echo.close()
