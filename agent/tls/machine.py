"""TLS 1.3 over memory BIOs: bytes in, bytes out, no I/O.

    machine = TlsMachine.client(context, server_name, session)
    machine.start()                         then write machine.outgoing()
    plaintext = machine.receive(ciphertext) then write machine.outgoing()
    machine.send(plaintext)                 then write machine.outgoing()
    machine.close()                         close_notify goes out; what the peer still sends is received on

Half-close (RFC 8446, section 6.1): close_notify ends one direction and leaves the other open. OpenSSL's
SSL_shutdown does just that when it is called once; CPython's `unwrap` says SSLWantReadError afterwards.
"""

import _ssl
import ssl
from typing import Self

from agent.outcome import Outcome

_CHUNK = 65536

_EXPIRED = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h)."""

_REASONS = {
    "UNSUPPORTED_PROTOCOL": Outcome.TLS_VERSION,
    "WRONG_SSL_VERSION": Outcome.TLS_VERSION,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Outcome.CERTIFICATE_MISSING,
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


class TlsMachine:
    """One end of one TLS connection."""

    __slots__ = ("_incoming", "_object", "_outgoing", "closed", "handshake_complete", "peer_closed")

    def __init__(
        self, context: ssl.SSLContext, *, server: bool, name: str | None, session: ssl.SSLSession | None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server, server_hostname=name, session=session
        )
        self.handshake_complete = False
        self.peer_closed = False
        """The peer's close_notify has come: its direction ended cleanly."""
        self.closed = False
        """Our close_notify has gone out."""

    @classmethod
    def client(cls, context: ssl.SSLContext, server_name: str, session: ssl.SSLSession | None = None) -> Self:
        """The client's end; `session` is one that this context made before."""
        return cls(context, server=False, name=server_name, session=session)

    @classmethod
    def server(cls, context: ssl.SSLContext) -> Self:
        """The server's end."""
        return cls(context, server=True, name=None, session=None)

    def start(self) -> None:
        """Begins the handshake: the client's ClientHello waits in `outgoing` afterwards."""
        self._shake()

    def receive(self, data: bytes) -> bytes:
        """Takes ciphertext; returns the application data that it completes, maybe none. Raises TlsFailure."""
        self._incoming.write(data)
        if not self.handshake_complete:
            self._shake()
            if not self.handshake_complete:
                return b""
        return self._read()

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise _failure(error) from error
        self.handshake_complete = True

    def _read(self) -> bytes:
        if self.peer_closed:
            return b""
        read = self._object.read
        try:
            first = read(_CHUNK)
            if not first:
                self.peer_closed = True
                return b""
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            self.peer_closed = True
            return b""
        except ssl.SSLError as error:
            raise _failure(error) from error
        # One record holds 16 KiB at most, and a read of the transport may bring many.
        chunks = [first]
        while True:
            try:
                chunk = read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.peer_closed = True
                break
            except ssl.SSLError as error:
                raise _failure(error) from error
            if not chunk:
                self.peer_closed = True
                break
            chunks.append(chunk)
        return first if len(chunks) == 1 else b"".join(chunks)

    def receive_eof(self) -> None:
        """The transport has ended. Raises TlsFailure (TRUNCATED) unless close_notify had come."""
        if not self.peer_closed:
            raise TlsFailure(Outcome.TRUNCATED, "the TLS stream ended without close_notify")

    def send(self, data: bytes) -> None:
        """Encrypts application data. Raises TlsFailure."""
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Sends close_notify, once. Receiving goes on."""
        if self.closed:
            return
        self.closed = True
        try:
            self._object.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return
        except ssl.SSLError as error:
            raise _failure(error) from error

    def outgoing(self) -> bytes:
        """Ciphertext for the transport; empty where there is none."""
        return self._outgoing.read()

    @property
    def resumed(self) -> bool:
        """Whether a session was resumed. OpenSSL did not verify the peer again then."""
        return bool(self._object.session_reused)

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session; with a ticket only after the server has sent one, which follows the handshake."""
        return self._object.session

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's leaf certificate, DER, on resumed sessions too; None where it showed none."""
        return self._object.getpeercert(binary_form=True)

    @property
    def verified_chain(self) -> list[bytes]:
        """The chain that was verified in a full handshake, leaf first, anchor last, DER; empty on a resumed session."""
        public = getattr(self._object, "get_verified_chain", None)
        if public is not None:  # Python 3.13
            return list(public() or ())
        found = self._object._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # the same, before it was public
        return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in found or ()]

    @property
    def alpn(self) -> str | None:
        """The application protocol that was agreed on."""
        return self._object.selected_alpn_protocol()

    @property
    def cipher(self) -> str | None:
        """The cipher suite's name."""
        chosen = self._object.cipher()
        return None if chosen is None else chosen[0]


def _failure(error: ssl.SSLError | ssl.CertificateError) -> TlsFailure:
    if isinstance(error, ssl.SSLCertVerificationError):
        outcome = Outcome.CERTIFICATE_EXPIRED if error.verify_code in _EXPIRED else Outcome.CERTIFICATE_UNTRUSTED
        return TlsFailure(outcome, f"the peer's certificate does not verify: {error.verify_message}")
    reason = getattr(error, "reason", None) or str(error)
    if isinstance(error, ssl.SSLEOFError):
        return TlsFailure(Outcome.TRUNCATED, "the TLS stream ended without close_notify")
    if "ALERT" in reason:
        alert = reason.lower().partition("alert_")[2].replace("_", " ") or reason
        return TlsFailure(Outcome.REFUSED_BY_PEER, f"the peer refused with alert '{alert}'; its log has the reason")
    return TlsFailure(_REASONS.get(reason, Outcome.HANDSHAKE_FAILED), f"TLS failed: {reason.lower().replace('_', ' ')}")
