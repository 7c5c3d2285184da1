"""TLS contexts of one identity: made anew for every SVID and every bundle, so that old tickets die with the old.

OpenSSL's ticket keys belong to the context; a ticket from a former one cannot be decrypted, and the handshake
is a full one, verified against the bundle in force.
"""

import ssl

from agent.identity.memfd import load_cert_chain
from agent.identity.svid import Bundle, Svid
from agent.tls import alpn
from agent.tls.sessions import SessionCache


class Contexts:
    """Both contexts of one SVID under one bundle, and the sessions that they made."""

    def __init__(self, svid: Svid, bundle: Bundle) -> None:
        self.svid = svid
        self.generation = bundle.sequence
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


def _context(protocol: int, svid: Svid, anchors: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # The name to verify is a SPIFFE ID: agent.tls.peer does it, after the chain.
    context.check_hostname = False
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=anchors)
    load_cert_chain(context, svid.chain_pem, svid.key_pem)
    return context
