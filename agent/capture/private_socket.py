"""A Unix socket that only its owner reaches, in a directory that only its owner may enter."""

import os
import socket
from pathlib import Path

from init import on_disk


def bind(path: Path) -> socket.socket:
    """Makes the socket, mode 0600, on which nobody is heard yet. Raises OSError, with the file that it is about.

    One that a dead agent left is replaced, and its directory, 0700, stays.
    """
    on_disk.make_private(path.parent)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    former = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        error.filename = str(path)  # bind(2) names none
        raise
    finally:
        os.umask(former)
    return sock
