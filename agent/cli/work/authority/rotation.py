"""The root's rotation, by hand."""

import time
from collections.abc import Callable
from functools import partial

from agent.authority import control
from agent.authority.ledger import Book
from agent.authority.store import Keys
from agent.cli.authority.flags import Where
from agent.cli.work.authority.looking import status_lines
from agent.cli.work.authority.opened import opened, show


def start(where: Where, *, auto: bool, as_json: bool) -> None:
    """Makes a new root; with `auto`, the authority walks through all stages by itself."""
    _rotated("started", where, partial(control.start, auto=auto), as_json=as_json)


def advance(where: Where, *, force: bool, as_json: bool) -> None:
    """Goes to the next stage; with `force`, past agents that have not confirmed."""
    _rotated("advanced", where, partial(control.advance, force=force), as_json=as_json)


def abort(where: Where, *, as_json: bool) -> None:
    """Goes back to the root from before."""
    _rotated("aborted", where, control.abort, as_json=as_json)


def _rotated(verb: str, where: Where, work: Callable[[Book, Keys, float], None], *, as_json: bool) -> None:
    with opened(where) as authority:
        authority.do(work, authority.keys, time.time())
        found = authority.do(control.status, authority.keys, time.time(), files=authority.files)
        show(found, lambda: [f"{verb}: now in stage {found.stage}", *status_lines(found)], as_json=as_json)
