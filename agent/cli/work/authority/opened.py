"""The state directory of an authority, opened for one verb; and how what came of it is shown."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book, Revoked
from agent.authority.pki import IssuerError
from agent.authority.rotation import RotationError
from agent.authority.run import SUBDIRECTORY
from agent.authority.store import StoreError
from agent.cli.work.exits import EXIT_FAILED, EXIT_USAGE, fail
from agent.flags import ConfigError
from agent.identity.spiffe import SpiffeIdError


@contextmanager
def opened(state: Path) -> Iterator[tuple[Book, StateDirectory]]:
    """The ledger and the store of an authority; every fault is said, and ends."""
    store = StateDirectory(state / SUBDIRECTORY)
    if not store.exists:
        fail(
            f"{store.directory} holds no authority: start one once (quietwire up, or quietwire authority run), or name "
            f"its --state",
            EXIT_USAGE,
        )
    try:
        book = Book(store.ledger)
    except (sqlite3.Error, OSError) as error:
        fail(f"{store.ledger} cannot be opened: {error}; are you root?", EXIT_FAILED)
    try:
        yield book, store
    except (StoreError, IssuerError, RotationError, Revoked, SpiffeIdError, ConfigError) as error:
        fail(str(error), EXIT_FAILED)
    except (sqlite3.Error, OSError) as error:
        fail(f"{state}: {error}", EXIT_FAILED)
    finally:
        book.close()


def show(value: Any, lines: Callable[[], list[str]], *, as_json: bool) -> None:
    """Prints a value as one JSON document, or as the lines that say it."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines()))
