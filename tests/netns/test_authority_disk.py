"""The authority on a disk that is full, and killed there: nothing is handed out that is not in the ledger."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.authority import control
from agent.authority.ledger import Kind
from agent.tasks import spawn
from tests.authority.running import ELSEWHERE, WEB, Authority, newer, refused

SIZE = "600k"
"""Room for the state of an authority that has just begun, and some."""


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Authority]:
    """One whose state is on a small disk of its own."""
    state = tmp_path / "state"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "quietwire-test", str(state)]
    await asyncio.to_thread(subprocess.run, mount, check=True)
    try:
        made = Authority(tmp_path)
        yield made
        # On a thread: the loop must see that its connections have ended, or they are found unclosed after it.
        await asyncio.to_thread(made.stop, signal.SIGKILL)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(state)], check=True)


def fill(authority: Authority) -> Path:
    """Leaves no byte free."""
    filler = authority.base / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 64, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


async def test_on_a_full_disk_nothing_is_issued_joined_or_revoked_and_all_of_it_when_there_is_room_again(
    authority: Authority,
) -> None:
    client = authority.client()
    await client.issue(WEB)
    token = authority.token("node-b")
    issued = serials(authority)
    filler = fill(authority)
    error = await refused(client.issue(WEB), "not_recorded")
    assert "is the authority's disk full?" in error.message
    await refused(authority.client(token, node="node-b").issue(ELSEWHERE), "not_recorded")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        revoke(authority)
    assert (await newer(authority.client("none"), 0)).revoked_ids == frozenset(), (
        "what is in force is told all the same"
    )
    assert serials(authority) == issued

    authority.stop(signal.SIGKILL)
    authority.start()
    assert authority.said == {}, "its own SVID cannot be recorded, so it does not serve"
    assert "disk full?" in authority.stop()

    filler.unlink()
    authority.start()
    assert (await authority.client(token, node="node-b").issue(ELSEWHERE)).spiffe_id == ELSEWHERE, "it was not used up"
    assert await client.issue(WEB)
    revoke(authority)
    assert await told(authority)
    await refused(client.issue(WEB), "revoked")


def revoke(authority: Authority) -> None:
    book = authority.book()
    try:
        control.revoke(book, Kind.SPIFFE_ID, str(WEB), "leaked", time.time())
    finally:
        book.close()


def serials(authority: Authority) -> set[str]:
    book = authority.book()
    try:
        return {each.serial for each in book.issued()}
    finally:
        book.close()


async def told(authority: Authority) -> bool:
    """Whether the running authority has seen what another process wrote, within a moment."""
    agent = authority.client(node="node-b")
    bundle = await newer(agent, 0)
    return bundle.revokes(WEB, "") or (await newer(agent, bundle.sequence)).revokes(WEB, "")


async def test_killed_again_and_again_while_it_issues_everything_that_was_answered_is_in_the_ledger(
    authority: Authority,
) -> None:
    answered: set[str] = set()
    for _ in range(4):
        client = authority.client()
        for _ in range(5):
            answered.add((await client.issue(WEB)).serial)
        more = [spawn(client.issue(WEB), name="issuing") for _ in range(4)]
        answered.add((await more[0]).serial)
        authority.process.send_signal(signal.SIGKILL)
        for result in await asyncio.gather(*more, return_exceptions=True):
            if not isinstance(result, BaseException):
                answered.add(result.serial)
        # On a thread: the loop must see that its connections have ended, while nothing else is done on it.
        await asyncio.to_thread(authority.stop)
        assert answered <= serials(authority)
        await asyncio.to_thread(authority.start)
