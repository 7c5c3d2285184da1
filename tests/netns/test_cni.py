"""Sandboxes whose runtime calls the CNI plugin: captured before their pod starts, before the cluster has its address.

The runtime is stood in for: namespaces and addresses are made as a bridge's plugin makes them, and the program is run
as a runtime runs it. tests/kubernetes has the real ones.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agent.cni
from agent.cni.request import Code
from agent.lab.stage import Player
from init.constants import CNI_SOCKET
from init.netns import path_of
from tests.cni.asked import configuration, environment
from tests.netns.test_catalog import PORT, asks, init_check
from tests.netns.test_handed_over import pins
from tests.netns.world import MARKER, Echo, World

PROGRAM = Path(agent.cni.__file__).with_name("quietwire-cni")


def declare(
    world: World, name: str, *, uid: str, player: Player | None = None, inject: str = "enabled", namespace: str = "demo"
) -> None:
    """A pod as the API has it: scheduled, and with its addresses only where its `player` is given."""
    ips = [] if player is None else [{"ip": player.ipv4}, {"ip": player.ipv6}]
    world.mesh.write(
        f"pod-{name}.yaml",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid,
                "annotations": {"linkerd.io/inject": inject},
            },
            "spec": {"nodeName": "node-a", "serviceAccountName": name},
            "status": {"podIPs": ips},
        },
    )


class Answer:
    """What the plugin did: its exit status, and what it printed."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.status = done.returncode
        self.printed: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}


def call(
    world: World, command: str, name: str, player: Player, *, uid: str, namespace: str = "demo", seconds: int = 20
) -> Answer:
    """Runs the plugin as a runtime does for a sandbox."""
    addresses = (f"{player.ipv4}/24", f"{player.ipv6}/64")
    socket = str(world.mesh.directory / "run" / CNI_SOCKET)
    given = configuration(*addresses, socket=socket, timeoutSeconds=seconds, exemptNamespaces=["kube-system"])
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
    variables = environment(command, args=args, netns=str(path_of(player.netns)))
    return Answer(
        subprocess.run(
            [str(PROGRAM)],
            input=json.dumps(given).encode(),
            env=variables,
            capture_output=True,
            timeout=90,
            check=False,
        )
    )


def is_served(world: World, client: Player, address: str) -> bool:
    """Whether a client reaches it: what dials it has to have heard whose address it is."""
    try:
        return asks(world, client, address) == b"hello"
    except ConnectionResetError:
        return False


def test_a_pod_is_captured_before_it_starts_and_the_cluster_knows_its_address(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, late, outside = world.pod("client"), world.stranger("late"), world.stranger("outside")
    world.start()
    declare(world, "late", uid="u-1")
    added = call(world, "ADD", "late", late, uid="u-1")
    assert added.status == 0
    assert [each["address"] for each in added.printed["ips"]] == [f"{late.ipv4}/24", f"{late.ipv6}/64"]
    assert init_check(late) == 0
    assert call(world, "CHECK", "late", late, uid="u-1").status == 0
    assert call(world, "STATUS", "late", late, uid="u-1").status == 0
    declare(world, "late", uid="u-1", player=late)
    echo = Echo(world, late, PORT)
    world.until(lambda: is_served(world, client, late.ipv4), "the client's agent knows its address")
    with world.wire() as wire, world.connect(client, late.ipv4, PORT) as sock:
        sock.sendall(MARKER)
        assert sock.recv(100) == MARKER
    assert not wire.contains(MARKER)
    with pytest.raises(ConnectionResetError):
        asks(world, outside, late.ipv4)
    echo.close()


def test_what_it_dials_in_its_first_moment_is_captured_although_nobody_else_knows_it_yet(
    make_world: Callable[..., World],
) -> None:
    world = make_world(workers=1)
    server, late = world.pod("server"), world.stranger("late")
    world.start()
    declare(world, "late", uid="u-1")
    echo = Echo(world, server, PORT)
    assert call(world, "ADD", "late", late, uid="u-1").status == 0
    assert asks(world, late, server.ipv4) == b"hello"
    assert world.closed(direction="outbound", pod="demo/late")["security"] == "mtls"
    echo.close()


def test_one_that_is_not_to_be_meshed_passes_and_nothing_is_written(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    free, exempt = world.stranger("free"), world.stranger("exempt")
    world.start()
    declare(world, "free", uid="u-1", inject="disabled")
    assert call(world, "ADD", "free", free, uid="u-1").status == 0
    assert call(world, "ADD", "coredns", exempt, uid="u-2", namespace="kube-system").status == 0
    assert init_check(free) == init_check(exempt) == 1


def test_without_an_agent_it_does_not_start_and_with_the_next_one_it_does(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    late = world.stranger("late")
    world.start()
    world.mesh.kill()
    refused = call(world, "ADD", "late", late, uid="u-1", seconds=1)
    assert (refused.status, refused.printed["code"]) == (1, int(Code.TRY_AGAIN))
    assert "is its pod running?" in refused.printed["msg"]
    assert call(world, "DEL", "late", late, uid="u-1").status == 0
    world.start()
    declare(world, "late", uid="u-1")
    assert call(world, "ADD", "late", late, uid="u-1").status == 0
    assert init_check(late) == 0


def test_a_sandbox_that_is_made_again_under_its_pods_name_takes_the_place_of_the_former(
    make_world: Callable[..., World],
) -> None:
    """As a kubelet does when the first one died: DEL, and another namespace with another address."""
    world = make_world(workers=1)
    client, first, second = world.pod("client"), world.stranger("first"), world.stranger("second")
    world.start()
    declare(world, "late", uid="u-1", player=first)
    assert call(world, "ADD", "late", first, uid="u-1").status == 0
    assert call(world, "DEL", "late", first, uid="u-1").status == 0
    world.until(lambda: not pins(world), "nobody lives in it: it is let go of")
    declare(world, "late", uid="u-1")
    assert call(world, "ADD", "late", second, uid="u-1").status == 0
    declare(world, "late", uid="u-1", player=second)
    echo = Echo(world, second, PORT)
    world.until(lambda: is_served(world, client, second.ipv4), "it is served")
    echo.close()


def test_a_pod_that_is_captured_is_served_by_the_next_agent(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, late = world.pod("client"), world.stranger("late")
    world.start()
    declare(world, "late", uid="u-1")
    assert call(world, "ADD", "late", late, uid="u-1").status == 0
    declare(world, "late", uid="u-1", player=late)
    echo = Echo(world, late, PORT)
    world.mesh.kill()
    world.start()
    assert world.ready()["ready"]
    assert call(world, "CHECK", "late", late, uid="u-1").status == 0
    assert asks(world, client, late.ipv4) == b"hello"
    echo.close()


def test_the_hosts_own_namespace_is_never_captured(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    late = world.stranger("late")
    world.start()
    declare(world, "late", uid="u-1")
    given = configuration("127.0.0.1/8", socket=str(world.mesh.directory / "run" / CNI_SOCKET), timeoutSeconds=2)
    args = "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=late;K8S_POD_UID=u-1"
    variables = environment("ADD", args=args, netns="/proc/self/ns/net")
    done = subprocess.run(
        [str(PROGRAM)], input=json.dumps(given).encode(), env=variables, capture_output=True, timeout=90, check=False
    )
    assert done.returncode == 1
    world.until(lambda: "the host's own" in json.dumps(world.ready()["waiting"]), "it is said")
    assert init_check(late) == 1
