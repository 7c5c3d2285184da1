"""`quietwire up` as an operator meets it: its errors, its signals, its titles, its admin server."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.netns.test_crashes import descendants, running
from tests.netns.world import Echo, World

PORT = 7000
UP = (sys.executable, "-m", "agent.cli", "up")


def up(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UP, *flags], capture_output=True, text=True, timeout=60, check=False)


def sane(directory: Path) -> dict[str, str]:
    (directory / "manifests").mkdir(exist_ok=True)
    return {
        "--manifests": str(directory / "manifests"),
        "--state": str(directory / "state"),
        "--run-dir": str(directory / "run"),
        "--admin": "127.0.0.1:0",
        "--authority-listen": "127.0.0.1:0",
        "--node": "n",
    }


def test_an_admin_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = up(*(f"{name}={given}" for name, given in (sane(tmp_path) | {"--admin": address}).items()))
    assert done.returncode == 1
    assert f"--admin {address} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def served(make_shared_world: Callable[..., World]) -> World:
    """For those who only look."""
    world = make_shared_world(workers=2)
    world.pod("one")
    world.start()
    return world


def test_a_run_directory_belongs_to_one_agent(served: World) -> None:
    world = served
    flags = sane(world.directory) | {"--run-dir": str(world.mesh.directory / "run")}
    done = up(*(f"{name}={given}" for name, given in flags.items()))
    assert done.returncode == 2
    assert "belongs to another agent that runs" in done.stderr


@pytest.fixture(scope="module")
def stopped(make_shared_world: Callable[..., World]) -> World:
    """For those who look at what it leaves behind."""
    world = make_shared_world(workers=1)
    world.pod("one")
    world.start()
    world.mesh.stop()
    return world


def test_damaged_authority_state_stops_the_start_and_no_new_root_is_made(stopped: World) -> None:
    world = stopped
    root = world.mesh.directory / "state" / "authority" / "root-1.pem"
    assert root.stat().st_mode & 0o777 == 0o600
    root.write_text("damaged")
    flags = sane(world.directory) | {"--state": str(world.mesh.directory / "state"), "--trust-domain": "example.test"}
    done = up(*(f"{name}={given}" for name, given in flags.items()))
    assert done.returncode == 1
    assert "root-1.pem" in done.stderr
    assert root.read_text() == "damaged"


def test_processes_carry_titles(served: World) -> None:
    pid = served.mesh.pid
    assert pid is not None
    titles = [Path(f"/proc/{each}/cmdline").read_bytes().rstrip(b"\0").decode() for each in [pid, *descendants(pid)]]
    assert sorted(titles) == [
        "quietwire authority",
        "quietwire supervisor node-a",
        "quietwire worker 0 node-a",
        "quietwire worker 1 node-a",
    ]


def test_the_admin_server_answers(served: World) -> None:
    world = served
    assert world.mesh.ask("/live") == "alive\n"
    body = world.ready()
    assert body.pop("catalog").items() >= {"remembered": False, "unheard": {}}.items()
    assert body == {"ready": True, "pods": 1, "waiting": [], "faults": [], "warnings": []}
    page = world.mesh.metrics()
    assert re.search(
        r'quietwire_certificate_expiry_timestamp_seconds\{spiffe_id="spiffe://example.test/ns/demo/sa/one"\}', page
    )
    assert world.count("quietwire_pods", state="captured") == 1
    assert "there are /authz, /live, /metrics, /ready" in world.mesh.ask("/nothing")


def test_every_log_line_is_one_json_object(stopped: World) -> None:
    lines = stopped.mesh.log_path.read_text().splitlines()
    assert lines
    for line in lines:
        assert {"ts", "level", "logger", "msg"} <= json.loads(line).keys()


def test_sigterm_lets_an_open_transfer_finish_and_refuses_new_ones(make_world: Callable[..., World]) -> None:
    world = make_world("--drain-timeout=30")
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    with world.connect(client, server.ipv4, PORT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        stopper = threading.Thread(target=world.mesh.stop)
        pid = world.mesh.pid
        stopper.start()

        def refused() -> bool:
            try:
                world.connect(client, server.ipv4, PORT).close()
            except ConnectionRefusedError:
                return True
            return False

        world.until(refused, "new connections are refused")
        sock.sendall(b"the rest")
        assert sock.recv(100) == b"the rest"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    stopper.join(20)
    assert pid is not None
    assert not running(pid)
    echo.close()


def test_after_the_drain_timeout_what_is_left_is_reset(make_world: Callable[..., World]) -> None:
    world = make_world("--drain-timeout=0.5")
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    with world.connect(client, server.ipv4, PORT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        world.mesh.stop()
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    echo.close()
    world.closed(outcome="drained")


def test_a_second_sigterm_ends_at_once(make_world: Callable[..., World]) -> None:
    world = make_world("--drain-timeout=600")
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    pid = world.mesh.pid
    assert pid is not None
    children = descendants(pid)
    with world.connect(client, server.ipv4, PORT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        world.mesh.signal(signal.SIGTERM)
        assert world.mesh.wait_for_log(lambda line: "draining" in str(line.get("msg"))) is not None
        world.mesh.signal(signal.SIGTERM)
        world.until(lambda: not any(running(each) for each in children), "everything has ended")
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    echo.close()


def test_two_agents_on_one_machine_act_as_two_nodes(make_world: Callable[..., World]) -> None:
    one, two = make_world(), make_world()
    for world in (one, two):
        world.pod("client")
        world.pod("server")
    echoes = [Echo(world, world.stage.players["server"], PORT) for world in (one, two)]
    for world in (one, two):
        world.start()
    for world in (one, two):
        client, server = world.stage.players["client"], world.stage.players["server"]
        with world.connect(client, server.ipv4, PORT) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
    one.mesh.kill()
    client, server = two.stage.players["client"], two.stage.players["server"]
    with two.connect(client, server.ipv4, PORT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    for echo in echoes:
        echo.close()


def test_the_demo_shows_six_times_yes_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "demo", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert report.pop("ok") is True
    assert {key: step["ok"] for key, step in report.items()} == dict.fromkeys(
        ("reached", "encrypted", "identities", "stranger_refused", "policy_live", "fail_closed"), True
    )
    assert not any(Path("/run/netns", name).exists() for name in ("webapp", "api", "stranger", "quietwire-demo-hub"))


def test_the_demo_cleans_up_on_interrupt_and_runs_again_at_once() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "agent.cli", "demo", "--keep"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert demo.stdout is not None
    told = ""
    deadline = time.monotonic() + 60
    while "To explore" not in told:
        line = demo.stdout.readline()
        assert line, told
        assert time.monotonic() < deadline
        told += line
    children = descendants(demo.pid)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(30) == 130
    demo.stdout.close()
    assert not any(running(pid) for pid in children)
    assert not any(Path("/run/netns", name).exists() for name in ("webapp", "api", "stranger"))
