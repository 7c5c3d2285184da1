"""TLS 1.3 over memory: bytes in, bytes out, no I/O.

    machine = TlsMachine.client(context, server_name, session)
    machine.start()                         then write machine.outgoing()
    plaintext = machine.receive(ciphertext) then write machine.outgoing()
    write machine.seal(plaintext)           or machine.send(plaintext), then write machine.outgoing()
    bytes[-machine.pending:]                come first in what is given next, in a turn of their own; mostly none
    machine.close()                         close_notify goes out; what the peer still sends is received on

Half-close (RFC 8446, section 6.1): close_notify ends one direction and leaves the other open. OpenSSL's
SSL_shutdown does just that when it is called once.
"""

from typing import Self

from agent.outcome import Outcome
from agent.tls._openssl import TOO_MANY_BARE, Connection, Context, Session

_NOT_REFUSED, _EXPIRED = frozenset({0, 1}), frozenset({9, 10})
"""X509_V_OK, and X509_V_ERR_UNSPECIFIED, which is what a session says whose chain was not verified again; and
X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h)."""

_REASONS = {
    "unsupported protocol": Outcome.TLS_VERSION,
    "wrong ssl version": Outcome.TLS_VERSION,
    "peer did not return a certificate": Outcome.CERTIFICATE_MISSING,
    "no application protocol": Outcome.NO_APPLICATION_PROTOCOL,
}


class TlsFailure(Exception):
    """TLS is over. `outcome` is how it counts, `detail` is in OpenSSL's or the peer's words.

    The alert that tells the peer, if there is one, waits in `outgoing`.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}"


class TlsMachine(Connection):
    """One end of one TLS connection. Every method that takes or gives bytes raises TlsFailure."""

    __slots__ = ()

    @classmethod
    def client(cls, context: Context, server_name: str, session: Session | None = None) -> Self:
        """The client's end; `session` is one that a connection of this context was given before."""
        return cls(context, server_name, session)

    @classmethod
    def server(cls, context: Context) -> Self:
        """The server's end."""
        return cls(context)

    def receive_eof(self) -> None:
        """The transport has ended. Raises TlsFailure (TRUNCATED) unless close_notify had come."""
        if not self.peer_closed:
            raise TlsFailure(Outcome.TRUNCATED, "the TLS stream ended without close_notify")

    def failure(self, reason: str, verify_code: int, verify_message: str) -> TlsFailure:
        """What OpenSSL's reason means here."""
        # Of a signature that is not the signer's, OpenSSL's first reason is what its arithmetic says ("EVP lib").
        if reason == "certificate verify failed" or verify_code not in _NOT_REFUSED:
            outcome = Outcome.CERTIFICATE_EXPIRED if verify_code in _EXPIRED else Outcome.CERTIFICATE_UNTRUSTED
            return TlsFailure(outcome, f"the peer's certificate does not verify: {verify_message}")
        if reason == TOO_MANY_BARE:
            return TlsFailure(
                Outcome.TLS_FLOOD,
                "the peer sends messages without application data (KeyUpdates, RFC 8446, section 4.6.3), one after the "
                "other: a flood, or a fault of its TLS library",
            )
        _, is_alert, alert = reason.partition(" alert ")
        if is_alert:
            return TlsFailure(Outcome.REFUSED_BY_PEER, f"the peer refused with alert '{alert}'; its log has the reason")
        return TlsFailure(_REASONS.get(reason, Outcome.HANDSHAKE_FAILED), f"TLS failed: {reason}")
