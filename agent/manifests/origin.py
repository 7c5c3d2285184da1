"""Where an object was read."""

from typing import Any

from msgspec import Struct


class Origin(Struct, frozen=True, order=True):
    """A file and a line of it, from 1 on; line 0 is the file as a whole. Without a file: an object of an API server.

    That one is called as an ObjectKey prints it, in the version in which it was read; `uid` tells it from others of its
    name, and `path` is the field at fault (`spec.ports[0].port`), empty for the object itself: an API's objects have no
    lines.
    """

    file: str = ""
    line: int = 0
    object: str = ""
    path: str = ""
    uid: str = ""
    api_version: str = ""

    def __str__(self) -> str:
        """As compilers write it, so that editors find it; or the object's name."""
        return f"{self.file}:{self.line}" if self.file else self.object

    @property
    def fields(self) -> dict[str, Any]:
        """For a line of the log, or JSON."""
        if self.file:
            return {"file": self.file, "line": self.line}
        return {"object": self.object, "path": self.path}
