"""How many connections may be in set-up at once, and whose: nobody's crowd is at the cost of others."""

import asyncio

import pytest

from agent.outcome import Outcome
from agent.proxy import live
from agent.proxy.connection import Connection
from agent.proxy.live import (
    MAX_OPENING,
    MAX_OPENING_OF_ONE_POD,
    MAX_OPENING_PER_SOURCE,
    MAX_STRANGERS,
    MAX_STRANGERS_PER_POD,
    Live,
    source_of,
)
from agent.proxy.relay import Relay
from agent.tasks import spawn
from tests.proxy.fakes import API_IP, PORT, STRANGER_IP, WEB_IP, Worker, pod

WEB6 = "2001:db8:1::2"
NODE = "192.0.2.1"


class Swept(Relay):
    """A relay that notes whose it is when it is swept."""

    def __init__(self, connection: Connection, swept: list[Connection]) -> None:
        self._connection, self._swept = connection, swept

    def sweep(self) -> None:
        self._swept.append(self._connection)


@pytest.fixture
def worker() -> Worker:
    made = Worker(pod("api", API_IP, "2001:db8:1::1"), pod("web", WEB_IP, WEB6), pod("other", "10.1.0.3"))
    made.view.set_node_addresses((NODE,))
    return made


def crowd(worker: Worker, *clients: str, key: str = "demo/api") -> list[Connection]:
    """A connection of each client, but for those that are over a bound: they are refused, as `accept` does."""
    made = []
    for client in clients:
        connection, _ = worker.accept(key, client, (API_IP, PORT))
        if worker.over is None:
            made.append(connection)
        else:
            worker.live.left(connection)
    return made


def strangers(number: int, start: int = 0) -> list[str]:
    """So many addresses, each in a /64 of its own."""
    return [
        f"2001:db8:{each >> 16:x}:{each & 0xFFFF:x}::7" for each in range(0x10000 + start, 0x10000 + start + number)
    ]


@pytest.mark.parametrize("client", [STRANGER_IP, WEB_IP, WEB6, NODE])
async def test_one_address_has_its_bound_and_others_have_theirs(worker: Worker, client: str) -> None:
    made = crowd(worker, *[client] * (MAX_OPENING_PER_SOURCE + 5))
    assert len(made) == MAX_OPENING_PER_SOURCE
    assert client in (worker.over or "")
    assert "demo/api" in (worker.over or "")
    assert crowd(worker, "192.0.2.99", WEB_IP if client != WEB_IP else WEB6, NODE if client != NODE else WEB_IP)
    assert len(crowd(worker, client, key="demo/other")) == 1, "with another pod it has a bound of its own"
    worker.live.joined(made[0])
    assert len(crowd(worker, client, client)) == 1, "what is relayed is not in set-up any more"


async def test_addresses_of_one_slash_64_are_one_stranger_and_pods_in_it_are_each_their_own(worker: Worker) -> None:
    assert source_of("2001:db8:1::7") == source_of("2001:db8:1:0:ffff::9") == "2001:db8:1::/64"
    assert source_of("192.0.2.7") == "192.0.2.7"
    addresses = [f"2001:db8:1::{number:x}:7" for number in range(1, MAX_OPENING_PER_SOURCE + 6)]
    assert len(crowd(worker, *addresses)) == MAX_OPENING_PER_SOURCE
    assert "2001:db8:1::/64" in (worker.over or "")
    assert len(crowd(worker, WEB6)) == 1


async def test_a_crowd_of_strangers_fills_its_share_of_a_pod_and_keeps_no_meshed_client_and_no_probe_out(
    worker: Worker,
) -> None:
    assert len(crowd(worker, *strangers(MAX_STRANGERS_PER_POD + 9))) == MAX_STRANGERS_PER_POD
    assert "all strangers" in (worker.over or "")
    assert len(crowd(worker, WEB_IP, WEB6, NODE)) == 3
    assert len(crowd(worker, STRANGER_IP, key="demo/other")) == 1


