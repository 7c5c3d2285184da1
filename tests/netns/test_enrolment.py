"""Who may enrol which namespace: whoever reaches the enrolment socket takes over and strips nobody."""

import array
import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.lab.stage import Player
from init.constants import ENROL_SOCKET
from tests.netns.test_catalog import PORT, asks, declare_without_namespace, enrol, init_check
from tests.netns.world import Echo, World

UID = "0a1b2c3d-1111-2222-3333-444455556666"


def claim(world: World, player: Player, pod: str | None, *prefix: str) -> subprocess.CompletedProcess[str]:
    """What `quietwire init apply --enrol` says and hears, in the pod's namespace, with `prefix` before its command."""
    code = """
import os, sys
from init.enrol import EnrolError, enrol
try:
    print(enrol(sys.argv[1], os.open("/proc/self/ns/net", os.O_RDONLY), sys.argv[2] or None, 20, lambda why: None))
except EnrolError as error:
    sys.exit(str(error))
"""
    path = world.mesh.directory / "run" / ENROL_SOCKET
    return subprocess.run(
        player.command(*prefix, sys.executable, "-c", code, str(path), pod or ""),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("end", ["kill -9", "stop"])
def test_a_pod_that_has_the_sockets_directory_mounted_gets_through_to_the_next_agent_too(
    make_world: Callable[..., World], end: str, tmp_path: Path
) -> None:
    """Mounted once, read-only, in a mount namespace of its own, as the kubelet does it; and the agent starts again."""
    code = """
import os, subprocess, sys
from init.enrol import EnrolError, enrol
def tell(why):
    if "no agent" in why:
        print(why, flush=True)
directory, place = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", directory, place], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
for _ in sys.stdin:
    try:
        print(enrol(f"{place}/enrol.sock", os.open("/proc/self/ns/net", os.O_RDONLY), None, 20, tell))
    except EnrolError as error:
        print(error)
    sys.stdout.flush()
"""
    world = make_world(workers=1)
    player = world.pod("web")
    world.start()
    place = tmp_path / "inside"
    place.mkdir()
    directory = world.mesh.directory / "run" / Path(ENROL_SOCKET).parent
    command = player.command("unshare", "--mount", sys.executable, "-c", code, str(directory), str(place))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pod:
        given, said = pod.stdin, pod.stdout
        assert given is not None
        assert said is not None

        def ask() -> str:
            given.write("\n")
            given.flush()
            return said.readline()

        try:
            assert ask() == "demo/web\n"
            if end == "stop":
                world.mesh.stop()
            else:
                world.mesh.kill()
            assert "no agent listens" in ask()
            world.start()
            assert said.readline() == "demo/web\n", "it has waited for it"
        finally:
            given.close()


def says(words: str, line: dict[str, Any]) -> bool:
    """Whether a line of the log has these words."""
    return words in str(line.get("msg"))


def takes_address_of(victim: Player, attacker: Player) -> None:
    """What root in any pod may do: `ip addr add` on lo. ARP for it stays unanswered: no bridge is what is tried."""
    subprocess.run(attacker.command("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"), check=True, timeout=10)
    for address, bits in ((victim.ipv4, 32), (victim.ipv6, 128)):
        command = attacker.command("ip", "address", "add", f"{address}/{bits}", "dev", "lo")
        subprocess.run(command, check=True, timeout=10)


NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
IN_A_USER_NAMESPACE = ("unshare", "--user", "--map-root-user")


@pytest.mark.parametrize("prefix", [NO_CAPABILITIES, IN_A_USER_NAMESPACE], ids=["no capabilities", "user namespace"])
def test_a_pod_that_gives_itself_anothers_address_neither_speaks_as_it_nor_strips_it(
    make_world: Callable[..., World], prefix: tuple[str, ...]
) -> None:
    world = make_world()
    client, victim, outside = world.pod("client"), world.stranger("victim"), world.stranger("outside")
    attacker = world.stranger("attacker")
    world.start()
    declare_without_namespace(world, "vic", victim)
    done = enrol(world, victim)
    assert done.returncode == 0, done.stderr
    takes_address_of(victim, attacker)
    for asked in ("demo/vic", None):
        done = claim(world, attacker, asked, *prefix)
        assert done.returncode == 1
        assert "nothing ties process" in done.stderr
        assert "Annotate the pod with quietwire.io/netns" in done.stderr
    assert init_check(victim) == 0
    assert init_check(attacker) == 1, "nothing was written there"
    echo = Echo(world, victim, PORT)
    assert asks(world, client, victim.ipv4) == b"hello"
    with pytest.raises(ConnectionResetError):
        asks(world, outside, victim.ipv4)
    echo.close()


def test_an_annotation_names_the_namespace_and_nobody_else_does(make_world: Callable[..., World]) -> None:
    """Not even who administers this host: two that say different things would take turns."""
    world = make_world()
    client, victim, outside = world.pod("client"), world.pod("vic"), world.stranger("outside")
    attacker = world.stranger("attacker")
    world.start()
    takes_address_of(victim, attacker)
    for prefix in ((), NO_CAPABILITIES):
        done = claim(world, attacker, "demo/vic", *prefix)
        assert done.returncode == 1
        assert f"demo/vic is annotated with quietwire.io/netns: {victim.netns}" in done.stderr
    done = claim(world, victim, "demo/vic", *NO_CAPABILITIES)
    assert done.stdout == "demo/vic\n", f"its own init step needs nothing more: {done.stderr}"
    echo = Echo(world, victim, PORT)
    assert asks(world, client, victim.ipv4) == b"hello"
    with pytest.raises(ConnectionResetError):
        asks(world, outside, victim.ipv4)
    assert init_check(victim) == 0
    echo.close()


def test_a_live_enrolment_is_not_replaced_while_somebody_lives_in_its_namespace(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    client, outside = world.pod("client"), world.stranger("outside")
    first, second = world.stranger("first"), world.stranger("second")
    world.start()
    declare_without_namespace(world, "web", first)
    assert enrol(world, first).returncode == 0
    resident = subprocess.Popen(first.command("sleep", "120"))
    try:
        declare_without_namespace(world, "web", second)
        words = ("apply", "--netns", second.netns, "--enrol", str(world.mesh.directory / "run" / ENROL_SOCKET))
        more = ("--enrol-timeout", "2", "--json")
        done = subprocess.run(
            [sys.executable, "-m", "init", *words, *more], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert f"in which process {resident.pid} (sleep) still lives" in json.loads(done.stdout)["error"]
        assert init_check(first) == 0
        with pytest.raises(ConnectionRefusedError):  # the rules that its own init step wrote, and no agent behind them
            asks(world, outside, second.ipv4)
    finally:
        resident.kill()
        resident.wait(10)
    done = enrol(world, second)
    assert done.returncode == 0, done.stderr
    echo = Echo(world, second, PORT)
    assert asks(world, client, second.ipv4) == b"hello"
    echo.close()
    assert init_check(first) == 1, "nobody lives there any more: it is let go"


def test_rules_stay_as_long_as_somebody_lives_in_a_namespace_that_is_no_pods_any_more(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--verify-interval", "0.5")
    server, outside = world.pod("server"), world.stranger("outside")
    echo = Echo(world, server, PORT)
    world.start()
    resident = subprocess.Popen(server.command("sleep", "120"))
    try:
        world.withdraw(server)
        record = world.mesh.wait_for_log(lambda line: "still lives in its namespace" in str(line.get("msg")))
        assert record is not None
        assert f"demo/server left the mesh (its manifest is gone), but process {resident.pid} (sleep)" in record["msg"]
        world.until(lambda: world.count("quietwire_pods", state="left") == 1, "it is counted")
        with pytest.raises(ConnectionRefusedError):
            asks(world, outside, server.ipv4)
        with pytest.raises(ConnectionRefusedError):
            world.connect(server, outside.ipv4, PORT)
        # The manifest that says so lets it go on in plaintext, and the one that comes back enrols it again.
        world.declare(server)
        world.until(lambda: init_check(server) == 0 and world.ready()["ready"], "captured again")
        assert world.count("quietwire_pods", state="left") == 0
        world.declare(server, annotations={"linkerd.io/inject": "disabled"})
        world.until(lambda: init_check(server) == 1, "let go")
        assert asks(world, outside, server.ipv4) == b"hello"
        world.declare(server)
        world.until(lambda: init_check(server) == 0 and world.ready()["ready"], "captured again")
        world.withdraw(server)
        world.until(lambda: world.count("quietwire_pods", state="left") == 1, "it stays refused")
    finally:
        resident.send_signal(signal.SIGKILL)
        resident.wait(10)
    echo.close()
    world.until(lambda: world.count("quietwire_pods", state="left") == 0, "the last one to live there has ended")
    assert init_check(server) == 1


LEAVES_ITS_NAMESPACE = """
import ctypes, socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
assert ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0  # a user and a network namespace of its own
print("left", flush=True)
while True:
    with listener.accept()[0] as sock:
        sock.sendall(sock.recv(100))
"""


def test_rules_stay_as_long_as_somebody_who_has_left_the_namespace_has_sockets_in_it(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--verify-interval", "0.5")
    server, outside = world.pod("server"), world.stranger("outside")
    words = (*NO_CAPABILITIES, sys.executable, "-c", LEAVES_ITS_NAMESPACE, str(PORT))
    leaver = world.spawn(server, *words, stdout=subprocess.PIPE)
    assert leaver.stdout is not None
    assert leaver.stdout.readline() == b"left\n"
    world.start()
    world.withdraw(server)
    assert world.mesh.wait_for_log(partial(says, "somebody who has left it, and has sockets in it"))
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            asks(world, outside, server.ipv4)
    leaver.kill()
    world.until(lambda: world.count("quietwire_pods", state="left") == 0, "they are closed")
    assert init_check(server) == 1


def test_a_pod_with_another_uid_is_another_pod(make_world: Callable[..., World]) -> None:
    """The kubelet starts a pod of the same name while the former one's processes are still ending."""
    world = make_world()
    client = world.pod("client")
    first, second = world.stranger("first"), world.stranger("second")
    world.start()
    declare_without_namespace(world, "web", first, uid=UID)
    assert enrol(world, first).returncode == 0
    resident = subprocess.Popen(first.command("sleep", "120"))
    try:
        declare_without_namespace(world, "web", second, uid=UID.replace("0", "f"))
        done = enrol(world, second)
        assert done.returncode == 0, done.stderr
        echo = Echo(world, second, PORT)
        assert asks(world, client, second.ipv4) == b"hello"
        echo.close()
        assert init_check(first) == 0, "whoever still lives there is refused"
    finally:
        resident.kill()
        resident.wait(10)


def test_descriptors_that_ran_out_end_nothing_and_pods_are_enrolled_once_there_are_some(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--verify-interval", "0.5")
    client, server = world.pod("client"), world.pod("server")
    late, handed = world.stranger("late"), world.stranger("handed")
    echo = Echo(world, server, PORT)
    world.start()
    supervisor = world.mesh.pid
    assert supervisor is not None
    _, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    path = str(world.mesh.directory / "run" / ENROL_SOCKET)
    crowd = []
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, hard))  # what is open stays so
    try:
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            fds = array.array("i", [0] * 4)
            sock.sendmsg([b"{"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            crowd.append(sock)
        world.declare(late)
        declare_without_namespace(world, "handed", handed)
        for words in ("nobody is accepted for", "rules could not be verified"):
            assert world.mesh.wait_for_log(partial(says, words)), words
        assert asks(world, client, server.ipv4) == b"hello", "what is captured is served"
    finally:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (hard, hard))
        for sock in crowd:
            sock.close()
    done = enrol(world, handed)
    assert done.returncode == 0, done.stderr
    world.until(lambda: world.ready()["ready"], "all are captured")
    assert world.mesh.pid == supervisor
    assert world.count("quietwire_worker_restarts_total") == 0
    for player in (late, handed):
        assert init_check(player) == 0
    echo.close()
