"""What is said of a disk: the kernel's words, the file, and the next step."""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from agent.disk import reason, reason_of_ledger


def test_a_full_disk_is_said_with_its_file_and_what_to_do() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/state/a")
    assert reason(full) == "No space left on device (/state/a): make room there, of bytes and of inodes (df, df -i)"


def test_a_file_where_a_directory_should_be_is_said_as_the_kernel_says_it(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="Not a directory") as caught:
        (tmp_path / "a" / "b").touch()
    assert reason(caught.value) == (
        f"Not a directory ({tmp_path}/a/b): something else than a directory is there: move it away"
    )


def test_what_is_not_known_is_said_without_advice() -> None:
    assert reason(OSError(errno.EPIPE, "Broken pipe")) == "Broken pipe"
    assert reason(OSError("no number")) == "no number"


def test_a_ledger_that_cannot_be_opened_is_said_with_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(tmp_path / "nowhere" / "ledger")
    assert reason_of_ledger(caught.value).startswith("unable to open database file: look whether there is room")


def test_a_ledger_without_room_is_said_as_a_disk_is(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger", isolation_level=None)) as ledger:
        ledger.execute("PRAGMA max_page_count = 2")
        ledger.execute("CREATE TABLE a (b)")
        with pytest.raises(sqlite3.OperationalError) as caught:
            ledger.execute("INSERT INTO a VALUES (?)", (b"x" * 100_000,))
    assert reason_of_ledger(caught.value) == (
        "database or disk is full: make room there, of bytes and of inodes (df, df -i)"
    )


def test_any_other_fault_of_a_ledger_is_no_disks() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as ledger, pytest.raises(sqlite3.Error) as caught:
        ledger.execute("SELECT a FROM nowhere")
    assert reason_of_ledger(caught.value) == "no such table: nowhere"


def test_an_error_without_a_number_is_told_in_its_own_words() -> None:
    error = OSError("AF_UNIX path too long")
    error.filename = "/a/very/long/path"
    assert reason(error) == "AF_UNIX path too long (/a/very/long/path)"