async def test_a_crowd_of_strangers_that_dials_many_pods_fills_its_share_of_a_worker(worker: Worker) -> None:
    pods = [f"demo/pod-{number}" for number in range(MAX_STRANGERS // MAX_STRANGERS_PER_POD + 1)]
    made = [len(crowd(worker, *strangers(MAX_STRANGERS_PER_POD), key=key)) for key in pods]
    assert made == [MAX_STRANGERS_PER_POD] * (len(pods) - 1) + [0]
    assert "all pods" in (worker.over or "")
    assert len(crowd(worker, WEB_IP)) == 1


@pytest.mark.parametrize("client", [WEB_IP, WEB6, NODE])
async def test_one_pod_that_dials_many_pods_fills_its_share_of_a_worker(worker: Worker, client: str) -> None:
    assert MAX_OPENING_OF_ONE_POD < MAX_OPENING
    pods = [f"demo/pod-{number}" for number in range(MAX_OPENING_OF_ONE_POD // MAX_OPENING_PER_SOURCE + 1)]
    made = [len(crowd(worker, *[client] * MAX_OPENING_PER_SOURCE, key=key)) for key in pods]
    assert made == [MAX_OPENING_PER_SOURCE] * (len(pods) - 1) + [0]
    assert client in (worker.over or "")
    assert "all pods" in (worker.over or "")
    assert len(crowd(worker, STRANGER_IP, WEB_IP if client != WEB_IP else WEB6)) == 2


async def test_there_is_a_bound_for_everybody_together(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_STRANGERS < MAX_OPENING
    monkeypatch.setattr(live, "MAX_OPENING", 3)
    assert len(crowd(worker, WEB_IP, WEB6, NODE, WEB_IP)) == 3


async def test_a_sweep_takes_turns_with_others(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten connections, three in each turn; those that end meanwhile are left out."""
    monkeypatch.setattr(live, "SWEPT_AT_ONCE", 3)
    made = crowd(worker, *[WEB_IP] * 10)
    swept: list[Connection] = []
    for connection in made:
        worker.live.joined(connection)
        connection.stage = Swept(connection, swept)
    sweeping = spawn(worker.live.sweep(), name="sweep")
    await asyncio.sleep(0)
    assert len(swept) == 3
    (gone, *_) = set(made) - set(swept)
    gone.stage = None
    await sweeping
    assert len(swept) == 9
    assert gone not in swept


async def test_many_connections_are_ended_in_turns_with_others(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten connections, three in each turn; those that end meanwhile are not counted."""
    monkeypatch.setattr(live, "ENDED_AT_ONCE", 3)
    monkeypatch.setattr(Connection, "terminate", lambda connection, *_: worker.live.left(connection))
    made = crowd(worker, *[WEB_IP] * 10)
    for connection in made:
        worker.live.joined(connection)
    ending = spawn(worker.live.terminate(Outcome.UNENROLLED, "the pod has left"), name="end")
    await asyncio.sleep(0)
    left = worker.live.relayed()
    assert len(left) == 7
    worker.live.left(left[0])
    assert await ending == 9
    assert len(worker.live) == 0


async def test_nothing_is_kept_of_who_has_left(worker: Worker) -> None:
    made = crowd(worker, STRANGER_IP, WEB_IP, *strangers(3))
    assert len(worker.live) == len(made)
    for number, connection in enumerate(made):
        if number % 2:
            worker.live.joined(connection)
        worker.live.left(connection)
    assert vars(worker.live).keys() == vars(Live()).keys()
    assert all(not kept for name, kept in vars(worker.live).items() if name != "_empty")
    await worker.live.wait_until_empty()


async def test_a_worker_is_empty_when_neither_set_up_nor_relay_is_left(worker: Worker) -> None:
    """A drain waits for it: what is still relayed, or still being set up, must not be cut off."""
    relayed, opening = crowd(worker, WEB_IP, WEB_IP)
    worker.live.joined(relayed)
    assert len(worker.live) == 2
    assert set(worker.live) == {relayed, opening}
    assert worker.live.count() == {"inbound": 1}
    waiting = spawn(worker.live.wait_until_empty(), name="wait")
    for each, left in ((opening, 1), (relayed, 0)):
        worker.live.left(each)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done() is (left == 0)
        assert len(worker.live) == left
    again = crowd(worker, WEB_IP)
    worker.live.left(again[0])
    worker.live.joined(crowd(worker, WEB_IP)[0])
    waiting = spawn(worker.live.wait_until_empty(), name="wait")
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_those_that_are_meant_are_ended_with_the_reason_that_is_given(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[str, Outcome, str]] = []

    def terminate(connection: Connection, outcome: Outcome, message: str) -> None:
        ended.append((connection.client.address, outcome, message))
        worker.live.left(connection)

    monkeypatch.setattr(Connection, "terminate", terminate)
    made = crowd(worker, WEB_IP, STRANGER_IP)
    worker.live.joined(made[1])
    count = await worker.live.terminate(Outcome.DRAINED, "it is over", lambda each: each.client.address == STRANGER_IP)
    assert (count, ended) == (1, [(STRANGER_IP, Outcome.DRAINED, "it is over")])
    assert list(worker.live) == [made[0]]
