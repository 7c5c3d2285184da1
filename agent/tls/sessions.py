"""TLS sessions of one client context, kept for resumption: RFC 8446, section 2.2 (psk_dhe_ke)."""

from collections import OrderedDict

from agent.identity.spiffe import SpiffeId
from agent.tls._openssl import Session

MAX_SESSIONS = 1024
"""Destinations that are remembered per source identity; the one not used for longest makes room."""


class SessionCache:
    """The newest session per destination identity and address."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self._sessions: OrderedDict[tuple[SpiffeId, str], Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, destination: SpiffeId, address: str) -> Session | None:
        """The session for a destination. It stays, because many connections may open before a new ticket comes."""
        key = (destination, address)
        session = self._sessions.get(key)
        if session is not None:
            self._sessions.move_to_end(key)
        return session

    def put(self, destination: SpiffeId, address: str, session: Session) -> None:
        """Remembers a newer session."""
        self._sessions[destination, address] = session
        self._sessions.move_to_end((destination, address))
        if len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)
