"""Files and directories of our own: never written through a link, never waited for.

Whoever can lay a link where we write chooses which file of the host is overwritten, and a FIFO or a device where we
read holds us up for ever. Only root can in the directories that we make; in those that we are given, who knows.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

PRIVATE = 0o600


def replace(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Puts a new file of mode 0600 in a path's place, whole or not at all; `durable`: also after a power cut.

    It is made anew and never opened. Raises OSError, with the file, and leaves nothing behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(fd)
        temporary.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()  # half of it, on a disk that has no room
        error.filename = str(path)  # write(2) names none
        raise
    if durable:
        _sync(path.parent)


def read(path: Path, at_most: int | None = None) -> bytes:
    """What a regular file holds, also behind a link. Raises OSError where it is none, or has more bytes than that."""
    fd = without_waiting(path)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # of a directory no file object can be made, which would close it
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(-1 if at_most is None else at_most + 1)
    finally:
        os.close(fd)
    if at_most is not None and len(data) > at_most:
        raise OSError(errno.EFBIG, f"it has more than {at_most} bytes", str(path))
    return data


def without_waiting(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Opens a file at once, where a FIFO would be waited for; as an `opener`, too. Raises OSError."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def make_private(directory: Path) -> None:
    """Makes a directory, or makes one that is there ours alone. Raises OSError where it is a link or another user's."""
    directory.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(fd).st_uid
        if owner != os.geteuid():
            raise PermissionError(
                errno.EPERM,
                f"{directory} is of user {owner}, who could put something else in the place of what is the agent's: "
                f"remove it",
            )
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
