"""The key that marks are made of, and the marks."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from init.agent_mark import KEY_BYTES, KeyFileError, draw, mark_of, read
from init.constants import MARK_MASK, REPLY_MARK

numbers = st.integers(0, 2**64 - 1)


def test_a_key_is_drawn_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert read(path) is None
    key = draw(path)
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert draw(path) == read(path) == key
    assert draw(tmp_path / "other") != key
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key", "other"]


@pytest.mark.parametrize("spoilt", ["short", "long", "empty", "others may read it", "others may write it", "a link"])
def test_a_key_that_others_know_or_made_is_none_and_is_drawn_anew(tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "key"
    former = draw(path)
    match spoilt:
        case "short" | "long" | "empty":
            path.write_bytes({"short": former[1:], "long": former + b"x", "empty": b""}[spoilt])
        case "others may read it":
            path.chmod(0o640)
        case "others may write it":
            path.chmod(0o602)
        case _:
            path.unlink()
            path.symlink_to(tmp_path / "nowhere")
    assert read(path) is None
    key = draw(path)
    assert key != former
    assert read(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_that_draw_at_once_draw_one_key(tmp_path: Path) -> None:
    # Processes have names of their own for what they write; threads of one would share it.
    found: list[bytes] = []
    children = []
    reads, writes = os.pipe()
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writes, draw(tmp_path / "key"))
            finally:
                os._exit(0)
        children.append(pid)
    os.close(writes)
    for pid in children:
        os.waitpid(pid, 0)
    with os.fdopen(reads, "rb") as said:
        while key := said.read(KEY_BYTES):
            found.append(key)
    assert len(found) == len(children)
    assert set(found) == {read(tmp_path / "key")}


def test_a_key_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no-such-directory/key, the key of the agent's marks, cannot be written"):
        draw(tmp_path / "no-such-directory" / "key")


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), numbers, numbers)
def test_a_mark_is_never_what_everybody_has_and_never_routed_as_a_reply(key: bytes, cookie: int, inode: int) -> None:
    mark = mark_of(key, cookie, inode)
    assert MARK_MASK < mark < 2**32
    assert mark & MARK_MASK != REPLY_MARK
    assert mark == mark_of(key, cookie, inode)


def test_marks_differ_by_key_and_by_namespace() -> None:
    one, other = bytes(KEY_BYTES), bytes([1] * KEY_BYTES)
    marks = {mark_of(key, cookie, inode) for key in (one, other) for cookie in range(50) for inode in range(50)}
    assert len(marks) == 5000
