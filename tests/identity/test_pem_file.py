"""What lies where a PEM file should: only a regular one of a sane size is read, and nothing is waited for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.identity import pem_file


def test_a_file_is_read_whole_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * pem_file.MAX_BYTES)
    (tmp_path / "link").symlink_to("file")
    assert pem_file.read(tmp_path / "link") == b"x" * pem_file.MAX_BYTES


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "no regular file"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.write_bytes(b"x" * (pem_file.MAX_BYTES + 1)), "more than 1048576 bytes"),
        (lambda _: None, "No such file"),
    ],
)
def test_anything_else_is_an_error_and_never_a_wait(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "it")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=words) as caught:
        pem_file.read(tmp_path / "it")
    assert caught.value.filename == str(tmp_path / "it"), "whoever reads of it knows which"
    assert os.listdir("/proc/self/fd") == before, "no descriptor is left behind, however often it is tried"
