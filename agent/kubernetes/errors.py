"""How a request to the API server can fail.

ApiError
├── Unreachable     nothing came, or not to its end: try again
└── Refused         it answered, and not with what was asked for
"""

import msgspec
from msgspec import Struct

NAMESPACE_TERMINATING = "NamespaceTerminating"
"""A cause, as the API server's admission calls it."""


class ApiError(Exception):
    """What was asked for was not given. `str` says by whom, why, and what helps."""


class Unreachable(ApiError):
    """The API server could not be reached, was not who it should be, or stopped in the middle."""


class Refused(ApiError):
    """The API server's own word: an HTTP status, and a `Status` object's reason and message where there is one."""

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after: float | None = None, causes: tuple[str, ...] = ()
    ) -> None:
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        """Seconds that it asks us to wait."""
        self.causes = causes
        """The reasons of its details' causes."""
        super().__init__(f"the API server answers {status}{f' {reason}' if reason else ''}: {message}")

    @property
    def gone(self) -> bool:
        """What was asked for begins at a version that is forgotten: list anew (API Concepts, "410 Gone responses")."""
        return self.status == 410

    @property
    def not_found(self) -> bool:
        """There is no such object, or no such kind."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """The object is another by now, or is there already."""
        return self.status == 409

    @property
    def terminating(self) -> bool:
        """Nothing is made any more in this namespace: it is being deleted."""
        return self.status == 403 and NAMESPACE_TERMINATING in self.causes


class _Cause(Struct, frozen=True):
    reason: str = ""


class _Details(Struct, frozen=True):
    causes: tuple[_Cause, ...] | None = None


class Status(Struct, frozen=True):
    """meta/v1 Status, what is used of it."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    def error(self, status: int = 0, retry_after: float | None = None) -> Refused:
        """As an exception; `status` is HTTP's, where the object says none."""
        causes = tuple(each.reason for each in (self.details and self.details.causes) or ())
        message = self.message or "no message"
        return Refused(self.code or status, self.reason, message, retry_after=retry_after, causes=causes)


def refused(status: int, body: bytes, retry_after: float | None = None) -> Refused:
    """From an answer."""
    try:
        return msgspec.json.decode(body, type=Status).error(status, retry_after)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = body[:200].decode("utf-8", "replace").strip()
        return Refused(status, "", text or "an empty answer", retry_after=retry_after)
