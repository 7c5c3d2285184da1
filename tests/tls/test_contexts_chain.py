"""Both ends over real handshakes in memory: what is above a leaf is judged too, also on a resumed session."""

import time

import msgspec
import pytest
from cryptography import x509

from agent.authority import ca
from agent.authority.pki import MAX_CHAIN
from agent.identity import peer
from agent.identity.peer import PeerRefused
from agent.identity.svid import Svid
from agent.outcome import Outcome
from agent.tls import contexts as module
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Certificate, Contexts
from agent.tls.machine import TlsFailure, TlsMachine
from tests.tls.paths import ALLOWED, FORBIDDEN, boundless, deep, uris
from tests.tls.pki import TRUST_DOMAIN, Pki, signing
from tests.tls.test_machine import joined
from tests.tls.wrong import RIGHT, WRONG

PKI = Pki()
BOUNDLESS = boundless()


def contexts(name: str | None = None, *, sessions: bool = False) -> Contexts:
    svid = PKI.svid("good") if name is None else WRONG[name].make(PKI) if name in WRONG else RIGHT[name](PKI)
    store = SessionStore(bytearray(size_for(1)), 1, 0) if sessions else None
    return Contexts(svid, PKI.bundle(), store)


def judged(mine: Contexts, machine: TlsMachine) -> tuple[Certificate, ...]:
    """What both sides of the proxy do after a handshake. Raises PeerRefused."""
    leaf = machine.peer_certificate
    assert leaf is not None
    return mine.certificates(machine, leaf, peer.identify(leaf, trust_domain=TRUST_DOMAIN, now=time.time()))


def shown(svid: Svid, *, server: bool, pki: Pki = BOUNDLESS) -> tuple[Certificate, ...]:
    """Somebody shows this to another one, who trusts the root and has an SVID that another root vouches for.

    Raises TlsFailure, PeerRefused.
    """
    own = Pki()
    mine = Contexts(own.svid("near"), pki.bundle())
    theirs = Contexts(svid, own.bundle())
    return judged(mine, joined(mine, theirs)[0] if server else joined(theirs, mine)[1])


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


def test_a_client_that_was_refused_for_its_chain_shows_it_again_whatever_session_it_comes_with() -> None:
    server, client = contexts(sessions=True), contexts("an issuer whose SPIFFE ID has a path")
    there, here = joined(client, server)
    with pytest.raises(PeerRefused, match="signing certificate's SPIFFE ID may have no path"):
        judged(server, here)
    there, here = joined(client, server, there.session)
    assert not here.resumed
    with pytest.raises(PeerRefused, match="signing certificate's SPIFFE ID may have no path"):
        judged(server, here)


