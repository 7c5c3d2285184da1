"""Both ends over real handshakes in memory: what is above a leaf is judged too, also on a resumed session."""

import time

import pytest

from agent.tls import peer
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Certificate, Contexts
from agent.tls.machine import TlsFailure, TlsMachine
from agent.tls.peer import PeerRefused
from tests.tls.pki import TRUST_DOMAIN, Pki
from tests.tls.test_machine import joined
from tests.tls.wrong import RIGHT, WRONG

PKI = Pki()


def contexts(name: str | None = None, *, sessions: bool = False) -> Contexts:
    svid = PKI.svid("good") if name is None else WRONG[name].make(PKI) if name in WRONG else RIGHT[name](PKI)
    store = SessionStore(bytearray(size_for(1)), 1, 0) if sessions else None
    return Contexts(svid, PKI.bundle(), store)


def judged(mine: Contexts, machine: TlsMachine) -> tuple[Certificate, ...]:
    """What both sides of the proxy do after a handshake. Raises PeerRefused."""
    leaf = machine.peer_certificate
    assert leaf is not None
    return mine.certificates(machine, leaf, peer.identify(leaf, trust_domain=TRUST_DOMAIN, now=time.time()))


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
@pytest.mark.parametrize("name", WRONG)
def test_a_certificate_that_breaks_a_rule_is_refused_in_either_role(name: str, server: bool) -> None:
    good, wrong = contexts(), contexts(name)
    with pytest.raises((TlsFailure, PeerRefused)) as caught:
        judged(good, joined(good, wrong)[0] if server else joined(wrong, good)[1])
    assert isinstance(caught.value, (TlsFailure, PeerRefused))
    assert caught.value.outcome is WRONG[name].counts(server=server)


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_the_standard_allows_is_taken_in_either_role(name: str, server: bool) -> None:
    good, right = contexts(), contexts(name)
    found = judged(good, joined(good, right)[0] if server else joined(right, good)[1])
    assert [certificate.serial for certificate in found] == [good.svid.serial, right.svid.serial]


def test_a_client_that_was_refused_for_its_chain_is_refused_on_the_session_that_it_got_all_the_same() -> None:
    server, client = contexts(sessions=True), contexts("an issuer whose SPIFFE ID has a path")
    there, here = joined(client, server)
    with pytest.raises(PeerRefused, match="signing certificate's SPIFFE ID may have no path"):
        judged(server, here)
    there, here = joined(client, server, there.session)
    assert here.resumed, "no chain is shown this time"
    with pytest.raises(PeerRefused, match="signing certificate's SPIFFE ID may have no path"):
        judged(server, here)


def test_a_refusal_that_is_remembered_holds_no_connection() -> None:
    server, client = contexts(), contexts("an issuer of another trust domain")
    refusals = set()
    for _ in range(2):
        with pytest.raises(PeerRefused) as caught:
            judged(server, joined(client, server)[1])
        refusals.add(id(caught.value))
    (kept,) = server._verified.values()
    assert isinstance(kept, PeerRefused)
    assert kept.__traceback__ is None
    assert id(kept) not in refusals
