"""TLS 1.3 from its records up, for peers that keep to the letter and not to reason: floods, emptiness, odd cuttings.

The handshake is the standard library's; what follows it is sealed here, from the traffic secret that its key log tells.
"""

import hashlib
import hmac
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.identity.svid import Svid
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine

ALERT, HANDSHAKE, DATA = 21, 22, 23
NEW_SESSION_TICKET = b"\x04\x00\x00\x13" + bytes(4) + bytes(4) + b"\x01n" + b"\x00\x05hello" + b"\x00\x00"
"""RFC 8446, section 4.6.1, as short as one may be: lifetime 0, so that nobody keeps it."""


FFDHE8192, P521, P256, X25519 = 0x0104, 0x0019, 0x0017, 0x001D
"""Groups (RFC 8446, section 4.2.7)."""


def client_hello(group: int, share: bytes) -> bytes:
    """A ClientHello with this group alone, and a key share in it: it may be anything, and costs its sender nothing."""

    def vector(content: bytes, size: int = 2) -> bytes:
        return len(content).to_bytes(size, "big") + content

    named = group.to_bytes(2, "big")
    extensions = b"".join(
        kind.to_bytes(2, "big") + vector(content)
        for kind, content in (
            (10, vector(named)),
            (13, vector(b"\x04\x03")),
            (43, vector(b"\x03\x04", 1)),
            (51, vector(named + vector(share))),
        )
    )
    body = b"\x03\x03" + bytes(32) + b"\x00" + vector(b"\x13\x01") + b"\x01\x00" + vector(extensions)
    message = b"\x01" + vector(body, 3)
    return b"\x16\x03\x01" + vector(message)


def _expand(digest: str, secret: bytes, label: str, length: int) -> bytes:
    """HKDF-Expand-Label without context (RFC 8446, section 7.1), for one block of output at most."""
    name = b"tls13 " + label.encode()
    info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00\x01"
    return hmac.digest(secret, info, digest)[:length]


class Writer:
    """Seals records of one direction (RFC 8446, section 5.2) from its first application traffic secret on."""

    def __init__(self, secret: bytes, cipher: str) -> None:
        self._digest, self._key_size = ("sha384", 32) if cipher == "TLS_AES_256_GCM_SHA384" else ("sha256", 16)
        assert len(secret) == hashlib.new(self._digest).digest_size, f"{cipher} is not known here"
        self._secret = secret
        self._key()

    def _key(self) -> None:
        self._sealer = AESGCM(_expand(self._digest, self._secret, "key", self._key_size))
        self._iv = int.from_bytes(_expand(self._digest, self._secret, "iv", 12), "big")
        self._number = 0

    def record(self, content: bytes, kind: int = DATA, padding: int = 0) -> bytes:
        """One record."""
        inner = content + bytes([kind]) + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._sealer.encrypt(nonce, inner, header)

    def key_update(self, *, asked: bool = True) -> bytes:
        """A KeyUpdate (section 4.6.3), and what follows is under the next keys; `asked`: the other end shall too."""
        sealed = self.record(b"\x18\x00\x00\x01" + bytes([asked]), HANDSHAKE)
        self._secret = _expand(self._digest, self._secret, "traffic upd", len(self._secret))
        self._key()
        return sealed


class Peer:
    """An end of the standard library's, up to its last word in the handshake; from then on `writer` speaks for it."""

    def __init__(self, directory: Path, *, server: bool = False, svid: Svid | None = None, name: str = "") -> None:
        self._server = server
        self._log = Path(tempfile.mkdtemp(dir=directory)) / "keys"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(self._log)
        if svid is not None:
            pem = self._log.with_name("svid.pem")
            pem.write_bytes(svid.chain_pem + svid.key_pem)
            context.load_cert_chain(pem)
        if server:
            context.num_tickets = 0  # they would be this end's first records
        else:
            context.set_alpn_protocols(["quietwire/1"])
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name or None)

    def shake_hands(self, exchange: Callable[[bytes], bytes]) -> None:
        """`exchange` takes bytes to the other end, and returns what it says; called until this end is done."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._in.write(exchange(self._out.read()))
                continue
            break

    def last_flight(self) -> bytes:
        """What this end still has to say of the handshake."""
        return self._out.read()

    def writer(self) -> Writer:
        """Whoever speaks for this end from here on."""
        label = "SERVER_TRAFFIC_SECRET_0" if self._server else "CLIENT_TRAFFIC_SECRET_0"
        (secret,) = [line.split()[2] for line in self._log.read_text().splitlines() if line.startswith(label)]
        cipher = self.tls.cipher()
        assert cipher is not None
        return Writer(bytes.fromhex(secret), cipher[0])


def before_server(directory: Path, contexts: Contexts) -> tuple[Writer, TlsMachine, bytes]:
    """A client, our server's machine that knows it already but for its last flight, and that flight."""
    peer, machine = Peer(directory, name="server.test"), TlsMachine.server(contexts.server)

    def exchange(said: bytes) -> bytes:
        machine.receive(said)
        return machine.outgoing()

    peer.shake_hands(exchange)
    return peer.writer(), machine, peer.last_flight()


def towards_server(directory: Path, contexts: Contexts) -> tuple[Writer, TlsMachine]:
    """A client, and our server's machine after the handshake."""
    writer, machine, flight = before_server(directory, contexts)
    machine.receive(flight)
    machine.outgoing()
    return writer, machine


def towards_client(directory: Path, contexts: Contexts, svid: Svid) -> tuple[Writer, TlsMachine]:
    """A server under this SVID, and our client's machine after the handshake."""
    peer, machine = Peer(directory, server=True, svid=svid), TlsMachine.client(contexts.client, "server.test")
    machine.start()

    def exchange(said: bytes) -> bytes:
        if said:
            machine.receive(said)
        return machine.outgoing()

    peer.shake_hands(exchange)
    assert machine.handshake_complete
    return peer.writer(), machine