def test_nobody_gets_past_a_refusal_for_its_chain_with_any_number_of_good_certificates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is forgotten of the refused one is nothing that would have kept it out."""
    monkeypatch.setattr(module, "MAX_JUDGED", 2)
    server, client = contexts(sessions=True), contexts("an issuer whose SPIFFE ID has a path")
    session = joined(client, server)[0].session
    for number in range(3):
        joined(Contexts(PKI.svid(f"good-{number}"), PKI.bundle()), server)
    _, here = joined(client, server, session)
    with pytest.raises(PeerRefused, match="signing certificate's SPIFFE ID may have no path"):
        judged(server, here)


def test_a_leaf_is_judged_by_the_chain_that_it_comes_with_this_time() -> None:
    """One key may have several certificates above it, and only one of them be what it must."""
    above, server = signing(PKI.root), contexts(sessions=True)
    svid = PKI.under(above).svid("client")
    leaf = x509.load_pem_x509_certificates(svid.chain_pem)[0]
    wrong = signing(PKI.root, key=above.key, uris=["spiffe://elsewhere.test"])
    bad = msgspec.structs.replace(svid, chain_pem=ca.pem(leaf) + ca.pem(wrong.certificate))
    good, other = (Contexts(each, PKI.bundle()) for each in (svid, bad))
    judged(server, joined(good, server)[1])
    with pytest.raises(PeerRefused, match="is spiffe://elsewhere"):
        judged(server, joined(other, server)[1])


OURS, FOREIGN, WITH_PATH = f"spiffe://{TRUST_DOMAIN}", "spiffe://elsewhere.test", f"spiffe://{TRUST_DOMAIN}/issuer"


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
@pytest.mark.parametrize(
    ("signs", "above", "problem"),
    [
        (OURS, OURS, None),
        (OURS, FOREIGN, None),  # it signs no leaf
        ("", FOREIGN, None),
        (FOREIGN, OURS, "is spiffe://elsewhere.test, and not of trust domain example.test"),
        (FOREIGN, FOREIGN, "is spiffe://elsewhere.test, and not of trust domain example.test"),
        (WITH_PATH, OURS, "may have no path"),
        (OURS, WITH_PATH, "may have no path"),
        ("", WITH_PATH, "may have no path"),
    ],
)
def test_every_signer_is_judged_and_the_trust_domain_of_the_one_that_signs_leaves(
    signs: str, above: str, problem: str | None, server: bool
) -> None:
    """X509-SVID, section 3: a signing certificate is of the trust domain of the leaves that it issues itself."""
    pki = boundless()
    upper = signing(pki.root, [above] if above else [], name="upper")
    svid = pki.under(signing(upper, [signs] if signs else [], name="lower")).svid("somebody")
    long = msgspec.structs.replace(svid, chain_pem=svid.chain_pem + ca.pem(upper.certificate))
    near = pki.under(signing(pki.root)).svid("near")
    mine, theirs = Contexts(near, pki.bundle()), Contexts(long, pki.bundle())
    machine = joined(mine, theirs)[0] if server else joined(theirs, mine)[1]
    if problem is None:
        assert judged(mine, machine)[1].serial == svid.serial
    else:
        with pytest.raises(PeerRefused, match=problem):
            judged(mine, machine)


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_path_that_is_forbidden_or_too_long_is_refused_in_either_role(name: str, server: bool) -> None:
    with pytest.raises((TlsFailure, PeerRefused)) as caught:
        shown(FORBIDDEN[name].make(BOUNDLESS), server=server)
    assert isinstance(caught.value, (TlsFailure, PeerRefused))
    assert caught.value.outcome is FORBIDDEN[name].outcome


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
@pytest.mark.parametrize("name", ALLOWED)
def test_a_path_that_is_allowed_is_taken_in_either_role(name: str, server: bool) -> None:
    svid = ALLOWED[name](BOUNDLESS)
    assert shown(svid, server=server)[1].serial == svid.serial


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
def test_what_constrains_an_anchor_binds_who_is_below_it(server: bool) -> None:
    """A root that an operator gives may be one for other names."""
    ours, others = (boundless(x509.NameConstraints(uris(host), None)) for host in ("example.test", "other.test"))
    shown(ours.svid("somebody"), server=server, pki=ours)
    with pytest.raises(TlsFailure, match="permitted subtree violation"):
        shown(others.svid("somebody"), server=server, pki=others)


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
def test_a_chain_as_long_as_an_issuer_may_be_given_with_is_taken_and_a_much_longer_one_is_not(server: bool) -> None:
    shown(deep(BOUNDLESS, MAX_CHAIN), server=server)
    with pytest.raises(TlsFailure, match="certificate chain too long"):
        shown(deep(BOUNDLESS, MAX_CHAIN + 2), server=server)


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
def test_a_heap_of_certificates_is_refused_before_any_of_them_is_looked_at(server: bool) -> None:
    """What a stranger shows is parsed before it is verified: 100 kB of it, which OpenSSL takes, are 100 ms of work."""
    svid = PKI.svid("heap")
    heap = Contexts(msgspec.structs.replace(svid, chain_pem=svid.chain_pem + 40 * svid.chain_pem), PKI.bundle())
    with pytest.raises(TlsFailure, match="excessive message size") as caught:
        joined(contexts(), heap) if server else joined(heap, contexts())
    assert caught.value.outcome is Outcome.HANDSHAKE_FAILED
