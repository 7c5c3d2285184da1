"""The TLS machine: two ends joined by arbitrary chunking give the same bytes, and nothing else ever does."""

import contextlib
import itertools
import ssl
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.identity import peer
from agent.identity.peer import PeerRefused
from agent.identity.svid import Bundle
from agent.outcome import Outcome
from agent.tls._openssl import TOO_MANY_BARE, Context, Session
from agent.tls._store import SessionStore, size_for
from agent.tls.client_hello import ClientHello, parse
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsFailure, TlsMachine
from tests.tls.pki import TRUST_DOMAIN, Pki

PKI = Pki()
ALERT = b"\x15"
"""The type of a record that holds an alert (RFC 8446, section 5.1)."""
MEMORY = bytearray(size_for(2))
STORE, NEIGHBOURS = SessionStore(MEMORY, 2, 0), SessionStore(MEMORY, 2, 1)
"""What two workers of one agent know of sessions."""
RECORD_SIZE = size_for(1) // 65536
SERVER = Contexts(PKI.svid("server"), PKI.bundle(), STORE)
CLIENT = Contexts(PKI.svid("client"), PKI.bundle())


def ends(
    client: Contexts = CLIENT, server: Contexts = SERVER, session: Session | None = None
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
    client: Contexts = CLIENT, server: Contexts = SERVER, session: Session | None = None
) -> tuple[TlsMachine, TlsMachine]:
    one, other = ends(client, server, session)
    one.start()
    carry(one, other)
    assert one.handshake_complete
    assert other.handshake_complete
    for mine, machine in ((client, one), (server, other)):
        judge(mine, machine)
    return one, other


def judge(mine: Contexts, machine: TlsMachine) -> None:
    """What both sides of the proxy do after a handshake. Who is refused stays: a test may look at it."""
    leaf = machine.peer_certificate
    with contextlib.suppress(PeerRefused):
        identity = None if leaf is None else peer.identify(leaf, trust_domain=TRUST_DOMAIN, now=time.time())
        mine.certificates(machine, leaf, identity)


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
    again, other = joined(session=client.session)
    assert again.resumed
    assert other.resumed
    assert other.peer_certificate == server.peer_certificate


def session_of(client: Contexts = CLIENT, server: Contexts = SERVER) -> Session:
    """A session of a full handshake, with its ticket."""
    one, other = joined(client, server)
    other.send(b"x")
    carry(one, other)
    assert one.session is not None
    return one.session


def neighbour() -> Contexts:
    """What another worker of the same agent makes of the same SVID and bundle."""
    return Contexts(SERVER.svid, PKI.bundle(sequence=2), NEIGHBOURS)


def test_a_session_of_a_client_that_showed_no_certificate_stays_without_one() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=PKI.bundle().anchors_pem.decode())
    context.check_hostname = False
    session: ssl.SSLSession | None = None
    for resumed in (False, True, True):
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(ours, theirs, server_hostname="server.test", session=session)
        server = TlsMachine.server(SERVER.server)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        server.receive(theirs.read())
        ours.write(server.outgoing())
        client.do_handshake()
        server.receive(theirs.read())
        server.send(b"x")
        ours.write(server.outgoing())
        assert client.read() == b"x"
        session = client.session
        assert server.resumed is resumed
        assert server.peer_certificate is None


@pytest.mark.parametrize(
    "server",
    [
        Contexts(PKI.svid("server"), PKI.bundle(), STORE),
        Contexts(
            SERVER.svid, Bundle(PKI.trust_domain, PKI.bundle().anchors_pem + Pki().bundle().anchors_pem, 2), STORE
        ),
        Contexts(SERVER.svid, PKI.bundle(), SessionStore(bytearray(size_for(1)))),
        Contexts(SERVER.svid, PKI.bundle()),
    ],
    ids=["renewed SVID", "other bundle", "other agent", "no store"],
)
def test_sessions_die_with_the_svid_with_the_bundle_and_with_the_agent(server: Contexts) -> None:
    session = session_of()
    joined(server=server)  # it knows the client's certificate
    again, other = joined(server=server, session=session)
    assert not again.resumed
    assert not other.resumed
    assert again.handshake_complete


def test_who_is_forgotten_shows_the_certificate_again() -> None:
    """A context that only its living connections use any more keeps nobody's."""
    server = Contexts(SERVER.svid, PKI.bundle(), STORE)
    session = session_of(server=server)
    assert joined(server=server, session=session)[1].resumed
    server.server.forget()
    assert not joined(server=server, session=session)[1].resumed
    assert joined(server=server, session=session)[1].resumed


def test_a_session_under_which_another_client_comes_is_the_first_clients() -> None:
    """A number without the secret that belongs to it resumes nothing, and one with it is whom it was given to."""
    session = session_of()
    joined(Contexts(PKI.svid("thief"), PKI.bundle()))
    again, other = joined(Contexts(PKI.svid("thief"), PKI.bundle()), session=session)
    assert again.resumed
    assert other.peer_certificate == joined()[1].peer_certificate


