"""What was last good, across restarts: an agent that starts without its source still enforces what it knew."""

import hashlib
import logging
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from agent import disk
from init import on_disk

log = logging.getLogger("quietwire.catalog")

VERSION = b"quietwire last-good 1\n"
"""What the file begins with, before the SHA-256 of the rest and the rest. Another number, where fields that stay come
to mean something else."""
DIGEST_BYTES = 32


T = TypeVar("T", bound=msgspec.Struct)


class _UnusableError(ValueError):
    """The file is not what was written, or was written by another version; `str` says which."""


class Memory(Generic[T]):
    """One file, replaced whole. It only ever stands in for what cannot be read any more.

    `without` says for people what its loss means.
    """

    def __init__(self, path: Path, kind: type[T], without: str) -> None:
        self._path = path
        self._kind = kind
        self._without = without
        self._unwritten = ""
        """Why it could not be written the last time."""

    def load(self) -> T | None:
        """What was remembered; None where the file is missing, damaged, or of another version.

        Without it the agent starts as the first time, which is the safe side: what is not known is closed, or waits.
        """
        try:
            return _decode(on_disk.read(self._path), self._kind)
        except FileNotFoundError:
            return None
        except (OSError, _UnusableError) as error:
            log.warning(
                "%s cannot be used (%s): what was last good before this start is not known, so %s. The file is written "
                "anew",
                self._path,
                error,
                self._without,
            )
            return None

    def save(self, known: T) -> bool:
        """Remembers this; whether it could. A disk that is full is said, once, and not fatal."""
        body = msgspec.msgpack.encode(known)
        try:
            on_disk.replace(self._path, VERSION + hashlib.sha256(body).digest() + body, durable=True)
        except OSError as error:
            reason = disk.reason(error)
            if reason != self._unwritten:
                log.error(
                    "what is in force could not be written to %s (%s). Until it can, which is tried again and again, a "
                    "restart knows what it said before",
                    self._path,
                    reason,
                )
            self._unwritten = reason
            return False
        if self._unwritten:
            log.info("%s is written again", self._path)
        self._unwritten = ""
        return True


def _decode(data: bytes, kind: type[T]) -> T:
    """Raises _UnusableError."""
    if not data.startswith(VERSION):
        raise _UnusableError("it is of another version, or cut off" if data else "it is empty")
    digest, body = data[len(VERSION) :][:DIGEST_BYTES], data[len(VERSION) + DIGEST_BYTES :]
    if hashlib.sha256(body).digest() != digest:
        raise _UnusableError("it is damaged: its checksum is not that of what it says")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise _UnusableError(f"it is of another version: {error}") from error
