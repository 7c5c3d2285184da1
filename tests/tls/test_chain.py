"""Both ends over real handshakes in memory: what is above a leaf is judged too, also on a resumed session."""

import time

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.authority import ca
from agent.authority.ca import Signer
from agent.authority.pki import MAX_CHAIN
from agent.outcome import Outcome
from agent.tls import peer
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Certificate, Contexts
from agent.tls.machine import TlsFailure, TlsMachine
from agent.tls.peer import PeerRefused
from tests.tls.pki import TRUST_DOMAIN, Pki, key_usage, signing
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


def root() -> Signer:
    """A root that says nothing of how long the chains under it may be."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, valid = PKI.root.certificate.subject, PKI.root.certificate
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(valid.not_valid_before_utc)
        .not_valid_after(valid.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Signer(certificate.sign(key, hashes.SHA256()), key)


def deep(between: int) -> tuple[Contexts, Contexts]:
    """Somebody with so many certificates between leaf and root, and another one under the same root."""
    pki = Pki()
    pki.root = root()
    near = pki.under(signing(pki.root))
    signers = [pki.root]
    for number in range(between):
        signers.append(signing(signers[-1], name=f"number {number}"))
    svid = pki.under(signers[-1]).svid("far")
    leaf = x509.load_pem_x509_certificates(svid.chain_pem)[0]
    chain = b"".join(ca.pem(each) for each in (leaf, *(above.certificate for above in reversed(signers[1:]))))
    return (
        Contexts(msgspec.structs.replace(svid, chain_pem=chain), pki.bundle()),
        Contexts(near.svid("near"), pki.bundle()),
    )


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


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
def test_a_chain_as_long_as_an_issuer_may_be_given_with_is_taken_and_a_much_longer_one_is_not(server: bool) -> None:
    far, near = deep(MAX_CHAIN)
    judged(near, joined(near, far)[0] if server else joined(far, near)[1])
    far, near = deep(MAX_CHAIN + 2)
    with pytest.raises(TlsFailure, match="certificate chain too long") as caught:
        joined(near, far) if server else joined(far, near)
    assert caught.value.outcome is Outcome.CERTIFICATE_UNTRUSTED


@pytest.mark.parametrize("server", [False, True], ids=["the client's", "the server's"])
def test_a_heap_of_certificates_is_refused_before_any_of_them_is_looked_at(server: bool) -> None:
    """What a stranger shows is parsed before it is verified: 100 kB of it, which OpenSSL takes, are 100 ms of work."""
    svid = PKI.svid("heap")
    heap = Contexts(msgspec.structs.replace(svid, chain_pem=svid.chain_pem + 40 * svid.chain_pem), PKI.bundle())
    with pytest.raises(TlsFailure, match="excessive message size") as caught:
        joined(contexts(), heap) if server else joined(heap, contexts())
    assert caught.value.outcome is Outcome.HANDSHAKE_FAILED
