"""The embedded store: a state directory, with a ledger in SQLite. For one authority at a time."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book
from agent.authority.store import StoreUnavailableError

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore:
    """The book on a thread of its own. The command line may have it open too: SQLite keeps the two apart."""

    def __init__(self, directory: StateDirectory) -> None:
        self.keys = directory
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        try:
            self._book = self._executor.submit(Book, directory.ledger).result()
        except BaseException:
            self._executor.shutdown()
            raise

    async def do(self, work: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See Store."""
        return await self._called(lambda: work(self._book, *args, **kwargs))

    async def changes(self) -> object:
        """See Store. Raises LedgerReplacedError too."""
        return await self._called(self._book.changes)

    async def refresh(self) -> None:
        """See Store: there is nobody who could have kept something to himself."""

    async def close(self) -> None:
        """See Store."""
        self._executor.submit(self._book.close).result()
        self._executor.shutdown()

    async def _called(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except sqlite3.Error as error:
            raise StoreUnavailableError(str(error)) from error
