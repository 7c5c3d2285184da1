"""The HTTPS API: starlette routes over the service. Bodies are small and bounded; errors are {code, message}."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agent.authority.ledger import Publication
from agent.authority.limits import RateLimit
from agent.authority.places import network
from agent.authority.refusal import Code, Refusal
from agent.authority.service import AuthorityService, Caller, Signed
from agent.authority.store import StoreError, StoreUnavailableError
from agent.identity import bundle_document, peer
from agent.identity.svid import Bundle

log = logging.getLogger("quietwire.authority")

MAX_BODY = 32768
BODY_SECONDS = 10.0
MAX_WAIT_SECONDS = 60.0
"""Of one long poll."""
TRUSTS, ISSUERS = "quietwire-trusts", "quietwire-issuers"
"""Request headers of an agent's poll: the bundle sequence it has in force, and under which issuers its SVIDs are."""
REFRESH_HINT_SECONDS = 300
RETRY_AFTER_SECONDS = 1
"""Of what could not be answered now (RFC 9110, section 10.2.3)."""
REFUSALS_PER_SECOND, REFUSALS_AT_ONCE = 5.0, 50
"""Of the log's lines."""
PEER_CHAIN = "quietwire.peer_chain"
"""Key in the ASGI scope: the caller's verified chain, DER, leaf first; empty where it showed no certificate."""


Serve = Callable[[Request, Caller | None], Awaitable[Response]]
"""What a door opens to: the request, and who calls."""


class JoinBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/join: with one of the two proofs, a one-time token or the service account token of the agent's pod."""

    node: str
    csr: str
    token: str | None = None
    service_account_token: str | None = None


class CsrBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/svid and /v1/renew."""

    csr: str


def application(service: AuthorityService) -> Starlette:
    """The ASGI application."""
    trust_domain = service.trust_domain

    async def join(request: Request, _: Caller | None) -> Response:
        body = msgspec.json.decode(await _body(request), type=JoinBody)
        address = "nobody" if request.client is None else network(request.client.host)
        match body.token, body.service_account_token:
            case str(token), None:
                return _signed(await service.join(token, body.node, body.csr, address))
            case None, str(token):
                return _signed(await service.join_from_pod(token, body.node, body.csr, address))
        raise Refusal(Code.BAD_REQUEST, "to join takes one of token and service_account_token")

    async def svid(request: Request, caller: Caller | None) -> Response:
        body = msgspec.json.decode(await _body(request), type=CsrBody)
        return _signed(await service.issue(caller, body.csr))

    async def renew(request: Request, caller: Caller | None) -> Response:
        body = msgspec.json.decode(await _body(request), type=CsrBody)
        return _signed(await service.renew(caller, body.csr))

    async def bundle(request: Request, caller: Caller | None) -> Response:
        known, seconds = _known(request), min(_number(request.query_params.get("wait", "0")), MAX_WAIT_SECONDS)
        trusts = _number(request.headers[TRUSTS]) if TRUSTS in request.headers else None
        node = await service.agent(caller)
        if node is None:
            publication = service.publication  # at once: only agents may wait here
        else:
            if trusts is not None:
                issuers = tuple(filter(None, request.headers.get(ISSUERS, "")[:4096].split(",")))
                await service.confirm(node, trusts, issuers)
            publication = await service.wait(known, seconds, node)
        etag = {"ETag": f'"{publication.sequence}"'}
        if publication.sequence == known:
            return Response(status_code=304, headers=etag)
        document = bundle_document.encode(as_bundle(publication, trust_domain))
        return Response(document, headers=etag, media_type="application/json")

    def door(path: str, method: str, serve: Serve) -> Route:
        """A route behind the one question that all of them ask: whether who calls is revoked."""

        async def handler(request: Request) -> Response:
            caller = _caller(request, trust_domain)
            if caller is not None:
                await service.check_caller(caller)
            return await serve(request, caller)

        return Route(path, handler, methods=[method])

    made = Starlette(
        routes=[
            door("/v1/join", "POST", join),
            door("/v1/svid", "POST", svid),
            door("/v1/renew", "POST", renew),
            door("/v1/bundle", "GET", bundle),
        ],
        exception_handlers={
            Refusal: _Said().refused,
            StoreError: _unusable,
            StoreUnavailableError: _unusable,
            msgspec.DecodeError: _undecodable,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
        },
    )
    made.router.redirect_slashes = False  # it would be a door that is not in the table above
    return made


def as_bundle(publication: Publication, trust_domain: str) -> Bundle:
    """What is published, as those who verify know it."""
    trust = publication.trust
    return Bundle(
        trust_domain,
        trust.anchors_pem,
        publication.sequence,
        REFRESH_HINT_SECONDS,
        trust.issuer_key_id,
        trust.issuer_expires,
        frozenset(publication.revoked_ids),
        frozenset(publication.revoked_serials),
        frozenset(publication.retired),
    )


def _known(request: Request) -> int:
    """The sequence that the caller has, by If-None-Match (RFC 9110, section 13.1.2); -1 where it has none."""
    tag = request.headers.get("if-none-match", "").removeprefix("W/").strip('"')
    return int(tag) if tag.isascii() and tag.isdigit() and len(tag) < 19 else -1


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refusal(Code.BAD_REQUEST, f"{text[:40]!r} is no number")
    return int(text)


def _caller(request: Request, trust_domain: str) -> Caller | None:
    chain = request.scope[PEER_CHAIN]
    if not chain:
        return None
    try:
        identity = peer.identify_chain(chain, trust_domain=trust_domain, now=time.time())
    except peer.PeerRefused as refused:
        raise Refusal(Code.UNKNOWN_CALLER, refused.detail) from refused
    return Caller(identity.spiffe_id, identity.serial)


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refusal(Code.TOO_LARGE, f"the request is over the limit of {MAX_BODY} bytes")
    except TimeoutError:
        raise Refusal(Code.TOO_SLOW, f"the request's body did not come in {BODY_SECONDS:g} s") from None
    return bytes(body)


def _signed(signed: Signed) -> Response:
    return Response(msgspec.json.encode(signed), media_type="application/json")


def _error(status: int, code: str, message: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    body = msgspec.json.encode({"code": code, "message": message})
    return Response(body, status, headers, media_type="application/json")


class _Said:
    """Refusals in the log, at a rate that strangers cannot raise; what is over is counted, and said with the next."""

    def __init__(self) -> None:
        self._limit = RateLimit(REFUSALS_PER_SECOND, REFUSALS_AT_ONCE)
        self._unsaid = 0

    async def refused(self, request: Request, error: Any) -> Response:
        client = "nobody" if request.client is None else request.client.host
        if self._limit.admits("all", time.monotonic()):
            more = f" ({self._unsaid} more since the last that was said)" if self._unsaid else ""
            log.warning("refused %s from %s: %s%s", request.url.path, client, error, more)
            self._unsaid = 0
        else:
            self._unsaid += 1
        return _error(error.status, error.code, error.message)


async def _undecodable(_: Request, error: Any) -> Response:
    return _error(400, Code.BAD_REQUEST, f"the body is not the JSON that is expected: {error}")


async def _unusable(_: Request, error: Any) -> Response:
    # Closes: what is in force cannot be told, so nobody is let in and nothing is signed.
    log.error("a request could not be answered: %s", error)
    return _error(503, Code.NOT_RECORDED, f"the authority's state cannot be used now: {error}")


async def _gone(_: Request, __: Any) -> Response:
    # It left in the middle of its request, or broke HTTP there; nobody is left to hear this.
    return _error(400, Code.BAD_REQUEST, "the request ended in its middle")


async def _http_error(_: Request, error: Any) -> Response:
    return _error(error.status_code, Code.BAD_REQUEST, str(error.detail))
