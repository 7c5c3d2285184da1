"""uvicorn with mutual TLS: the authority's own SVID on this side, the caller's certificate in the ASGI scope.

Connections are accepted here and not by asyncio, so that they are counted from their first packet on, and what is full
yields before anything is spent on TLS. One connection carries one request, in bounded time.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.authority.api import MAX_WAIT_SECONDS, PEER_CHAIN, application
from agent.authority.places import Place, Places, network
from agent.authority.refusal import Refusal
from agent.authority.service import AuthorityService, authority_id
from agent.authority.tls_stream import VERIFIED_CHAIN, TlsStream
from agent.capture.accepting import Listener, Told
from agent.identity import peer
from agent.identity.csr import new_request
from agent.identity.received import UnexpectedSvidError, accept
from agent.identity.renewal import renew_at
from agent.outcome import Outcome
from agent.tasks import spawn
from agent.tls._openssl import Context, OpenSslError
from agent.tls.machine import TlsFailure

log = logging.getLogger("quietwire.authority")

HEADER_SECONDS = 10.0
"""How long a connection may take for the head of its request."""
STRANGER_SECONDS = 40.0
"""How long a connection without an agent's certificate may last in all, its answer's reading included."""
AGENT_SECONDS = MAX_WAIT_SECONDS + STRANGER_SECONDS
RETRY_SECONDS = 5.0
STOP_SECONDS = 2.0
YIELDED_AT_ONCE = 4
"""Strangers that make room each time when descriptors or memory have run out."""


class MutualTlsProtocol(H11Protocol):
    """uvicorn's h11 protocol, which also tells the application who calls, and bounds what a connection may take."""

    places: Places
    place: Place
    trust_domain: str

    def connection_made(self, transport: Any) -> None:
        """Puts the peer's verified chain where the application finds it, and begins the clocks."""
        super().connection_made(transport)
        chain = transport.get_extra_info(VERIFIED_CHAIN)
        agent = _agent(chain, self.trust_domain)
        self._head = self.loop.call_later(HEADER_SECONDS, transport.abort)
        self._life = self.loop.call_later(STRANGER_SECONDS if agent is None else AGENT_SECONDS, transport.abort)
        self.place.is_served = self._is_served
        self.place.end = transport.abort
        if agent is not None and not self.places.know(self.place, agent):
            transport.abort()
            return
        inner = self.app

        async def with_chain(scope: Any, receive: Any, send: Any) -> None:
            async def dated(message: Any) -> None:
                if message["type"] == "http.response.start":
                    # Of the moment of the answer, which a long poll's is not: agents compare their clocks with it.
                    date = (b"date", formatdate(usegmt=True).encode())
                    message["headers"] = [*message["headers"], date, (b"connection", b"close")]
                await send(message)

            scope[PEER_CHAIN] = chain
            await inner(scope, receive, dated)

        self.app = with_chain

    def data_received(self, data: bytes) -> None:
        """Ends the wait for a request's head once it is there."""
        super().data_received(data)
        if self.cycle is not None:
            self._head.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        super().connection_lost(exc)
        self._head.cancel()
        self._life.cancel()

    def _is_served(self) -> bool:
        """Whether it waits for us: its request is there, and its answer is not."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete


def _agent(chain: Sequence[bytes], trust_domain: str) -> str | None:
    """The node whose agent shows this chain; None where it is no agent's."""
    if not chain:
        return None
    try:
        return peer.identify_chain(chain, trust_domain=trust_domain, now=time.time()).spiffe_id.agent
    except peer.PeerRefused:
        return None  # a stranger then: what it asks for is refused with the reason


