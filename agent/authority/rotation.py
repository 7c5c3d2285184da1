"""The root's rotation, in stages. Pure: a frozen state, and what each verb makes of it.

    none        one root is trusted, and the issuer is under it
    distribute  a second root is in the bundle; nothing is signed under it until every agent trusts it
    switch      the issuer is under the second root; the first stays in the bundle until nothing unexpired is under it

`advance` goes from stage to stage and ends in `none` with the second root alone. `abort` goes back: from
`distribute` at once; from `switch` by the same way in the other direction, because SVIDs under the second root live.
"""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace


class Stage(StrEnum):
    """Where a rotation stands."""

    NONE = "none"
    DISTRIBUTE = "distribute"
    SWITCH = "switch"


class RotationError(Exception):
    """The verb cannot be carried out now; `str` says why and what can."""


class Rotation(Struct, frozen=True):
    """Roots are numbered from 1, each with an issuer of the same number under it."""

    stage: Stage = Stage.NONE
    root: int = 1
    """The root that is trusted in any case: the former one during a rotation."""
    next_root: int | None = None
    issuer: int = 1
    latest: int = 1
    """The highest number that was ever given; none is used twice."""
    since: float = 0.0
    """When the stage began, POSIX seconds."""
    auto: bool = False
    """Advance as soon as nothing holds it back."""

    @property
    def anchors(self) -> tuple[int, ...]:
        """The roots in the bundle."""
        return (self.root,) if self.next_root is None else (self.root, self.next_root)


def first(now: float) -> Rotation:
    """The state of an authority that has just been made."""
    return Rotation(since=now)


def start(rotation: Rotation, now: float, *, auto: bool) -> Rotation:
    """A new root joins the bundle. Raises RotationError."""
    if rotation.stage is not Stage.NONE:
        raise RotationError(f"a rotation is in stage {rotation.stage} already: advance or abort it")
    number = rotation.latest + 1
    return replace(rotation, stage=Stage.DISTRIBUTE, next_root=number, latest=number, since=now, auto=auto)


def advance(rotation: Rotation, now: float) -> Rotation:
    """The next stage. Whether something holds it back is the caller's to ask. Raises RotationError."""
    match rotation.stage, rotation.next_root:
        case Stage.DISTRIBUTE, int(number):
            return replace(rotation, stage=Stage.SWITCH, issuer=number, since=now)
        case Stage.SWITCH, int():
            return replace(rotation, stage=Stage.NONE, root=rotation.issuer, next_root=None, since=now, auto=False)
        case _:
            raise RotationError("no rotation is under way: start one")


def abort(rotation: Rotation, now: float) -> Rotation:
    """The way back. Raises RotationError."""
    match rotation.stage, rotation.next_root:
        case Stage.DISTRIBUTE, int():
            return replace(rotation, stage=Stage.NONE, next_root=None, since=now, auto=False)
        case Stage.SWITCH, int(number):
            # The former root issues again, and the other one leaves when nothing unexpired is under it.
            back = rotation.root if rotation.issuer == number else number
            return replace(rotation, issuer=back, root=rotation.issuer, next_root=back, since=now)
        case _:
            raise RotationError("no rotation is under way: there is nothing to abort")
