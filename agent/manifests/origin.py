"""Where an object was read."""

from msgspec import Struct


class Origin(Struct, frozen=True, order=True):
    """A file and a line of it, from 1 on; line 0 is the file as a whole. Without a file: an object of an API server.

    An API's objects have no lines: their own name says where they are, and a fault's reason begins with the path of the
    field (`spec.ports[0].port`).
    """

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """As compilers write it, so that editors find it."""
        return f"{self.file}:{self.line}" if self.file else "the API server"
