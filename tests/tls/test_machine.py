"""The TLS machine: two ends joined by arbitrary chunking give the same bytes, and nothing else ever does."""

import itertools
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outcome import Outcome
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsFailure, TlsMachine
from tests.tls.pki import Pki

PKI = Pki()
SERVER = Contexts(PKI.svid("server"), PKI.bundle())
CLIENT = Contexts(PKI.svid("client"), PKI.bundle())


def ends(
    client: Contexts = CLIENT, server: Contexts = SERVER, session: ssl.SSLSession | None = None
) -> tuple[TlsMachine, TlsMachine]:
    return TlsMachine.client(client.client, "server.test", session), TlsMachine.server(server.server)


def carry(one: TlsMachine, other: TlsMachine) -> tuple[bytes, bytes]:
    """Carries bytes both ways until nothing moves; what each end received."""
    got_one, got_other = b"", b""
    while True:
        there, back = one.outgoing(), other.outgoing()
        if not there and not back:
            return got_one, got_other
        if there:
            got_other += other.receive(there)
        if back:
            got_one += one.receive(back)


def joined(
    client: Contexts = CLIENT, server: Contexts = SERVER, session: ssl.SSLSession | None = None
) -> tuple[TlsMachine, TlsMachine]:
    one, other = ends(client, server, session)
    one.start()
    carry(one, other)
    assert one.handshake_complete
    assert other.handshake_complete
    return one, other


def chunks(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


def test_both_ends_see_each_others_certificate_and_speak_tls_1_3() -> None:
    client, server = joined()
    assert client.peer_certificate == ssl.PEM_cert_to_DER_cert(
        SERVER.svid.chain_pem.decode().split("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    assert server.peer_certificate is not None
    assert client.alpn == server.alpn == "quietwire/1"
    assert (client.cipher or "").startswith("TLS_")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=40000), max_size=5),
    st.lists(st.binary(min_size=1, max_size=40000), max_size=5),
    st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    st.booleans(),
)
def test_arbitrary_chunking_gives_the_same_bytes_both_ways(
    up: list[bytes], down: list[bytes], cuts: list[int], client_first: bool
) -> None:
    client, server = ends()
    sizes = itertools.cycle(cuts)
    received = {"up": b"", "down": b""}

    def move() -> None:
        while True:
            there = client.outgoing()
            for piece in chunks(there, sizes):
                received["up"] += server.receive(piece)
            back = server.outgoing()
            for piece in chunks(back, sizes):
                received["down"] += client.receive(piece)
            if not there and not back:
                return

    client.start()
    move()
    for message in up:
        client.send(message)
    for message in down:
        server.send(message)
    closes = (client, server) if client_first else (server, client)
    closes[0].close()
    move()
    closes[1].close()
    move()
    assert received == {"up": b"".join(up), "down": b"".join(down)}
    assert client.peer_closed
    assert server.peer_closed
    client.receive_eof()
    server.receive_eof()


def test_one_direction_ends_and_the_other_goes_on() -> None:
    client, server = joined()
    client.send(b"the question")
    client.close()
    assert carry(client, server)[1] == b"the question"
    assert server.peer_closed
    assert not client.peer_closed
    server.send(b"a long answer" * 5000)
    assert carry(client, server)[0] == b"a long answer" * 5000
    server.close()
    carry(client, server)
    assert client.peer_closed


def test_an_end_at_any_byte_before_close_notify_is_truncation() -> None:
    client, server = joined()
    client.send(b"all of this")
    client.close()
    stream = client.outgoing()
    received = b""
    for at in range(len(stream)):
        with pytest.raises(TlsFailure) as caught:
            server.receive_eof()
        assert caught.value.outcome is Outcome.TRUNCATED, at
        received += server.receive(stream[at : at + 1])
    assert received == b"all of this"
    server.receive_eof()


def received_or_failed(server: TlsMachine, stream: bytes) -> bytes | Outcome:
    try:
        return server.receive(stream)
    except TlsFailure as failure:
        return failure.outcome


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_corrupted_byte_never_becomes_other_plaintext(place: int, change: int) -> None:
    client, server = joined()
    client.send(b"what was really sent")
    stream = bytearray(client.outgoing())
    stream[place % len(stream)] ^= change
    assert received_or_failed(server, bytes(stream)) in {
        b"",  # a length that grew waits for more
        Outcome.HANDSHAKE_FAILED,
        Outcome.REFUSED_BY_PEER,
        Outcome.CLIENT_HELLO_MALFORMED,
    }


def test_a_session_is_resumed_and_shows_the_client_certificate_again() -> None:
    client, server = joined()
    server.send(b"x")
    carry(client, server)
    assert client.session is not None
    assert client.session.has_ticket
    again, other = joined(session=client.session)
    assert again.resumed
    assert other.resumed
    assert other.peer_certificate == server.peer_certificate


def test_sessions_die_with_their_contexts() -> None:
    client, server = joined()
    server.send(b"x")
    carry(client, server)
    renewed = Contexts(SERVER.svid, PKI.bundle(sequence=2))
    again, other = joined(server=renewed, session=client.session)
    assert not again.resumed
    assert not other.resumed


@pytest.mark.parametrize(
    ("client", "outcome"),
    [
        (Contexts(Pki().svid("client"), PKI.bundle()), Outcome.CERTIFICATE_UNTRUSTED),
        (Contexts(PKI.svid("client", begins=-7200, ends=-3600), PKI.bundle()), Outcome.CERTIFICATE_EXPIRED),
        (Contexts(PKI.svid("client", begins=3600, ends=7200), PKI.bundle()), Outcome.CERTIFICATE_EXPIRED),
    ],
)
def test_the_server_refuses_a_client_that_does_not_verify_and_the_client_hears_why(
    client: Contexts, outcome: Outcome
) -> None:
    one, other = ends(client)
    one.start()
    other.receive(one.outgoing())
    one.receive(other.outgoing())
    with pytest.raises(TlsFailure) as caught:
        other.receive(one.outgoing())
    assert caught.value.outcome is outcome
    with pytest.raises(TlsFailure) as heard:
        one.receive(other.outgoing())
    assert heard.value.outcome is Outcome.REFUSED_BY_PEER


def test_the_client_refuses_a_server_of_another_ca() -> None:
    one, other = ends(server=Contexts(Pki().svid("server"), PKI.bundle()))
    one.start()
    other.receive(one.outgoing())
    with pytest.raises(TlsFailure) as caught:
        one.receive(other.outgoing())
    assert caught.value.outcome is Outcome.CERTIFICATE_UNTRUSTED


def test_close_is_said_once() -> None:
    client, server = joined()
    client.close()
    first = client.outgoing()
    client.close()
    assert first
    assert client.outgoing() == b""
    server.receive(first)
    assert server.peer_closed
