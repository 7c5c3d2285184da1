"""Which sessions a client remembers."""

from agent.identity.spiffe import SpiffeId
from agent.tls._openssl import Session
from agent.tls.sessions import SessionCache


def test_the_session_not_used_for_longest_makes_room() -> None:
    cache = SessionCache(limit=2)
    ids = [SpiffeId("example.test", f"/{name}") for name in "abc"]
    sessions = [Session() for _ in ids]
    cache.put(ids[0], "192.0.2.1", sessions[0])
    cache.put(ids[1], "192.0.2.1", sessions[1])
    assert cache.get(ids[0], "192.0.2.1") is sessions[0]
    cache.put(ids[2], "192.0.2.1", sessions[2])
    assert cache.get(ids[1], "192.0.2.1") is None
    assert cache.get(ids[0], "192.0.2.1") is sessions[0]
    assert cache.get(ids[0], "192.0.2.2") is None
    assert len(cache) == 2
