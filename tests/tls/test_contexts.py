"""What a connection stands on, also where its full handshake is forgotten, or was another worker's."""

import time

import pytest

from agent.identity.svid import Bundle
from agent.tls import contexts as module
from agent.tls import peer
from agent.tls._openssl import Session
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Certificate, Contexts, anchor_ids
from agent.tls.machine import TlsMachine
from tests.tls.pki import TRUST_DOMAIN, Pki
from tests.tls.test_machine import joined, session_of

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


def test_a_resumed_session_whose_chain_is_forgotten_stands_on_every_anchor() -> None:
    """None of them may go: whichever it was that vouched for the client, the connection ends with it."""
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    machine = resumed(server, session_of(CLIENT, server))
    assert stood_on(server, machine).anchors == anchor_ids(BOTH)
    assert len(anchor_ids(BOTH)) == 2


def test_whoever_is_not_remembered_any_more_stands_on_every_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERIFIED", 1)
    server = Contexts(PKI.svid("server"), BOTH, SessionStore(bytearray(size_for(1))))
    session = session_of(CLIENT, server)
    stood_on(server, joined(CLIENT, server)[1])
    stood_on(server, joined(Contexts(OTHER.svid("else"), BOTH), server)[1])
    assert stood_on(server, resumed(server, session)).anchors == anchor_ids(BOTH)
