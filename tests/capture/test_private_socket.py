"""A socket in a directory of its owner's."""

import socket
import stat
from pathlib import Path

import pytest

from agent.capture import private_socket


def test_it_and_its_directory_are_its_owners_and_a_former_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "own" / "it.sock"
    private_socket.bind(path).close()
    with private_socket.bind(path) as bound:
        bound.listen()
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_where_it_cannot_be_made_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own" / ("x" * 120)
    with pytest.raises(OSError, match="own/xxx"):
        private_socket.bind(path)