def test_a_resumed_connection_is_given_no_new_ticket() -> None:
    """Nor one that would be kept without the certificate that it was not shown: with ALPN and without."""
    anonymous_protocol = Context(
        server=False,
        chain_pem=CLIENT.svid.chain_pem,
        key_pem=CLIENT.svid.key_pem,
        anchors_pem=PKI.bundle().anchors_pem,
        alpn=(),
    )
    session: Session | None = None
    for number in range(4):
        one, other = TlsMachine.client(anonymous_protocol, "server.test", session), TlsMachine.server(SERVER.server)
        one.start()
        carry(one, other)
        assert other.resumed is bool(number)
        assert other.peer_certificate is not None
        session = one.session or session
    for session, ticket in ((None, True), (session_of(), False)):
        one, other = ends(session=session)
        one.start()
        other.receive(one.outgoing())
        one.receive(other.outgoing())
        other.receive(one.outgoing())
        assert other.handshake_complete
        assert bool(other.outgoing()) is ticket


def test_what_comes_after_close_notify_is_not_read() -> None:
    client, server = joined()
    client.close()
    stream = client.outgoing()
    assert server.receive(stream + b"anything at all") == b""
    assert server.peer_closed
    assert server.receive(b"and more") == b""


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


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_chain_that_is_not_as_rfc_5280_wants_it_is_refused_by_both_sides(side: str) -> None:
    """A leaf without an authority key identifier (section 4.2.1.1): OpenSSL takes it unless it is strict."""
    lax = Contexts(PKI.svid(side, authority_key_identifier=False), PKI.bundle())
    one, other = ends(client=lax) if side == "client" else ends(server=lax)
    one.start()
    other.receive(one.outgoing())

    def verify() -> None:
        one.receive(other.outgoing())
        other.receive(one.outgoing())

    with pytest.raises(TlsFailure) as caught:
        verify()
    assert caught.value.outcome is Outcome.CERTIFICATE_UNTRUSTED
    assert "uthority Key Identifier" in caught.value.detail


def test_close_is_said_once() -> None:
    client, server = joined()
    client.close()
    first = client.outgoing()
    client.close()
    assert first
    assert client.outgoing() == b""
    server.receive(first)
    assert server.peer_closed


@pytest.mark.parametrize(
    ("reason", "code", "outcome", "words"),
    [
        ("certificate verify failed", 0, Outcome.CERTIFICATE_UNTRUSTED, "the peer's certificate does not verify: why"),
        ("certificate verify failed", 19, Outcome.CERTIFICATE_UNTRUSTED, "the peer's certificate does not verify: why"),
        ("EVP lib", 7, Outcome.CERTIFICATE_UNTRUSTED, "the peer's certificate does not verify: why"),
        ("certificate verify failed", 9, Outcome.CERTIFICATE_EXPIRED, "the peer's certificate does not verify: why"),
        ("certificate verify failed", 10, Outcome.CERTIFICATE_EXPIRED, "the peer's certificate does not verify: why"),
        ("EVP lib", 0, Outcome.HANDSHAKE_FAILED, "TLS failed: EVP lib"),
        ("EVP lib", 1, Outcome.HANDSHAKE_FAILED, "TLS failed: EVP lib"),
        ("unsupported protocol", 1, Outcome.TLS_VERSION, "TLS failed: unsupported protocol"),
        ("wrong ssl version", 1, Outcome.TLS_VERSION, "TLS failed: wrong ssl version"),
        (
            "peer did not return a certificate",
            1,
            Outcome.CERTIFICATE_MISSING,
            "TLS failed: peer did not return a certificate",
        ),
        ("no application protocol", 1, Outcome.NO_APPLICATION_PROTOCOL, "TLS failed: no application protocol"),
        (
            "tlsv1 alert unknown ca",
            0,
            Outcome.REFUSED_BY_PEER,
            "the peer refused with alert 'unknown ca'; its log has the reason",
        ),
    ],
)
def test_what_openssl_says_is_counted_by_what_it_means_here(
    reason: str, code: int, outcome: Outcome, words: str
) -> None:
    failure = ends()[0].failure(reason, code, "why")
    assert (failure.outcome, failure.detail) == (outcome, words)
    assert str(failure) == f"{outcome}: {words}"
    assert failure.args == (outcome, words)


def test_a_flood_is_told_from_a_failure() -> None:
    failure = ends()[0].failure(TOO_MANY_BARE, 0, "")
    assert failure.outcome is Outcome.TLS_FLOOD
    assert failure.detail.startswith("the peer sends messages without application data (KeyUpdates")


def test_a_client_says_whom_it_wants_and_what_it_was_given_of_a_stream_without_end_is_none() -> None:
    near = TlsMachine.client(SERVER.client, "api.example.test")
    near.start()
    hello = parse(near.outgoing())
    assert isinstance(hello, ClientHello)
    assert hello.server_name == "api.example.test"
    with pytest.raises(TlsFailure) as caught:
        near.receive_eof()
    assert str(caught.value) == "truncated: the TLS stream ended without close_notify"
