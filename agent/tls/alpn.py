"""Application protocols on mesh ports: RFC 7301. Agents speak `quietwire/1`; tools and plain clients are served too."""

from enum import Enum
from typing import Final, Literal

MESH: Final = "quietwire/1"
SERVED: Final = (MESH, "http/1.1", "h2")
"""In the server's order of preference."""

SERVED_BYTES = tuple(name.encode() for name in SERVED)


class _Refused(Enum):
    REFUSED = "refused"


REFUSED: Final = _Refused.REFUSED
"""The client offers protocols, and none of ours: CPython's server would go on without ALPN, RFC 7301 forbids it."""


def choose(offered: tuple[bytes, ...]) -> bytes | Literal[_Refused.REFUSED] | None:
    """The protocol that is served; None where the client offers no ALPN at all."""
    if not offered:
        return None
    return next((name for name in SERVED_BYTES if name in offered), REFUSED)
