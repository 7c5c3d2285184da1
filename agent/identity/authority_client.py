"""The provider that speaks to the authority's HTTPS API.

The authority is known by its SPIFFE ID, `spiffe://<trust domain>/authority`, under the bundle that we hold; its
host name and address mean nothing. Nothing is sent before that is checked.
"""

import asyncio
import json
import logging
import ssl
import time
from typing import Any

import h11

from agent.identity import bundle_document, received
from agent.identity.csr import new_request
from agent.identity.memfd import load_cert_chain
from agent.identity.provider import ProviderError
from agent.identity.renewal import renew_at
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.tls import peer

log = logging.getLogger("quietwire.identity")

REQUEST_SECONDS = 10.0
MAX_ANSWER = 1024 * 1024


class AuthorityClient:
    """One agent's connection to its authority. Joins with a one-time token, then uses its own SVID."""

    def __init__(self, *, address: str, bootstrap_bundle_pem: bytes, trust_domain: str, node: str, token: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.removeprefix("[").removesuffix("]"), int(port)
        self._trust_domain = trust_domain
        self._node = node
        self._token: str | None = token
        self._agent_id = SpiffeId.for_agent(trust_domain, node)
        self._authority_id = SpiffeId.parse(f"spiffe://{trust_domain}/authority")
        self._anchors = bootstrap_bundle_pem
        self._agent: Svid | None = None
        self._renew_at = 0.0
        self._joining = asyncio.Lock()

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        """A new SVID for a workload of this node. Raises ProviderError."""
        await self._ensure_joined()
        return await self._sign("/v1/svid", spiffe_id, {})

    async def bundle(self) -> Bundle:
        """The authority's bundle. Raises ProviderError."""
        body = await self._request("GET", "/v1/bundle", None)
        try:
            bundle = bundle_document.decode(body, self._trust_domain)
        except bundle_document.BundleError as error:
            raise ProviderError("bad_bundle", str(error)) from error
        self._anchors = bundle.anchors_pem
        return bundle

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _ensure_joined(self) -> None:
        async with self._joining:
            now = time.time()
            if self._agent is not None and now < self._renew_at:
                return
            if self._agent is None or now >= self._agent.not_after:
                if self._token is None:
                    raise ProviderError(
                        "not_joined",
                        "the agent's own SVID has expired and its join token is used up: restart the agent",
                    )
                self._agent = None
                self._agent = await self._sign("/v1/join", self._agent_id, {"token": self._token, "node": self._node})
                self._token = None
                log.info("joined as %s", self._agent_id)
            else:
                try:
                    self._agent = await self._sign("/v1/renew", self._agent_id, {})
                except ProviderError as error:
                    # What there is still works; the next request tries again.
                    log.warning("the agent's own SVID could not be renewed: %s", error)
                    return
            self._renew_at = renew_at(self._agent, time.time(), 0.0)

    async def _sign(self, path: str, spiffe_id: SpiffeId, more: dict[str, str]) -> Svid:
        request = new_request(spiffe_id)
        body = await self._request("POST", path, {"csr": request.csr_pem.decode(), **more})
        try:
            chain = json.loads(body)["chain_pem"].encode()
            return received.accept(request, spiffe_id, chain, now=time.time())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProviderError("bad_answer", f"the authority's answer cannot be used: {error}") from error

    async def _request(self, method: str, path: str, body: dict[str, str] | None) -> bytes:
        where = f"the authority at {self._host}:{self._port}"
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                status, answer = await self._exchange(method, path, body)
        except TimeoutError:
            raise ProviderError("timeout", f"{where} did not answer in {REQUEST_SECONDS:g} s") from None
        except ssl.SSLError as error:
            raise ProviderError("tls", f"TLS with {where} failed: {error.reason or error}") from error
        except peer.PeerRefused as error:
            raise ProviderError("wrong_authority", f"{where} is not {self._authority_id}: {error.detail}") from error
        except (OSError, EOFError) as error:
            raise ProviderError("unreachable", f"{where} cannot be reached: {error}") from error
        except h11.RemoteProtocolError as error:
            raise ProviderError("bad_answer", f"{where} does not speak HTTP: {error}") from error
        if status != 200:
            raise _refused(status, answer)
        return answer

    async def _exchange(self, method: str, path: str, body: dict[str, str] | None) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._context(), server_hostname="", ssl_handshake_timeout=REQUEST_SECONDS
        )
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            identity = peer.identify(certificate or b"", trust_domain=self._trust_domain, now=time.time())
            peer.expect(identity, self._authority_id)
            return await _http(reader, writer, method, path, None if body is None else json.dumps(body).encode())
        finally:
            writer.close()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the SPIFFE ID is checked instead
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self._anchors.decode("ascii"))
        if self._agent is not None:
            load_cert_chain(context, self._agent.chain_pem, self._agent.key_pem)
        return context


def _refused(status: int, answer: bytes) -> ProviderError:
    try:
        said: Any = json.loads(answer)
        return ProviderError(str(said["code"]), f"the authority refused: {said['message']}")
    except (ValueError, KeyError, TypeError):
        return ProviderError(f"http_{status}", f"the authority answered with status {status}")


async def _http(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    """One request and its answer: RFC 9112, with Connection: close."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "authority"), ("Connection", "close")]
    if body is not None:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    out = connection.send(h11.Request(method=method, target=path, headers=headers)) or b""
    if body is not None:
        out += connection.send(h11.Data(data=body)) or b""
    out += connection.send(h11.EndOfMessage()) or b""
    writer.write(out)
    await writer.drain()
    status, answer = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            answer += event.data
            if len(answer) > MAX_ANSWER:
                raise EOFError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(answer)
        elif isinstance(event, h11.ConnectionClosed):
            raise EOFError("the connection ended before the answer")
