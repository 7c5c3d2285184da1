"""The root's rotation, by hand."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.authority import control
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book
from agent.cli.work.authority.looking import status_lines
from agent.cli.work.authority.opened import opened, show


def start(state: Path, *, auto: bool, as_json: bool) -> None:
    """Makes a new root; with `auto`, the authority walks through all stages by itself."""
    _rotated("started", state, partial(control.start, auto=auto), as_json=as_json)


def advance(state: Path, *, force: bool, as_json: bool) -> None:
    """Goes to the next stage; with `force`, past agents that have not confirmed."""
    _rotated("advanced", state, partial(control.advance, force=force), as_json=as_json)


def abort(state: Path, *, as_json: bool) -> None:
    """Goes back to the root from before."""
    _rotated("aborted", state, control.abort, as_json=as_json)


def _rotated(verb: str, state: Path, work: Callable[[Book, StateDirectory, float], None], *, as_json: bool) -> None:
    with opened(state) as (book, store):
        work(book, store, time.time())
        found = control.status(book, store, time.time())
        show(found, lambda: [f"{verb}: now in stage {found.stage}", *status_lines(found)], as_json=as_json)
