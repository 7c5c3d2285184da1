"""uvicorn with mutual TLS: the authority's own SVID on this side, the caller's certificate in the ASGI scope."""

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.authority.api import PEER_CERTIFICATE, application
from agent.authority.refusal import Refusal
from agent.authority.service import AuthorityService, authority_id
from agent.identity.csr import new_request
from agent.identity.memfd import load_cert_chain
from agent.identity.received import UnexpectedSvidError, accept
from agent.identity.renewal import renew_at

log = logging.getLogger("quietwire.authority")

MAX_REQUESTS = 4096
"""Requests under way at once, long polls included: one per agent."""
MAX_STRANGERS = 32
"""Connections of one address that showed no certificate: agents that join need one, for a moment."""
HANDSHAKE_SECONDS = 10.0
HEADER_SECONDS = 10.0
"""How long a connection may take for the head of its first request."""
KEEP_ALIVE_SECONDS = 30
RETRY_SECONDS = 5.0
STOP_SECONDS = 2.0


class MutualTlsProtocol(H11Protocol):
    """uvicorn's h11 protocol, which also tells the application who calls, and bounds what strangers hold."""

    strangers: "Counter[str]"

    def connection_made(self, transport: Any) -> None:
        """Puts the peer's verified certificate where the application finds it."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        self._stranger = ""
        self._timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)
        if certificate is None and self.client is not None:
            self._stranger = self.client[0]
            self.strangers[self._stranger] += 1
            if self.strangers[self._stranger] > MAX_STRANGERS:
                transport.abort()
                return
        inner = self.app

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            async def dated(message: Any) -> None:
                if message["type"] == "http.response.start":
                    # Of the moment of the answer, which a long poll's is not: agents compare their clocks with it.
                    message["headers"] = [*message["headers"], (b"date", formatdate(usegmt=True).encode())]
                await send(message)

            scope[PEER_CERTIFICATE] = certificate
            await inner(scope, receive, dated)

        self.app = with_certificate

    def data_received(self, data: bytes) -> None:
        """Ends the wait for a request's head once it is there."""
        super().data_received(data)
        if self.cycle is not None:
            self._timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        super().connection_lost(exc)
        self._timer.cancel()
        if self._stranger:
            self.strangers[self._stranger] -= 1
            if self.strangers[self._stranger] <= 0:
                del self.strangers[self._stranger]

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


class AuthorityServer:
    """Serves the API until `stop`; renews its own SVID at half life, and anew when trust changes."""

    def __init__(self, service: AuthorityService, *, host: str, port: int) -> None:
        self._service = service
        self._id = authority_id(service.trust_domain)
        self._host, self._port = host, port
        self._config = uvicorn.Config(
            application(service),
            http=MutualTlsProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_REQUESTS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=65536,
        )
        self._state = uvicorn.server.ServerState()
        self._strangers: Counter[str] = Counter()
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._anchors = b""
        self._issuer = ""
        self._serial = ""
        self._due = 0.0
        self._context: ssl.SSLContext | None = None
        self._changed = asyncio.Event()

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError, Refusal."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener = listener
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self._port))
        self._config.load()
        await self._renew()
        return int(listener.getsockname()[1])

    def changed(self) -> None:
        """What is in force has changed: connections to come are served under it."""
        self._changed.set()

    async def run(self) -> None:
        """Renews the authority's own SVID, and follows what is in force."""
        while True:
            try:
                async with asyncio.timeout(max(self._due - time.time(), 0.1)):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            anchors = self._service.in_force.anchors
            same = (anchors.anchors_pem, anchors.issuer) == (self._anchors, self._issuer)
            # A certificate of ours that is revoked is one that agents take no more.
            if same and time.time() < self._due and self._serial not in self._service.publication.revoked_serials:
                continue
            try:
                await self._renew()
            except (Refusal, UnexpectedSvidError) as error:
                log.error("the authority cannot renew its own SVID: %s", error)
                self._due = time.time() + RETRY_SECONDS

    async def _renew(self) -> None:
        request = new_request(self._id)
        chain = await self._service.sign_own(request.csr_pem.decode())
        anchors = self._service.in_force.anchors
        svid = accept(request, self._id, chain, anchors.anchors_pem, now=time.time())
        self._due = renew_at(svid, time.time(), 0.0)
        self._serial = svid.serial
        self._issuer = svid.issuer  # which may be the former one already: then this is done again
        if self._context is not None and anchors.anchors_pem == self._anchors:
            load_cert_chain(self._context, svid.chain_pem, svid.key_pem)  # for the handshakes to come
            return
        self._anchors = anchors.anchors_pem
        context = self._context = _context(self._anchors)
        load_cert_chain(context, svid.chain_pem, svid.key_pem)
        await self._listen(context)

    async def _listen(self, context: ssl.SSLContext) -> None:
        """Serves with new anchors: a context cannot forget one. Who came in under the former ones comes again."""
        if self._listener is None:
            return
        former = self._server
        protocol = type("Protocol", (MutualTlsProtocol,), {"strangers": self._strangers})
        self._server = await asyncio.get_running_loop().create_server(
            lambda: protocol(config=self._config, server_state=self._state, app_state={}),
            sock=self._listener.dup(),
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            backlog=1024,
        )
        if former is not None:
            former.close()
            for connection in list(self._state.connections):
                if isinstance(connection, MutualTlsProtocol) and connection.cycle is not None:
                    connection.shutdown()  # one that has not asked yet is asked to hurry by its own timer

    async def stop(self) -> None:
        """Stops listening, and answers what is under way."""
        if self._server is not None:
            self._server.close()
        self._service.close()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=STOP_SECONDS)
        if self._listener is not None:
            self._listener.close()


def _context(anchors_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL  # an agent that joins has none yet
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.num_tickets = 0  # a resumed session would not verify the caller again
    context.load_verify_locations(cadata=anchors_pem.decode("ascii"))
    return context
