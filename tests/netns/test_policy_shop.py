"""deploy/examples/shop with real pods: who reaches whom, by connections, by `authz explain`, and as it is meant."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agent.lab.stage import Player
from tests.netns.policies import VERSIONS, explain, reaches
from tests.netns.world import NODE, Echo, World

SHOP = Path(__file__).parents[2] / "deploy" / "examples" / "shop"
PODS = ("web", "cart", "catalog", "payments")
INGRESS = "ingress"
"""A client inside the cluster's networks, and outside the mesh."""
HTTP, METRICS, HEALTH, UNSELECTED = 8080, 9100, 9200, 9999
REACHED_BY = {
    # Besides themselves: a pod always reaches itself.
    ("web", HTTP): {"cart", "catalog", "payments", INGRESS},
    ("cart", HTTP): {"web"},
    ("catalog", HTTP): {"web", "cart"},
    ("payments", HTTP): {"cart"},
    ("web", METRICS): {"cart", "catalog", "payments"},
    ("cart", METRICS): {"web", "catalog", "payments"},
    ("catalog", METRICS): {"web", "cart", "payments"},
    ("payments", METRICS): {"web", "cart", "catalog"},
    ("payments", HEALTH): set(),
    **{(pod, UNSELECTED): set() for pod in PODS},
}


class Shop(NamedTuple):
    world: World
    players: dict[str, Player]


@pytest.fixture(scope="module")
def shop(make_shared_world: Callable[..., World]) -> Iterator[Shop]:
    world = make_shared_world()
    players = {name: world.stranger(name) for name in (*PODS, INGRESS)}
    found = set()
    for path in sorted(SHOP.glob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            if document["kind"] == "Pod":
                found.add(document["metadata"]["name"])
                settle(document, players[document["metadata"]["name"]])
            world.mesh.write(f"{path.stem}-{number}.yaml", document)
    assert found == set(PODS)
    echoes = [Echo(world, players[name], port, 6) for name, port in REACHED_BY]
    world.start()
    yield Shop(world, players)
    for echo in echoes:
        echo.close()


def settle(pod: dict[str, Any], player: Player) -> None:
    """What a cluster adds to a pod's manifest: where it runs, and its addresses."""
    pod["metadata"]["annotations"] = {"quietwire.io/netns": player.netns}
    pod["spec"]["nodeName"] = NODE
    pod["status"] = {
        "hostIPs": [{"ip": "10.77.0.1"}, {"ip": "fd77::1"}],
        "podIPs": [{"ip": player.ipv4}, {"ip": player.ipv6}],
    }


def table() -> dict[tuple[str, str, int], bool]:
    """Client, server, port: whether it is let in."""
    return {
        (client, name, port): client in reached_by or client == name
        for (name, port), reached_by in REACHED_BY.items()
        for client in (*PODS, INGRESS)
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_real_connections_get_what_the_table_says(shop: Shop, version: int) -> None:
    found = {
        (client, name, port): reaches(shop.world, shop.players[client], shop.players[name].address(version), port)
        for client, name, port in table()
    }
    assert found == table()


@pytest.mark.parametrize("version", VERSIONS)
def test_explain_says_what_the_table_says(shop: Shop, version: int) -> None:
    found = {}
    for client, name, port in table():
        asked = {"from_": f"shop/{client}"} if client in PODS else {"from_ip": shop.players[client].address(version)}
        answer = explain(shop.world, **asked, to=f"shop/{name}", port=port)
        assert answer["verdict"] in {"allow", "deny"}
        found[client, name, port] = answer["verdict"] == "allow"
    assert found == table()


def test_explain_says_which_policy_decides(shop: Shop) -> None:
    for client, name, port, decides, by in (
        ("web", "cart", "http", "Server shop/cart-http", "AuthorizationPolicy shop/cart-from-web"),
        ("cart", "catalog", "http", "Server shop/catalog-http", "ServerAuthorization shop/catalog-readers"),
        ("cart", "payments", "http", "Server shop/payments-http", "AuthorizationPolicy shop/payments-from-cart"),
        ("payments", "web", "metrics", "Server shop/metrics", "AuthorizationPolicy shop/metrics-from-shop"),
    ):
        answer = explain(shop.world, from_=f"shop/{client}", to=f"shop/{name}", port=port)
        assert (answer["server"], answer["authorization"]) == (decides, by)
        assert reaches(shop.world, shop.players[client], shop.players[name].ipv4, HTTP if port == "http" else METRICS)
        record = shop.world.closed(direction="inbound", pod=f"shop/{name}", authorization=by)
        assert record["server"] == decides


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kubelet_reaches_what_it_probes_in_the_shop_and_no_more(shop: Shop, version: int) -> None:
    world = shop.world
    for name in PODS:
        address = shop.players[name].address(version)
        probed = HEALTH if name == "payments" else HTTP
        assert reaches(world, world.node, address, probed), f"{name}:{probed}"
        assert not reaches(world, world.node, address, METRICS)
        assert not reaches(world, world.node, address, UNSELECTED)
    # The web is open to its cluster, the node's address in it included; the others' http is not.
    assert not reaches(world, world.node, shop.players["payments"].address(version), HTTP)


def test_nothing_in_the_shop_is_faulty_or_odd(shop: Shop) -> None:
    ready = shop.world.ready()
    assert ready["ready"]
    assert ready["faults"] == []
    assert ready["warnings"] == []
