"""What is wrong with a manifest, and where."""

from typing import Any, Protocol

from msgspec import Struct


class Fault(Struct, frozen=True, order=True):
    """A manifest, or one object in it, that cannot be used. `line` counts from 1; 0 means the file as a whole.

    `last_good` says whether an earlier version of it stays in force, `closed` whether something that denies does.
    """

    file: str
    line: int
    object: str
    reason: str
    last_good: bool = False
    closed: bool = False

    def __str__(self) -> str:
        what = f"{self.object}: " if self.object else ""
        kept = "; it is not in force"
        if self.last_good:
            kept = "; its last good version stays in force"
        elif self.closed:
            kept = "; until it is mended, what it should decide is denied"
        return f"{self.file}:{self.line}: {what}{self.reason}{kept}"


class Remark(Struct, frozen=True, order=True):
    """Something in a manifest that is legal and does not do what it seems to: a warning. `line` as for a Fault."""

    file: str
    line: int
    object: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.object}: {self.message}"


class Located(Protocol):
    """A field of a manifest: its line, and its path as in `spec.ports[0].port`."""

    @property
    def line(self) -> int:
        """Counts from 1."""

    @property
    def path(self) -> str:
        """Empty for the document itself."""


class FaultError(Exception):
    """Raised while a manifest is read; becomes a Fault. `at` is the field at fault, or a line.

    `stand_in` is what is in force instead where there is no last good version: it must let in and out less than
    any sound version could.
    """

    def __init__(self, at: Located | int, reason: str, stand_in: Any = None) -> None:
        self.line = at if isinstance(at, int) else at.line
        self.reason = reason if isinstance(at, int) or not at.path else f"{at.path}: {reason}"
        self.stand_in = stand_in
        super().__init__(self.line, self.reason)

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"
