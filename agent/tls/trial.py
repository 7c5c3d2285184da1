"""Whether peers would take an SVID: a handshake in memory, by the very code that judges peers. No I/O."""

from cryptography import x509

from agent.identity import peer
from agent.identity.peer import PeerRefused
from agent.identity.provider import Unacceptable
from agent.identity.svid import Bundle, Svid
from agent.outcome import Outcome
from agent.tls._openssl import OpenSslError
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsFailure, TlsMachine

MAX_TURNS = 8
"""Flights of a TLS 1.3 handshake between two ends that agree, and more than there are."""


def check(svid: Svid, bundle: Bundle, *, now: float) -> None:
    """Shows an SVID to a peer of the same bundle, in both roles. Raises Unacceptable.

    OpenSSL judges validity by the machine's clock, and the rest of it is judged at `now`, POSIX seconds.
    """
    try:
        contexts = Contexts(svid, bundle)
        client, server = TlsMachine.client(contexts.client, ""), TlsMachine.server(contexts.server)
        client.start()
        for _ in range(MAX_TURNS):
            # Each end's own failure comes before the alert by which the other hears of it.
            server.receive(client.outgoing())
            client.receive(server.outgoing())
            if client.handshake_complete and server.handshake_complete:
                break
        else:
            raise Unacceptable(Outcome.HANDSHAKE_FAILED, "a handshake under it does not end")
        for machine in (client, server):
            leaf = machine.peer_certificate or b""
            identity = peer.identify(leaf, trust_domain=bundle.trust_domain, now=now)
            peer.expect(identity, svid.spiffe_id)
            contexts.certificates(machine, leaf, identity)
    except (TlsFailure, PeerRefused) as refused:
        raise Unacceptable(refused.outcome, refused.detail) from None
    except (OpenSslError, ValueError, x509.InvalidVersion) as error:  # it cannot even be loaded
        raise Unacceptable(Outcome.HANDSHAKE_FAILED, f"OpenSSL cannot use it: {error}") from None
