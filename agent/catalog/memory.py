"""What was last good, across restarts: an agent that starts finds a broken file, and still enforces what it said."""

import logging
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.catalog.standing import Known, Standing
from agent.objects.key import ObjectKey

log = logging.getLogger("quietwire.catalog")


class _Remembered(Struct, frozen=True):
    directory: str
    standing: list[tuple[ObjectKey, Standing]]
    files: tuple[str, ...]
    closing: tuple[str, ...]


class Memory:
    """One file, replaced whole. It only ever stands in for what cannot be read any more."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._directory = str(directory)

    def load(self) -> Known | None:
        """What was remembered for this directory; None where the file is missing, or of another version.

        Without it the agent starts as the first time: what cannot be read then closes every default.
        """
        try:
            found = msgspec.msgpack.decode(self._path.read_bytes(), type=_Remembered)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be used (%s): what was last good before this start is not known", self._path, error)
            return None
        if found.directory != self._directory:
            return None
        return Known(dict(found.standing), found.files, found.closing)

    def save(self, known: Known) -> None:
        """Remembers this. A disk that is full is said, and not fatal: after a restart, what it said before counts."""
        remembered = _Remembered(self._directory, list(known.standing.items()), known.files, known.closing)
        body = msgspec.msgpack.encode(remembered)
        temporary = self._path.with_suffix(".new")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.error(
                "what is in force could not be written to %s (%s): a restart would not know it", self._path, error
            )
