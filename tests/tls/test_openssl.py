"""OpenSSL as we drive it: what it refuses to be given, what it holds, and whose turn it is."""

import gc

import pytest

from agent.tls._openssl import Context, OpenSslError
from agent.tls.machine import TlsFailure, TlsMachine
from tests.tls.test_machine import (
    ALERT,
    CLIENT,
    PKI,
    SERVER,
    carry,
    ends,
    joined,
    session_of,
)


def test_one_session_serves_many_connections_also_after_one_of_them_was_cut() -> None:
    session = session_of()
    for _ in range(3):
        one, other = joined(session=session)
        assert one.resumed
        one.send(b"half of a record")
        del one, other
        gc.collect()


@pytest.mark.parametrize(
    ("chain", "key", "reason"),
    [
        (b"", SERVER.svid.key_pem, "no certificate"),
        (SERVER.svid.chain_pem, b"", "no start line|unsupported"),
        (SERVER.svid.chain_pem, CLIENT.svid.key_pem, "key values mismatch"),
    ],
)
def test_a_chain_and_a_key_that_do_not_fit_are_refused(chain: bytes, key: bytes, reason: str) -> None:
    with pytest.raises(OpenSslError, match=reason):
        Context(server=True, chain_pem=chain, key_pem=key, anchors_pem=PKI.bundle().anchors_pem, alpn=())


def test_an_idle_connection_costs_no_memory_for_what_it_once_carried() -> None:
    client, server = joined()
    tracked = []
    for _ in range(50):
        client.send(b"x" * 300_000)
        assert len(server.receive(client.outgoing())) == 300_000
        tracked.append(client.outgoing())
    assert set(tracked) == {b""}


def test_connections_take_turns_in_the_midst_of_their_handshakes_and_some_are_dropped_there() -> None:
    """All speak through one BIO: nothing of one must ever be another's."""
    pairs = [ends(session=None if number % 2 else session_of()) for number in range(9)]
    for one, _ in pairs:
        one.start()
    stranger = TlsMachine.server(SERVER.server)
    for step in range(3):
        for number, (one, other) in enumerate(pairs):
            with pytest.raises(TlsFailure):  # each time between two others: its alert and its error are its own
                stranger.receive(b"\x16\x03\x01\x00\x04junk")
            assert stranger.outgoing().startswith(ALERT)
            stranger = TlsMachine.server(SERVER.server)
            receiver, sender = (one, other) if step == 1 else (other, one)
            if (number + step) % 4 != 0:  # these are dropped, at this step or at that
                receiver.receive(sender.outgoing())
        pairs = [pair for number, pair in enumerate(pairs) if (number + step) % 4 != 0]
    assert len(pairs) >= 3
    for number, (one, other) in enumerate(pairs):
        assert one.handshake_complete
        assert other.handshake_complete
        one.send(b"from %d" % number)
    for number, (_, other) in enumerate(pairs):
        other.send(b"to %d" % number)
    for number, (one, other) in enumerate(pairs):
        assert carry(one, other) == (b"to %d" % number, b"from %d" % number)
