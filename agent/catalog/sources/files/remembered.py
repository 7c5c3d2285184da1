"""What a directory said when it was last good, across restarts."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.memory import Memory
from agent.catalog.standing import Known, Standing
from agent.objects.key import ObjectKey


class _Remembered(Struct, frozen=True):
    directory: str
    standing: list[tuple[ObjectKey, Standing]]
    files: tuple[str, ...]
    closing: tuple[str, ...]


class FilesMemory:
    """One file, for one directory."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._directory = str(directory)
        without = "what cannot be read now closes every default until it is mended"
        self._memory = Memory(path, _Remembered, without)

    def load(self) -> Known | None:
        """What was remembered for this directory, if anything was."""
        found = self._memory.load()
        if found is None or found.directory != self._directory:
            return None
        return Known(dict(found.standing), found.files, found.closing)

    def save(self, known: Known) -> bool:
        """Remembers this; whether it could."""
        return self._memory.save(_Remembered(self._directory, list(known.standing.items()), known.files, known.closing))
