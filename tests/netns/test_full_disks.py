"""The agent's own directories full, read-only or damaged: it says which, and nothing is open meanwhile."""

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.lab.mesh import MeshError
from tests.netns.policies import is_cut, reaches, server
from tests.netns.test_policy_start import apply_rules
from tests.netns.world import MARKER, Echo, World, alive

PORT = 7000


@contextlib.contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    """A file system of its own there."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "quietwire-test", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Leaves no byte free."""
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 64, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


def test_without_a_run_directory_it_says_why_and_pods_are_refused_until_there_is_one(
    make_world: Callable[..., World],
) -> None:
    world = make_world(workers=1)
    client, target = world.pod("client"), world.pod("server")
    run = world.mesh.directory / "run"
    echo = Echo(world, target, PORT)
    for player in (client, target):
        apply_rules(player)
    with world.wire() as wire:
        for options, words in (
            ("ro", f"Read-only file system ({run}/lock): it is mounted read-only: mount it read-write"),
            (
                "nr_inodes=3",
                f"No space left on device ({run}/enrol/enrol.sock): make room there, of bytes and of inodes",
            ),
        ):
            with mounted(run, options), pytest.raises(MeshError):
                world.start()
            said = world.mesh.last_words(1)
            assert said.startswith(f"quietwire: --run-dir, {run}, cannot be used: {words}")
            assert not any(line.get("event") == "authority" for line in world.mesh.lines()), "nothing was started"
            with pytest.raises(ConnectionRefusedError):
                world.connect(client, target.ipv4, PORT)
        world.start()
        assert reaches(world, client, target.ipv4, PORT)
    echo.close()
    assert not wire.contains(MARKER)


def test_a_run_directory_that_becomes_read_only_is_no_reason_to_end_without_draining(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--drain-timeout=30", workers=1)
    client, target = world.pod("client"), world.pod("server")
    echo = Echo(world, target, PORT)
    world.start()
    run = world.mesh.directory / "run"
    with mounted(run, "rw"), world.connect(client, target.ipv4, PORT) as sock:
        # Not its own: what the agent has open there keeps that from being remounted by anything but a failing disk.
        (run / "enrol").mkdir()
        (run / "enrol" / "enrol.sock").touch()
        subprocess.run(["mount", "-o", "remount,ro", str(run)], check=True)
        assert alive(sock)
        world.mesh.signal(signal.SIGTERM)
        assert world.mesh.wait_for_log(lambda line: "draining" in str(line.get("msg")))
        assert alive(sock), "it drains"
        sock.close()
        world.closed(direction="outbound", outcome="completed")
        world.mesh.stop()
    echo.close()


def test_a_full_state_directory_keeps_new_pods_out_until_there_is_room_and_others_do_not_notice(
    make_world: Callable[..., World],
) -> None:
    world = make_world(workers=1)
    state = world.mesh.directory / "state"
    with mounted(state, "size=2M"):
        client, target = world.pod("client"), world.pod("server")
        echo = Echo(world, target, PORT)
        world.start()
        with world.connect(client, target.ipv4, PORT) as sock:
            assert alive(sock)
            filler = fill(state)
            late = world.pod("late")
            world.until(lambda: "is the authority's disk full?" in str(world.ready()["waiting"]), "late gets no SVID")
            unwritten = world.mesh.wait_for_log(lambda line: f"to {state}/last-good.msgpack" in str(line.get("msg")))
            assert unwritten is not None
            assert f"No space left on device ({state}/last-good.msgpack): make room there" in unwritten["msg"]
            with pytest.raises(ConnectionRefusedError):
                world.connect(late, target.ipv4, PORT)
            assert alive(sock)
            assert reaches(world, client, target.ipv4, PORT)

            filler.unlink()
            world.until(lambda: not world.ready()["waiting"], "late gets its SVID", 60)
            assert reaches(world, late, target.ipv4, PORT)
            assert world.mesh.wait_for_log(lambda line: f"{state}/last-good.msgpack is written" in str(line.get("msg")))
            assert alive(sock)
        echo.close()
        world.mesh.stop()


def test_a_damaged_memory_of_what_was_last_good_closes_what_nobody_knows_and_is_named(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--default-inbound-policy", "all-unauthenticated", workers=1)
    client, target = world.pod("client"), world.pod("server")
    strict = server("strict", PORT)
    world.write(strict)
    echoes = [Echo(world, target, port) for port in (PORT, PORT + 1)]
    world.start()
    memory = world.mesh.directory / "state" / "last-good.msgpack"
    world.until(memory.exists, "it is written")
    assert not reaches(world, client, target.ipv4, PORT), "a Server that nobody is authorized for"
    with world.connect(client, target.ipv4, PORT + 1) as sock:
        assert alive(sock)
        world.mesh.kill()
        is_cut(sock)
    memory.write_bytes(memory.read_bytes()[:-1])
    readable = world.file_of(strict).read_bytes()
    world.file_of(strict).write_bytes(b"kind: [\xff")
    world.start()
    said = world.mesh.wait_for_log(lambda line: str(memory) in str(line.get("msg")))
    assert said is not None
    assert said["level"] == "warning"
    assert "it is damaged" in said["msg"]
    for port in (PORT, PORT + 1):
        assert not reaches(world, client, target.ipv4, port)
    world.file_of(strict).write_bytes(readable)
    world.until(lambda: reaches(world, client, target.ipv4, PORT + 1), "and opens what may be, when it is mended")
    assert not reaches(world, client, target.ipv4, PORT)
    for echo in echoes:
        echo.close()
