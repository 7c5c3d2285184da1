"""The HTTPS API: starlette routes over the service. Bodies are small and bounded; errors are {code, message}."""

import logging
import time
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.authority.refusal import Code, Refusal
from agent.authority.service import AuthorityService, Signed
from agent.identity import bundle_document
from agent.identity.spiffe import SpiffeId
from agent.tls import peer

log = logging.getLogger("quietwire.authority")

MAX_BODY = 32768
PEER_CERTIFICATE = "quietwire.peer_certificate"
"""Key in the ASGI scope: the caller's verified leaf, DER; see agent.authority.server."""


class JoinBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/join."""

    token: str
    node: str
    csr: str


class CsrBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/svid and /v1/renew."""

    csr: str


def application(service: AuthorityService, trust_domain: str) -> Starlette:
    """The ASGI application."""

    async def join(request: Request) -> Response:
        body = msgspec.json.decode(await _body(request), type=JoinBody)
        return _signed(await service.join(body.token, body.node, body.csr))

    async def svid(request: Request) -> Response:
        body = msgspec.json.decode(await _body(request), type=CsrBody)
        return _signed(await service.issue(_caller(request, trust_domain), body.csr))

    async def renew(request: Request) -> Response:
        body = msgspec.json.decode(await _body(request), type=CsrBody)
        return _signed(await service.renew(_caller(request, trust_domain), body.csr))

    async def bundle(_: Request) -> Response:
        return Response(bundle_document.encode(service.bundle), media_type="application/json")

    return Starlette(
        routes=[
            Route("/v1/join", join, methods=["POST"]),
            Route("/v1/svid", svid, methods=["POST"]),
            Route("/v1/renew", renew, methods=["POST"]),
            Route("/v1/bundle", bundle, methods=["GET"]),
        ],
        exception_handlers={Refusal: _refused, msgspec.DecodeError: _undecodable, HTTPException: _http_error},
    )


def _caller(request: Request, trust_domain: str) -> SpiffeId | None:
    der = request.scope.get(PEER_CERTIFICATE)
    if der is None:
        return None
    try:
        return peer.identify(der, trust_domain=trust_domain, now=time.time()).spiffe_id
    except peer.PeerRefused as refused:
        raise Refusal(Code.UNKNOWN_CALLER, refused.detail) from refused


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refusal(Code.TOO_LARGE, f"the request is over the limit of {MAX_BODY} bytes")
    return bytes(body)


def _signed(signed: Signed) -> Response:
    return Response(msgspec.json.encode(signed), media_type="application/json")


def _error(status: int, code: str, message: str) -> Response:
    return Response(msgspec.json.encode({"code": code, "message": message}), status, media_type="application/json")


async def _refused(request: Request, error: Any) -> Response:
    client = "nobody" if request.client is None else request.client.host
    log.warning("refused %s from %s: %s", request.url.path, client, error)
    return _error(error.status, error.code, error.message)


async def _undecodable(_: Request, error: Any) -> Response:
    return _error(400, Code.BAD_REQUEST, f"the body is not the JSON that is expected: {error}")


async def _http_error(_: Request, error: Any) -> Response:
    return _error(error.status_code, Code.BAD_REQUEST, str(error.detail))
