"""TLS contexts of one identity: made anew for every SVID and every bundle, so that old sessions die with the old.

A server's context has a name that the SVID and the bundle make, and workers that have the same ones give it the same:
they resume each other's sessions, whichever the kernel gives a connection to, and none has to be told. A session from
under a former SVID or bundle is not found: the handshake is a full one, under the bundle in force.
"""

import hashlib
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from agent.identity.peer import PeerIdentity, PeerRefused, check_chain
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.outcome import Outcome
from agent.tls import alpn
from agent.tls._openssl import Context
from agent.tls._store import SessionStore
from agent.tls.machine import TlsMachine
from agent.tls.sessions import SessionCache

MAX_JUDGED = 4096
"""Clients whose sessions a worker resumes: who is forgotten shows its certificates again."""


def anchor_ids(bundle: Bundle) -> frozenset[bytes]:
    """What tells the anchors of a bundle apart: SHA-256 of each certificate."""
    return frozenset(
        anchor_id(certificate.public_bytes(Encoding.DER))
        for certificate in x509.load_pem_x509_certificates(bundle.anchors_pem)
    )


def anchor_id(der: bytes) -> bytes:
    """SHA-256 of an anchor's certificate."""
    return hashlib.sha256(der).digest()


class Certificate(Struct, frozen=True):
    """What must stay good for a connection to live on. `anchors` is what the certificate may chain to."""

    spiffe_id: SpiffeId
    serial: str
    anchors: frozenset[bytes]


class Contexts:
    """Both contexts of one SVID under one bundle, and the sessions that they made."""

    def __init__(self, svid: Svid, bundle: Bundle, store: SessionStore | None = None) -> None:
        self.svid = svid
        self.anchors = anchor_ids(bundle)
        self._own = (Certificate(svid.spiffe_id, svid.serial, frozenset()),)
        self.sessions = SessionCache()
        # A client without a certificate is left to policy; one with a certificate that does not verify is refused. The
        # name to verify is a SPIFFE ID: agent.identity.peer does it, after the chain.
        self.server = Context(
            server=True,
            chain_pem=svid.chain_pem,
            key_pem=svid.key_pem,
            anchors_pem=bundle.anchors_pem,
            alpn=alpn.SERVED_BYTES,
            store=store,
            name=context_name(svid, bundle),
            judged_at_most=MAX_JUDGED,
        )
        self.client = Context(
            server=False,
            chain_pem=svid.chain_pem,
            key_pem=svid.key_pem,
            anchors_pem=bundle.anchors_pem,
            alpn=(alpn.MESH.encode(),),
        )

    def certificates(
        self, machine: TlsMachine, leaf: bytes | None, peer: PeerIdentity | None
    ) -> tuple[Certificate, ...]:
        """What a connection stands on: our own SVID, and the peer's certificate with the anchor of its chain.

        The peer's chain is judged in a full handshake, and what was found goes with the session. Raises PeerRefused
        where what is above the certificate may not be there: then no session of it is resumed.
        """
        if leaf is None or peer is None:
            return self._own
        if machine.resumed:
            if machine.judgement is None:
                raise PeerRefused(Outcome.HANDSHAKE_FAILED, "a session was resumed whose certificates were not judged")
            return machine.judgement
        chain = machine.verified_chain
        check_chain(chain, peer)
        stands_on = (*self._own, _certificate(peer.spiffe_id, peer.serial, anchor_id(chain[-1])))
        machine.judge(stands_on)
        return stands_on


@lru_cache(maxsize=MAX_JUDGED)
def _certificate(spiffe_id: SpiffeId, serial: str, anchor: bytes) -> Certificate:
    """One value for all connections that stand on it."""
    return Certificate(spiffe_id, serial, frozenset({anchor}))


def context_name(svid: Svid, bundle: Bundle) -> bytes:
    """What tells servers' contexts apart: SHA-256 over the SVID and the anchors that clients are verified against."""
    parts = (hashlib.sha256(svid.chain_pem).digest(), hashlib.sha256(bundle.anchors_pem).digest())
    return hashlib.sha256(b"".join(parts)).digest()
