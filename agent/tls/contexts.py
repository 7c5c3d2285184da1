"""TLS contexts of one identity: made anew for every SVID and every bundle, so that old tickets die with the old.

OpenSSL's ticket keys belong to the context; a ticket from a former one cannot be decrypted, and the handshake
is a full one, verified against the bundle in force.
"""

import hashlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.memfd import load_cert_chain
from agent.identity.svid import Bundle, Svid
from agent.tls import alpn
from agent.tls.machine import TlsMachine
from agent.tls.sessions import SessionCache

MAX_VERIFIED = 4096
"""Peers whose anchor is remembered for resumed sessions."""


def anchor_ids(bundle: Bundle) -> frozenset[bytes]:
    """What tells the anchors of a bundle apart: SHA-256 of each certificate."""
    return frozenset(
        anchor_id(certificate.public_bytes(Encoding.DER))
        for certificate in x509.load_pem_x509_certificates(bundle.anchors_pem)
    )


def anchor_id(der: bytes) -> bytes:
    """SHA-256 of an anchor's certificate."""
    return hashlib.sha256(der).digest()


class Contexts:
    """Both contexts of one SVID under one bundle, and the sessions that they made."""

    def __init__(self, svid: Svid, bundle: Bundle) -> None:
        self.svid = svid
        self.anchors = anchor_ids(bundle)
        self._verified: dict[bytes, frozenset[bytes]] = {}
        self.sessions = SessionCache()
        anchors = bundle.anchors_pem.decode("ascii")
        self.server = _context(ssl.PROTOCOL_TLS_SERVER, svid, anchors)
        # A client without a certificate is left to policy; one with a certificate that does not verify is refused.
        self.server.verify_mode = ssl.CERT_OPTIONAL
        self.server.set_alpn_protocols(list(alpn.SERVED))
        self.server.num_tickets = 1
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT, svid, anchors)
        self.client.verify_mode = ssl.CERT_REQUIRED
        self.client.set_alpn_protocols([alpn.MESH])

    def anchors_of(self, machine: TlsMachine) -> frozenset[bytes]:
        """The anchor of the peer's chain; every one where a resumed session's full handshake is forgotten."""
        leaf = machine.peer_certificate or b""
        known = self._verified.get(leaf)
        if known is None:
            chain = [] if machine.resumed else machine.verified_chain
            known = frozenset({anchor_id(chain[-1])}) if chain else self.anchors
            if len(self._verified) >= MAX_VERIFIED:
                del self._verified[next(iter(self._verified))]
            self._verified[leaf] = known
        return known


def _context(protocol: int, svid: Svid, anchors: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # The name to verify is a SPIFFE ID: agent.tls.peer does it, after the chain.
    context.check_hostname = False
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=anchors)
    load_cert_chain(context, svid.chain_pem, svid.key_pem)
    return context
