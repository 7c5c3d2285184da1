"""What is wrong with a manifest, and where."""

from msgspec import Struct


class Fault(Struct, frozen=True, order=True):
    """A manifest, or one object in it, that cannot be used. `line` counts from 1; 0 means the file as a whole.

    `last_good` says whether an earlier version of it stays in force.
    """

    file: str
    line: int
    object: str
    reason: str
    last_good: bool = False

    def __str__(self) -> str:
        what = f"{self.object}: " if self.object else ""
        kept = "; its last good version stays in force" if self.last_good else "; it is not in force"
        return f"{self.file}:{self.line}: {what}{self.reason}{kept}"


class FaultError(Exception):
    """Raised while a manifest is read; becomes a Fault."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"
