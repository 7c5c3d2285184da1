"""What a connection stands on, also where its full handshake is forgotten, or was another worker's."""

import time

import pytest

from agent.identity import peer
from agent.identity.peer import PeerRefused
from agent.identity.svid import Bundle
from agent.outcome import Outcome
from agent.tls import contexts as module
from agent.tls._openssl import Session
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Certificate, Contexts, anchor_ids, context_name
from agent.tls.machine import TlsMachine
from tests.tls.pki import TRUST_DOMAIN, Pki
from tests.tls.test_machine import carry, ends, joined, session_of

PKI, OTHER = Pki(), Pki()
BOTH = Bundle(TRUST_DOMAIN, PKI.bundle().anchors_pem + OTHER.bundle().anchors_pem, 1)
CLIENT = Contexts(PKI.svid("client"), BOTH)


def stood_on(server: Contexts, machine: TlsMachine) -> Certificate:
    """What the client's certificate in this connection stands on."""
    leaf = machine.peer_certificate
    assert leaf is not None
    identity = peer.identify(leaf, trust_domain=TRUST_DOMAIN, now=time.time())
    own, certificate = server.certificates(machine, leaf, identity)
    assert own.spiffe_id == server.svid.spiffe_id
    assert certificate.spiffe_id == identity.spiffe_id
    return certificate


def resumed(server: Contexts, session: Session) -> TlsMachine:
    _, machine = joined(CLIENT, server, session)
    assert machine.resumed
    return machine


def test_a_full_handshake_stands_on_the_anchor_of_its_chain_and_what_it_resumes_on_the_same() -> None:
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    session = session_of(CLIENT, server)
    _, machine = joined(CLIENT, server)
    assert stood_on(server, machine).anchors == anchor_ids(PKI.bundle())
    assert stood_on(server, resumed(server, session)).anchors == anchor_ids(PKI.bundle())


def test_a_worker_that_has_not_judged_a_client_resumes_no_session_of_it_until_it_has() -> None:
    """They share their sessions: what another one negotiated says nothing of who is above the client."""
    memory = bytearray(size_for(2))
    one = Contexts(PKI.svid("server"), BOTH, SessionStore(memory, 2, 0))
    other = Contexts(one.svid, BOTH, SessionStore(memory, 2, 1))
    session = session_of(CLIENT, one)
    _, machine = joined(CLIENT, other, session)
    assert not machine.resumed
    assert stood_on(other, machine).anchors == anchor_ids(PKI.bundle())
    assert stood_on(other, resumed(other, session)).anchors == anchor_ids(PKI.bundle())


def test_whoever_is_not_remembered_any_more_shows_its_certificates_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody gets past a refusal by filling the memory with good ones."""
    monkeypatch.setattr(module, "MAX_JUDGED", 1)
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    session = session_of(CLIENT, server)
    assert joined(CLIENT, server, session)[1].resumed
    joined(Contexts(OTHER.svid("else"), BOTH), server)
    _, machine = joined(CLIENT, server, session)
    assert not machine.resumed
    assert stood_on(server, machine).anchors == anchor_ids(PKI.bundle())
    assert joined(CLIENT, server, session)[1].resumed, "it is known again"


def test_what_a_server_stands_on_goes_with_its_session_to_the_client() -> None:
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    client = Contexts(PKI.svid("client"), BOTH)
    first, _ = joined(client, server)
    again, _ = joined(client, server, first.session)
    assert again.resumed
    assert stood_on(client, again) is stood_on(client, first)
    assert stood_on(client, again).anchors == anchor_ids(PKI.bundle())


def test_a_session_of_which_nothing_was_found_is_refused() -> None:
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    joined(CLIENT, server)  # the server knows the client
    one, other = ends(CLIENT, server)
    one.start()
    carry(one, other)
    session = one.session
    again, _ = ends(CLIENT, server, session)
    machine = ends(CLIENT, server)[1]
    again.start()
    carry(again, machine)
    assert again.resumed
    with pytest.raises(PeerRefused, match="not judged") as refused:
        stood_on(CLIENT, again)
    assert refused.value.outcome is Outcome.HANDSHAKE_FAILED


def test_nothing_can_be_found_of_a_peer_that_showed_nothing() -> None:
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    machine = resumed(server, session_of(CLIENT, server))
    with pytest.raises(ValueError, match="nothing was verified"):
        machine.judge(())


def test_a_contexts_name_is_told_by_nothing_but_the_svid_and_the_anchors() -> None:
    names = {
        context_name(svid, bundle)
        for svid in (PKI.svid("server"), CLIENT.svid)
        for bundle in (PKI.bundle(), Pki().bundle(), PKI.bundle(sequence=9))
    }
    assert len(names) == 4


def test_whoever_showed_no_certificate_or_is_nobody_leaves_a_connection_on_our_own_alone() -> None:
    svid = PKI.svid("client")
    made = Contexts(svid, BOTH)
    assert made.anchors == anchor_ids(BOTH)
    assert len(made.anchors) == 2
    own = (Certificate(svid.spiffe_id, svid.serial, frozenset()),)
    far, near = joined(CLIENT, made)
    leaf = near.peer_certificate
    assert leaf is not None
    identity = peer.identify(leaf, trust_domain=TRUST_DOMAIN, now=time.time())
    assert made.certificates(near, None, None) == made.certificates(near, leaf, None) == own
    assert made.certificates(near, None, identity) == own
    assert made.certificates(near, leaf, identity) != own
    assert far.handshake_complete


def test_each_svid_and_each_bundle_begins_without_sessions_to_resume() -> None:
    first, second = (Contexts(PKI.svid("client"), BOTH) for _ in range(2))
    assert first.sessions is not second.sessions
    assert first.sessions.get(CLIENT.svid.spiffe_id, "192.0.2.1") is None
