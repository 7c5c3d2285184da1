"""The embedded store keeps what every store keeps; and what its own is."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book
from agent.authority.sqlite_store import SqliteStore
from agent.authority.store import Store, StoreUnavailableError
from tests.authority.running import TD
from tests.authority.store_contract import SCENARIOS, Opened, Scenario


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    stores: list[SqliteStore] = []

    async def another() -> Store:
        directory = StateDirectory(tmp_path)
        directory.prepare(TD)
        stores.append(SqliteStore(directory))
        return stores[-1]

    yield another
    for store in stores:
        await store.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.__name__ for each in SCENARIOS])
async def test_every_stores_promises(opened: Opened, scenario: Scenario) -> None:
    await scenario(opened)


async def test_what_sqlite_cannot_do_is_said_as_what_any_store_could_not(opened: Opened) -> None:
    store = await opened()
    with pytest.raises(StoreUnavailableError, match="nothing has been published yet") as caught:
        await store.do(Book.publish, None, 1.0)
    assert isinstance(caught.value.__cause__, sqlite3.Error)


async def test_a_directory_that_is_none_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SqliteStore(StateDirectory(tmp_path / "nowhere"))
