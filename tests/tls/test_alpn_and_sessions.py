"""Which protocol is served, and which sessions are remembered."""

import pytest

from agent.identity.spiffe import SpiffeId
from agent.tls import alerts, alpn
from agent.tls._openssl import Session
from agent.tls.sessions import SessionCache


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), None),
        ((b"quietwire/1",), b"quietwire/1"),
        ((b"h2", b"http/1.1"), b"http/1.1"),
        ((b"h2",), b"h2"),
        ((b"foreign", b"h2"), b"h2"),
        ((b"h2", b"quietwire/1"), b"quietwire/1"),
        ((b"foreign",), alpn.REFUSED),
        ((b"quietwire/10", b"QUIETWIRE/1"), alpn.REFUSED),
    ],
)
def test_the_servers_preference_decides_and_foreign_lists_are_refused(
    offered: tuple[bytes, ...], chosen: object
) -> None:
    assert alpn.choose(offered) == chosen


def test_the_alert_is_the_one_of_rfc_7301() -> None:
    assert bytes.fromhex("15030300020278") == alerts.NO_APPLICATION_PROTOCOL
    assert bytes.fromhex("15030300020246") == alerts.PROTOCOL_VERSION


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
