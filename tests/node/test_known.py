"""What an agent knows of its cluster: told to workers first, and said within bounds."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.catalog.remarks import MAX_SAID
from agent.catalog.snapshot import CatalogChange
from agent.link.messages import ChangeCatalog, SetNodeAddresses
from agent.manifests.fault import Fault
from agent.manifests.origin import Origin
from agent.node import known as module
from agent.node.known import Known
from agent.objects.model import MeshSettings, Pod
from agent.tasks import spawn
from tests.node.config import config


class Told:
    """What workers were told, and how often something changed."""

    def __init__(self, directory: Path) -> None:
        self.messages: list[msgspec.Struct] = []
        self.changes = 0
        self.known = Known(config(directory), tell=self.messages.append, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def pod(name: str, node: str = "node-a", *, meshed: bool = True) -> Pod:
    return Pod("demo", name, name, node, ("192.0.2.1",), settings=MeshSettings(injected=meshed))


def test_a_nodes_pods_are_meshed_or_not_and_others_are_neither(told: Told) -> None:
    pods = (pod("in"), pod("out", meshed=False), pod("elsewhere", "node-b"))
    told.known.take(CatalogChange(1, pods), ())
    assert [[each.name for each in some] for some in (told.known.meshed, told.known.unmeshed)] == [["in"], ["out"]]
    told.known.take(CatalogChange(2, gone=(pods[0].object_key,)), ())
    assert told.known.meshed == []
    assert told.changes == 2


def test_addresses_of_the_node_are_told_and_go_into_its_policy(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(told.known.policy, "set_node_addresses", given.append)
    told.known.take_node_addresses(("192.0.2.9",))
    assert told.messages == [SetNodeAddresses(("192.0.2.9",))]
    assert given == [("192.0.2.9",)]
    assert (told.known.node_addresses, told.changes) == (("192.0.2.9",), 1)


def test_workers_are_told_of_a_change_whatever_goes_wrong_with_it_here(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: CatalogChange) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(told.known.policy, "apply", fails)
    change = CatalogChange(1, (pod("in"),))
    with pytest.raises(ZeroDivisionError):
        told.known.take(change, ())
    assert told.messages == [ChangeCatalog(change)]


def test_of_a_hundred_thousand_faults_the_log_has_some_and_their_number(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    faults = tuple(Fault(Origin("many.yaml", line), "", "no kind") for line in range(100_000))
    told.known.take(None, faults)
    assert len(caplog.messages) == MAX_SAID + 1
    assert "99900 more manifests are refused" in caplog.messages[-1]
    caplog.clear()
    told.known.take(None, ())
    assert len(caplog.messages) == MAX_SAID + 1
    assert "99900 more manifests are fine again" in caplog.messages[-1]


async def test_advice_about_policy_is_nothing_that_the_agent_cannot_be_without(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()

    def odd(*_: object) -> object:
        loop.call_soon_threadsafe(asked.set)
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(module, "findings", odd)
    task = spawn(told.known.look_for_oddities(), name="policy warnings")
    for _ in range(2):
        asked.clear()
        told.known._policy_changed.set()
        async with asyncio.timeout(10):
            await asked.wait()
    assert not task.done()
    assert "could not be looked through" in caplog.text
    task.cancel()
