"""What is wrong with a manifest, and where."""

from msgspec import Struct

from agent.manifests.origin import Origin


class Fault(Struct, frozen=True, order=True):
    """A manifest, or one object in it, that cannot be used.

    `last_good` says whether an earlier version of it stays in force, `closed` whether something that denies does.
    """

    origin: Origin
    object: str
    reason: str
    last_good: bool = False
    closed: bool = False

    def __str__(self) -> str:
        what = f"{self.object}: " if self.object and self.object != self.origin.object else ""
        return f"{self.origin}: {what}{self.reason}{self.consequence}"

    @property
    def consequence(self) -> str:
        """What holds until it is mended, to follow the reason."""
        if self.last_good:
            return "; its last good version stays in force"
        if self.closed:
            return "; until it is mended, what it should decide is denied"
        return "; it is not in force"


class Remark(Struct, frozen=True, order=True):
    """Something in a manifest that is legal and does not do what it seems to: a warning."""

    origin: Origin
    object: str
    message: str

    def __str__(self) -> str:
        what = f"{self.object}: " if self.object != self.origin.object else ""
        return f"{self.origin}: {what}{self.message}"
