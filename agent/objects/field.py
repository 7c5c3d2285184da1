"""A value of a document with its place, and the accessors that decoders read it by."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Located(Protocol):
    """A field of a manifest: its line, and its path as in `spec.ports[0].port`."""

    @property
    def line(self) -> int:
        """Counts from 1."""

    @property
    def path(self) -> str:
        """Empty for the document itself."""


class FaultError(Exception):
    """Raised while a manifest is read; becomes a Fault. `at` is the field at fault, or a line: then `path` is empty.

    `stand_in` is what is in force instead where there is no last good version: it must let in and out less than
    any sound version could.
    """

    def __init__(self, at: Located | int, reason: str, stand_in: Any = None) -> None:
        self.line = at if isinstance(at, int) else at.line
        self.path = "" if isinstance(at, int) else at.path
        self.reason = reason if isinstance(at, int) or not at.path else f"{at.path}: {reason}"
        self.stand_in = stand_in
        super().__init__(self.line, self.reason)

    def with_stand_in(self, stand_in: Any) -> "FaultError":
        """The same fault, with what is in force instead."""
        made = FaultError(self.line, self.reason, stand_in)
        made.path = self.path
        return made

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class Field:
    """One value, its line and its path (`spec.ports[0].port`); mappings hold Fields, and so do sequences."""

    __slots__ = ("line", "path", "value")

    def __init__(self, value: Any, line: int, path: str = "") -> None:
        self.value = value
        self.line = line
        self.path = path

    def get(self, *path: str) -> "Field":
        """The field at a path of keys; a Field of None, on the nearest line that exists, where there is none.

        Raises FaultError where something on the way is no mapping.
        """
        here = self
        for key in path:
            if here.value is not None and not isinstance(here.value, dict):
                raise FaultError(here, f"a mapping with {key!r} is expected here, not {_kind(here.value)}")
            found = None if here.value is None else here.value.get(key)
            here = Field(None, here.line, f"{here.path}.{key}" if here.path else key) if found is None else found
        return here

    def text(self, default: str | None = None) -> str:
        """A string. Raises FaultError where it is something else, or missing with no default."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise FaultError(self, f"a string is expected here, not {_kind(self.value)}")
        return self.value

    def items(self) -> Iterator["Field"]:
        """The elements of a sequence; none where it is missing."""
        if self.value is None:
            return iter(())
        if not isinstance(self.value, list):
            raise FaultError(self, f"a list is expected here, not {_kind(self.value)}")
        return iter(self.value)

    def mapping(self) -> dict[str, "Field"]:
        """A mapping; empty where it is missing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise FaultError(self, f"a mapping is expected here, not {_kind(self.value)}")
        return self.value

    def texts(self) -> dict[str, str]:
        """A mapping of strings to strings, as labels and annotations are."""
        return {key: field.text() for key, field in self.mapping().items()}

    def flag(self, *, default: bool) -> bool:
        """A boolean."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise FaultError(self, f"true or false is expected here, not {_kind(self.value)}")
        return self.value

    def port(self) -> int:
        """A TCP port number, 1 to 65535."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not 1 <= self.value <= 65535:
            raise FaultError(self, f"a port number from 1 to 65535 is expected here, not {_kind(self.value)}")
        return self.value


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)[:60]


def readable(read: Callable[[], T], otherwise: T) -> T:
    """What `read` gives, or what is to be taken where it finds a fault."""
    try:
        return read()
    except FaultError:
        return otherwise