def _socket(host: str) -> socket.socket:
    """For an address; for every one, where it is empty: of both families, or IPv4's on a machine without IPv6."""
    if host and ":" not in host:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        if host or error.errno != errno.EAFNOSUPPORT:
            raise
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if not host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


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
            h11_max_incomplete_event_size=65536,
        )
        self._state = uvicorn.server.ServerState()
        # It warns of every request that is no HTTP, at whatever rate strangers send them.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._places = Places()
        self._listener: Listener | None = None
        self._told = Told()
        self._anchors = b""
        self._issuer_key_id = ""
        self._serial = ""
        self._due = 0.0
        self._changed = asyncio.Event()

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError, Refusal."""
        sock = _socket(self._host)
        with contextlib.ExitStack() as unless_listening:
            unless_listening.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._host or ("::" if sock.family == socket.AF_INET6 else "0.0.0.0"), self._port))
            self._config.load()
            await self._renew()
            sock.listen(1024)
            unless_listening.pop_all()
        self._listener = Listener(sock, self._take, name="the authority", told=self._told, short=self._yield_places)
        return int(sock.getsockname()[1])

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
            trust = self._service.in_force.trust
            same = (trust.anchors_pem, trust.issuer_key_id) == (self._anchors, self._issuer_key_id)
            # A certificate of ours that is revoked is one that agents take no more.
            if same and time.time() < self._due and self._serial not in self._service.publication.revoked_serials:
                continue
            try:
                await self._renew()
            except (Refusal, UnexpectedSvidError, OpenSslError) as error:  # the former one stays in use
                log.error("the authority cannot renew its own SVID: %s", error)
                self._due = time.time() + RETRY_SECONDS

    async def _renew(self) -> None:
        request = new_request(self._id)
        chain = await self._service.sign_own(request.csr_pem.decode())
        trust = self._service.in_force.trust
        svid = accept(request, self._id, chain, trust.anchors_pem, now=time.time())
        self._due = renew_at(svid, time.time(), 0.0)
        self._serial = svid.serial
        # For the handshakes to come. Without a store no session is resumed, so that each caller is verified.
        self._context = Context(
            server=True,
            chain_pem=svid.chain_pem,
            key_pem=svid.key_pem,
            anchors_pem=trust.anchors_pem,
            alpn=(b"http/1.1",),
        )
        self._anchors = trust.anchors_pem
        self._issuer_key_id = svid.issuer_key_id  # which may be the former one already: then this is done again

    def _yield_places(self, _error: OSError) -> None:
        for _ in range(YIELDED_AT_ONCE):  # the process has less than places were counted on
            self._places.strangers.crowd_out()

    def _take(self, sock: socket.socket) -> None:
        try:
            address = str(sock.getpeername()[0])
        except OSError:  # reset before it was accepted: nobody is there to be served
            sock.close()
            return

        def end() -> None:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # the transport has the descriptor, and closes it
            except OSError:
                return  # it has ended by itself

        place = Place(network(address), end)
        if not self._places.enter(place):
            sock.close()
            return
        spawn(self._serve(sock, place), name="authority's connection")

    async def _serve(self, sock: socket.socket, place: Place) -> None:
        def protocol() -> MutualTlsProtocol:
            made = MutualTlsProtocol(config=self._config, server_state=self._state, app_state={})
            made.places, made.place, made.trust_domain = self._places, place, self._service.trust_domain
            return made

        def stream() -> TlsStream:
            return TlsStream(self._context, protocol, lambda: self._places.leave(place), partial(self._failed, place))

        try:
            await asyncio.get_running_loop().connect_accepted_socket(stream, sock)
        except OSError as error:  # it is gone already
            log.debug("no connection with %s: %s", place.owner, error)
            self._places.leave(place)
            sock.close()

    def _failed(self, place: Place, failure: TlsFailure) -> None:
        log.debug("no connection with %s: %s", place.owner, failure)
        if failure.outcome not in {Outcome.CERTIFICATE_EXPIRED, Outcome.CERTIFICATE_UNTRUSTED}:
            return
        untold = self._told.may(failure.detail, asyncio.get_running_loop().time())
        if untold is not None:
            more = f" (and {untold} more like it before that were not logged)" if untold else ""
            log.warning("a caller from %s is not served: %s%s", place.owner, failure.detail, more)

    async def stop(self) -> None:
        """Stops listening, and answers what is under way."""
        if self._listener is not None:
            self._listener.close()
        self._service.close()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=STOP_SECONDS)
