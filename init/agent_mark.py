"""The mark by which a pod's rules know what the agent itself dials.

Whoever has NET_RAW may set any mark on its own sockets (SO_MARK, Linux 5.17), and container runtimes grant that to
everybody: so the mark is a number that nobody in the pod knows. It is made from a key that the agent draws
once per boot and from the namespace, so that what one pod's administrator reads in its rules opens no other pod. The
rules take it off each packet before anything in the pod can look at it (`init.model`).
"""

import hashlib
import hmac
import os
import stat
from pathlib import Path

from init import on_disk
from init.constants import MARK_MASK, REPLY_MARK
from init.kernel import cookie, inode

KEY_FILE = Path("/run/quietwire.key")
"""Beside the run directory, of which pods may be given a part, and gone with the boot like the namespaces themselves.
One for all agents of a machine, and kept across their restarts: rules in force stay right."""
KEY_BYTES = 32


class KeyFileError(OSError):
    """The key can neither be read nor made; `str` says why."""


def read(path: Path = KEY_FILE) -> bytes | None:
    """The key, or None where the caller may not read it, or there is none that others could not read or write.

    None fails closed: rules without the mark except nothing from capture, and nothing can be dialled past them.
    """
    try:
        with open(path, "rb", opener=on_disk.without_waiting) as file:
            status = os.fstat(file.fileno())
            key = file.read(KEY_BYTES + 1)
    except OSError:
        return None
    private = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077 and status.st_uid == os.geteuid()
    return key if private and len(key) == KEY_BYTES else None


def draw(path: Path = KEY_FILE) -> bytes:
    """The key that is there, or a new one where there is none to be trusted. Raises KeyFileError."""
    known = read(path)
    if known is not None:
        return known
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(os.urandom(KEY_BYTES))
            try:
                os.link(temporary, path)
            except FileExistsError:
                if read(path) is None:  # no key, or others know it; else another agent of this machine was faster
                    temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(f"{path}, the key of the agent's marks, cannot be written: {error.strerror}") from error
    drawn = read(path)
    if drawn is None:
        raise KeyFileError(f"{path}, the key of the agent's marks, cannot be read back; does something else write it?")
    return drawn


def mark_of_namespace(key: bytes) -> int:
    """The agent's mark in the network namespace of the calling thread: 32 bits, and none that routes replies."""
    return mark_of(key, cookie(), inode())


def mark_of(key: bytes, namespace_cookie: int, namespace_inode: int) -> int:
    """The same for a namespace by its numbers. Pure."""
    named = f"mark {namespace_cookie} {namespace_inode}".encode()
    mark = int.from_bytes(hmac.digest(key, named, hashlib.sha256)[:4], "big")
    if mark <= MARK_MASK:
        mark += MARK_MASK + 1  # never 0, which everybody has
    return mark ^ 1 if mark & MARK_MASK == REPLY_MARK else mark
