"""What exists changes while the agent runs: services, endpoints, pods that come and go, manifests with faults."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.lab.stage import Player
from init.constants import ENROL_SOCKET, MEMORY_DIRECTORY
from init.netns import path_of
from tests.netns.world import Echo, World

PORT = 7000
CLUSTER_IP, CLUSTER_IP6 = "10.96.0.10", "fd96::10"


def asks(world: World, client: Player, address: str, port: int = PORT) -> bytes:
    with world.connect(client, address, port) as sock:
        sock.sendall(b"hello")
        return sock.recv(100)


def init_check(player: Player) -> int:
    return subprocess.run(
        [sys.executable, "-m", "init", "check", "--netns", player.netns], capture_output=True, check=False
    ).returncode


def test_a_service_reaches_only_its_ready_endpoints_and_both_of_them(make_world: Callable[..., World]) -> None:
    world = make_world()
    client = world.pod("client")
    one, two, three = (world.pod(name) for name in ("one", "two", "three"))
    world.service("echo", [CLUSTER_IP], 80)
    world.slice("echo", [(one.ipv4, True), (two.ipv4, True), (three.ipv4, False)], PORT)
    echoes = [Echo(world, player, PORT) for player in (one, two, three)]
    world.start()
    for _ in range(60):
        assert asks(world, client, CLUSTER_IP, 80) == b"hello"
    reached = [len(echo.peers) for echo in echoes]
    assert min(reached[:2]) > 0
    assert reached[2] == 0
    world.slice("echo", [(one.ipv4, False), (two.ipv4, False), (three.ipv4, True)], PORT)
    world.until(lambda: asks(world, client, CLUSTER_IP, 80) and echoes[2].peers, "the third is ready, and reached")
    for echo in echoes:
        echo.close()


def test_pods_and_services_as_lists_of_the_api_are_served_under_the_former_name_of_a_service_account(
    make_world: Callable[..., World],
) -> None:
    """Items say neither kind nor apiVersion, and a spec may have `serviceAccount` alone."""
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    items = []
    for player in (client, server):
        path = world.mesh.manifests / f"pod-{player.name}.yaml"
        item = json.loads(path.read_text())
        del item["kind"], item["apiVersion"], item["spec"]["serviceAccountName"]
        item["spec"]["serviceAccount"] = f"old-{player.name}"
        items.append(item)
        path.unlink()
    serves = {"clusterIP": CLUSTER_IP, "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": PORT}]}
    for kind, those in (
        ("PodList", items),
        ("ServiceList", [{"metadata": {"name": "echo", "namespace": "demo"}, "spec": serves}]),
    ):
        listed = {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": those}
        world.mesh.write(f"{kind.lower()}.yaml", listed)
    echo = Echo(world, server, PORT)
    world.start()
    assert asks(world, client, CLUSTER_IP, 80) == b"hello"
    ended = world.closed(direction="inbound", outcome="completed")
    echo.close()
    assert (ended["client_id"], ended["server_id"]) == tuple(
        f"spiffe://example.test/ns/demo/sa/old-{player.name}" for player in (client, server)
    )


def test_of_two_endpoints_the_one_with_fewer_open_connections_is_taken(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, one, two = (world.pod(name) for name in ("client", "one", "two"))
    world.service("echo", [CLUSTER_IP], 80)
    world.slice("echo", [(one.ipv4, True), (two.ipv4, True)], PORT)
    echoes = [Echo(world, player, PORT) for player in (one, two)]
    world.start()
    held = []
    for _ in range(40):
        sock = world.connect(client, CLUSTER_IP, 80)
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        held.append(sock)
    assert [len(echo.peers) for echo in echoes] == [20, 20]
    for sock in held:
        sock.close()
    for echo in echoes:
        echo.close()


def test_a_service_with_a_selector_needs_no_slices_and_serves_both_families(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server", labels={"role": "echo"})
    world.service("echo", [CLUSTER_IP, CLUSTER_IP6], PORT, selector={"role": "echo"})
    echoes = [Echo(world, server, PORT, 6)]  # a dual-stack listener
    world.start()
    for address in (CLUSTER_IP, CLUSTER_IP6):
        assert asks(world, client, address) == b"hello"
    assert [peer[0] for peer in echoes[0].peers] == [f"::ffff:{client.ipv4}", client.ipv6]
    echoes[0].close()


def saying(words: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: words in str(line.get("reason"))


def test_a_service_without_a_ready_endpoint_is_refused_and_counted(make_world: Callable[..., World]) -> None:
    world = make_world()
    client = world.pod("client")
    world.service("empty", [CLUSTER_IP], 80)
    world.start()
    for port, words in ((80, "no ready endpoint"), (81, "no TCP port 81")):
        with pytest.raises(ConnectionResetError), world.connect(client, CLUSTER_IP, port) as sock:
            sock.recv(100)  # or connect() itself already sees the reset
        assert world.mesh.wait_for_log(saying(words)), words
    assert world.count("quietwire_denials_total", direction="outbound", reason="no_endpoint") == 2


def test_a_manifest_with_a_fault_is_refused_and_the_last_good_state_stays(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    path = world.mesh.manifests / "pod-server.yaml"
    good = path.read_text()
    path.write_text("apiVersion: v1\nkind: Pod\nmetadata:\n  name: [unfinished\n")
    fault = world.mesh.wait_for_log(lambda line: line.get("event") == "fault")
    assert fault is not None
    assert (fault["file"], fault["line"]) == ("pod-server.yaml", 5)
    assert "no valid YAML" in fault["msg"]
    assert "last good version stays in force" in fault["msg"]
    assert any("pod-server.yaml:5" in each for each in world.ready()["faults"])
    assert asks(world, client, server.ipv4) == b"hello"
    path.write_text(
        good.replace(
            '"quietwire.io/netns"', '"config.linkerd.io/default-inbound-policy": "nobody", "quietwire.io/netns"'
        )
    )
    world.until(
        lambda: any("must be one of" in each for each in world.ready()["faults"]), "the bad annotation is named"
    )
    assert asks(world, client, server.ipv4) == b"hello"
    path.write_text(good)
    world.until(lambda: world.ready()["faults"] == [], "the fault is gone")
    echo.close()


def test_a_pod_whose_manifest_goes_is_let_go_and_taken_again_when_it_comes_back(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    client, server, stranger = world.pod("client"), world.pod("server"), world.stranger("stranger")
    echo = Echo(world, server, PORT)
    world.start()
    held = world.connect(client, server.ipv4, PORT)
    held.sendall(b"hello")
    assert held.recv(100) == b"hello"
    assert init_check(server) == 0
    world.withdraw(server)
    with pytest.raises(ConnectionResetError):
        held.recv(100)
    held.close()
    echo.close()  # as long as somebody has a socket in there, somebody lives there
    # At once, or with the next verification where the agent has seen these sockets, or a check, which visits it too.
    world.until(
        lambda: not world.count("quietwire_pods", state="left") and init_check(server) == 1, "the rules are gone", 60.0
    )
    echo = Echo(world, server, PORT)
    assert asks(world, stranger, server.ipv4) == b"hello"
    world.declare(server)
    world.until(lambda: world.ready()["ready"] and init_check(server) == 0, "captured again")
    with pytest.raises(ConnectionResetError):
        asks(world, stranger, server.ipv4)
    assert asks(world, client, server.ipv4) == b"hello"
    echo.close()


def test_a_pod_that_cannot_be_captured_holds_ready_back_by_name(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.pod("fine")
    world.start()
    late = world.stranger("late")
    world.mesh.write(
        "pod-late.yaml",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "late", "namespace": "demo", "annotations": {"quietwire.io/netns": "no-such-netns"}},
            "spec": {"nodeName": "node-a"},
            "status": {"podIPs": [{"ip": late.ipv4}]},
        },
    )
    world.until(lambda: "/run/netns/no-such-netns does not exist" in str(world.ready()["waiting"]), "it says why")
    assert [entry["pod"] for entry in world.ready()["waiting"]] == ["demo/late"]
    assert not world.ready()["ready"]
    world.declare(late)
    world.until(lambda: world.ready()["ready"], "the pod is captured once its namespace is right")


def test_a_namespace_that_holds_none_of_the_pods_addresses_is_not_captured(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.pod("fine")
    other = world.stranger("other")
    world.start()
    world.mesh.write(
        "pod-wrong.yaml",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "wrong", "namespace": "demo", "annotations": {"quietwire.io/netns": other.netns}},
            "spec": {"nodeName": "node-a"},
            "status": {"podIPs": [{"ip": "192.0.2.99"}]},
        },
    )
    world.until(lambda: "holds none of its addresses" in str(world.ready()["waiting"]), "it says what is wrong")
    assert init_check(other) == 1


def declare_without_namespace(
    world: World, name: str, player: Player, *, uid: str = "", inject: str = "enabled"
) -> None:
    """A pod whose namespace only its init step knows."""
    world.mesh.write(
        f"pod-{name}.yaml",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "demo", "annotations": {"linkerd.io/inject": inject}}
            | ({"uid": uid} if uid else {}),
            "spec": {"nodeName": "node-a", "serviceAccountName": name},
            "status": {"podIPs": [{"ip": player.ipv4}, {"ip": player.ipv6}]},
        },
    )


def enrol(world: World, player: Player) -> subprocess.CompletedProcess[str]:
    """What a pod's init step does."""
    words = ("apply", "--netns", player.netns, "--enrol", str(world.mesh.directory / "run" / ENROL_SOCKET), "--json")
    return subprocess.run(
        [sys.executable, "-m", "init", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_init_hands_a_namespace_over_and_returns_when_it_is_captured(make_world: Callable[..., World]) -> None:
    world = make_world()
    client = world.pod("fine")
    world.start()
    late = world.stranger("late")
    declare_without_namespace(world, "late", late)
    world.until(lambda: "no network namespace is known" in str(world.ready()["waiting"]), "it waits for its init step")
    for _ in range(2):  # the second time it is there already
        done = enrol(world, late)
        assert done.returncode == 0, done.stderr
        assert '"pod": "demo/late"' in done.stdout
    assert world.ready()["ready"]
    echo = Echo(world, late, PORT)
    assert asks(world, client, late.ipv4) == b"hello"
    echo.close()


def test_a_pod_that_starts_again_in_another_namespace_is_captured_there(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, outside = world.pod("client"), world.stranger("outside")
    world.start()
    first, second = world.stranger("first"), world.stranger("second")
    declare_without_namespace(world, "web", first)
    assert enrol(world, first).returncode == 0
    declare_without_namespace(world, "web", second)
    done = enrol(world, second)
    assert done.returncode == 0, done.stderr
    assert '"pod": "demo/web"' in done.stdout
    echo = Echo(world, second, PORT)
    assert asks(world, client, second.ipv4) == b"hello"
    with pytest.raises(ConnectionResetError):
        asks(world, outside, second.ipv4)
    echo.close()
    world.until(
        lambda: not world.count("quietwire_pods", state="left") and init_check(first) == 1, "the former is let go", 60.0
    )


def test_rules_that_somebody_flushes_are_repaired(make_world: Callable[..., World]) -> None:
    world = make_world("--verify-interval", "0.5")
    spared = world.pod("spared")
    flushed = [world.pod(name) for name in ("one", "two", "three")]
    world.start()
    for server in flushed:
        for words in (("iptables-legacy", "-t", "nat", "-F"), ("nft", "flush", "ruleset")):
            assert world.run(server, *words).returncode == 0
    world.until(lambda: world.count("quietwire_rule_repairs_total") >= len(flushed), "each is noticed")
    world.until(lambda: [init_check(server) for server in flushed] == [0, 0, 0], "the rules are back")
    assert not [line for line in world.mesh.lines() if f"demo/{spared.name} were changed" in str(line.get("msg"))]


def test_an_agent_that_starts_again_captures_everybody_also_who_lost_rules(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--verify-interval", "0.5")
    pods = [world.pod(f"pod-{number}") for number in range(12)]
    outside = world.stranger("outside")
    echoes = [Echo(world, pod, PORT, 6) for pod in pods]
    world.start()
    memories = [Path(MEMORY_DIRECTORY, f"{os.stat(path_of(pod.netns)).st_ino}.json") for pod in pods]
    world.until(lambda: all(json.loads(each.read_text())["tables"] for each in memories), "all rules were looked at")
    world.mesh.kill()
    for tool, pod in (("iptables-legacy", pods[3]), ("ip6tables-legacy", pods[7])):
        assert world.run(pod, tool, "-t", "nat", "-F").returncode == 0
    world.start()
    for client, server in zip(pods, [*pods[1:], pods[0]], strict=True):
        assert asks(world, client, server.ipv4) == b"hello"
        with pytest.raises(ConnectionResetError):
            asks(world, outside, server.ipv4)
        with pytest.raises(ConnectionResetError):
            asks(world, outside, server.ipv6)
    assert world.count("quietwire_rule_repairs_total") == 0, "nobody had to wait for the next verification"
    for echo in echoes:
        echo.close()


def test_a_pod_that_claims_another_pods_namespace_waits_and_says_whose_it_is(make_world: Callable[..., World]) -> None:
    world = make_world()
    first, client = world.pod("first"), world.pod("client")
    echo = Echo(world, first, PORT)
    world.start()
    address = "10.77.0.99"
    assert world.run(first, "ip", "address", "add", f"{address}/24", "dev", "eth0").returncode == 0
    world.declare(dataclasses.replace(first, name="second", ipv4=address, ipv6="fd77::99"))
    words = "its network namespace is demo/first's already"
    world.until(lambda: words in str(world.ready()["waiting"]), "it says what is wrong")
    assert asks(world, client, first.ipv4) == b"hello"
    echo.close()
