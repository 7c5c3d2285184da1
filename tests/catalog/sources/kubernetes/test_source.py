"""What a source does when a part of it dies; tests/kubernetes/test_source.py tries all else on a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.catalog.sources.kubernetes.remembered import ClusterMemory
from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.catalog.sources.kubernetes.standing import Held
from agent.kubernetes.access import Access
from agent.kubernetes.client import JSON, NO_QUERY, Client, Query
from agent.objects.decode import RawNamespace
from agent.objects.key import ObjectKey
from agent.tasks import spawn

SOURCE = "agent.catalog.sources.kubernetes.source"
KNOWN = {ObjectKey("Namespace", "", "demo"): Held(RawNamespace("demo", {}), "u-1")}


class Server(Client):
    """One that answers nothing for ever, but about pods: there a fault of ours is met."""

    def __init__(self) -> None:
        super().__init__(Access("192.0.2.1", 6443))

    async def get(self, path: str, query: Query = NO_QUERY, *, accept: str = JSON) -> bytes:
        return b'{"major":"1","minor":"36"}'

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, query: Query, *, accept: str = JSON, silent_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if path == "/api/v1/pods":
            raise ZeroDivisionError
        await asyncio.Event().wait()
        yield self._nothing()

    @staticmethod
    async def _nothing() -> AsyncIterator[bytes]:
        nothing: tuple[bytes, ...] = ()
        for line in nothing:
            yield line


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{SOURCE}.WAITING_SAID_SECONDS", 0.0)
    monkeypatch.setattr(f"{SOURCE}.MEMORY_AFTER_SECONDS", 0.0)


async def test_a_source_that_starts_ends_by_what_a_part_of_it_died_of() -> None:
    source = KubernetesSource(Server(), lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        await source.start()


async def test_one_that_goes_by_what_is_remembered_does_not_go_on_half_alive(tmp_path: Path) -> None:
    memory = ClusterMemory(tmp_path / "known", "here")
    assert memory.save(KNOWN)
    source = KubernetesSource(Server(), lambda *_: None, memory)
    await source.start()
    assert source.state.remembered
    running = spawn(source.run(), name="source")
    with pytest.raises(ZeroDivisionError):
        await running
