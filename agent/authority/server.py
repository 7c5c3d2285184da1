"""uvicorn with mutual TLS: the authority's own SVID on this side, the caller's certificate in the ASGI scope."""

import asyncio
import ssl
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.authority.api import PEER_CERTIFICATE
from agent.authority.csr import read
from agent.authority.service import AuthorityService
from agent.identity.csr import new_request
from agent.identity.memfd import load_cert_chain
from agent.identity.received import accept
from agent.identity.renewal import renew_at
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid

MAX_CONNECTIONS = 512
HANDSHAKE_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30


class MutualTlsProtocol(H11Protocol):
    """uvicorn's h11 protocol, which also tells the application who calls."""

    def connection_made(self, transport: Any) -> None:
        """Puts the peer's verified certificate where the application finds it."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        inner = self.app

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            scope[PEER_CERTIFICATE] = certificate
            await inner(scope, receive, send)

        self.app = with_certificate


class AuthorityServer:
    """Serves the API until `stop`; renews its own SVID at half life."""

    def __init__(self, app: ASGIApp, service: AuthorityService, *, trust_domain: str, host: str, port: int) -> None:
        self._service = service
        self._id = SpiffeId.parse(f"spiffe://{trust_domain}/authority")
        self._host, self._port = host, port
        self._context = self._new_context()
        self._config = uvicorn.Config(
            app,
            http=MutualTlsProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=65536,
        )
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError."""
        await self._renew()
        self._config.load()
        state = uvicorn.server.ServerState()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: MutualTlsProtocol(config=self._config, server_state=state, app_state={}),
            self._host,
            self._port,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def run(self) -> None:
        """Renews the authority's own SVID while it serves."""
        while True:
            await asyncio.sleep(max(self._due - time.time(), 0.1))
            await self._renew()

    async def _renew(self) -> None:
        request = new_request(self._id)
        signed = await self._service.sign(read(request.csr_pem.decode(), self._id.trust_domain), "authority")
        svid: Svid = accept(request, self._id, signed.chain_pem.encode(), now=time.time())
        # A context takes a new chain for the handshakes to come.
        load_cert_chain(self._context, svid.chain_pem, svid.key_pem)
        self._due = renew_at(svid, time.time(), 0.0)

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL  # an agent that joins has none yet
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.num_tickets = 0  # a resumed session would not verify the caller again
        context.load_verify_locations(cadata=self._service.bundle.anchors_pem.decode("ascii"))
        return context

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
