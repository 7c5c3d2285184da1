"""The provider that speaks to the authority's HTTPS API.

The authority is known by its SPIFFE ID, `spiffe://<trust domain>/authority`, under the bundle that we hold; its
host name and address mean nothing. Nothing of ours is sent before that is checked. Of several addresses, the one that
last answered is tried first.
"""

import asyncio
import json
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import h11
from cryptography.exceptions import UnsupportedAlgorithm

from agent.identity import bundle_document, http, peer, received, tls_failure, x509_svid
from agent.identity.csr import new_request
from agent.identity.http import Answer
from agent.identity.memfd import load_cert_chain
from agent.identity.provider import ProviderError, Report
from agent.identity.renewal import BACKOFF_CAP_SECONDS, join_pause, renew_at
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.outcome import Outcome
from agent.tasks import spawn

log = logging.getLogger("quietwire.identity")

REQUEST_SECONDS = 10.0
POLL_SECONDS = 25
"""How long the authority may keep a poll open when it has no news."""
SKEW_SECONDS = 30.0
"""Clocks that differ by more are warned of."""
SKEW_SAID_EVERY_SECONDS = 600.0

Tokens = Callable[[], Awaitable[str]]
"""Gives what an agent joins with. Raises ProviderError where there is none."""


class Proof(StrEnum):
    """What `Tokens` gives, by the name that it has in the request."""

    JOIN_TOKEN = "token"  # noqa: S105 - the name of a field, not a secret
    """One-time, made by an operator."""
    SERVICE_ACCOUNT = "service_account_token"
    """Of the agent's own pod, projected into it for the authority's audience."""


def projected(path: Path) -> Tokens:
    """The service account token in a file of the pod, read each time: the kubelet puts a new one there."""

    async def token() -> str:
        try:
            found = (await asyncio.to_thread(path.read_text, encoding="ascii")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderError(
                "no_token",
                f"the service account token {path} cannot be read: {error}; it has to be projected into the agent's "
                f"pod (volumes, projected, serviceAccountToken, with the authority's audience)",
            ) from error
        if not found:
            raise ProviderError("no_token", f"the service account token {path} is empty")
        return found

    return token


class Credential(Protocol):
    """Where the agent's own SVID outlives the process; see agent.identity.credential."""

    def load(self) -> Svid | None:
        """The SVID that was kept, if it is one."""

    def save(self, svid: Svid) -> None:
        """Keeps it."""

    def save_anchors(self, anchors_pem: bytes) -> None:
        """Keeps the bundle that the authority is known by."""

    def retry(self) -> None:
        """Keeps what could not be kept, if it can now."""


class _NoAnswer(Exception):
    """The connection ended before there was an answer. `str` says whose."""


class AuthorityClient:
    """One agent's connection to its authority. Joins with what proves who it is, then uses its own SVID."""

    pushes = False

    def __init__(
        self,
        *,
        addresses: Sequence[str],
        anchors_pem: bytes,
        trust_domain: str,
        node: str,
        tokens: Tokens,
        proof: Proof = Proof.JOIN_TOKEN,
        credential: Credential | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._addresses = [_split(address) for address in addresses]
        self._trust_domain = trust_domain
        self._node = node
        self._tokens = tokens
        self._proof = proof
        self._credential = credential
        self._clock = clock
        self._agent_id = SpiffeId.for_agent(trust_domain, node)
        self._authority_id = SpiffeId.parse(f"spiffe://{trust_domain}/authority")
        self._anchors = anchors_pem
        self._bundle: Bundle | None = None
        self._agent: Svid | None = None if credential is None else credential.load()
        self._renew_at = 0.0 if self._agent is None else renew_at(self._agent, self._agent.not_before, 0.0)
        self._joining: asyncio.Task[ProviderError | None] | None = None
        self._doubted = False
        """The authority may not take our own certificate any more: where renewing fails, we join anew."""
        self._joins = 0
        """How often we joined since something that we asked for under our own certificate was answered."""
        self._join_at = float("-inf")
        """We do not join before."""
        self._random = random.SystemRandom()
        self._skew_said_at = float("-inf")
        self.skew: float | None = None
        """By how many seconds the authority's clock is ahead of this one; None before it was heard."""

    @property
    def agent(self) -> Svid | None:
        """The agent's own SVID."""
        return self._agent

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        """A new SVID for a workload of this node. Raises ProviderError."""
        await self._ensure_joined()
        return await self._sign("/v1/svid", spiffe_id, {})

    async def bundle(self, known: int, report: Report) -> Bundle | None:
        """The authority's bundle, by a long poll that also says what this agent has in force. Raises ProviderError."""
        # The first bundle comes before the first SVID; afterwards the authority is to know who follows.
        answer = await (self._poll(known, report) if known > 0 else self._read_bundle({}))
        if self._credential is not None:
            self._credential.retry()  # with every answer, so every half minute
        if answer.status == 304:
            return None
        try:
            bundle = bundle_document.decode(answer.body, self._trust_domain)
        except bundle_document.BundleError as error:
            raise ProviderError("bad_bundle", str(error)) from error
        if self._credential is not None:
            self._credential.save_anchors(bundle.anchors_pem)
        self._anchors, self._bundle = bundle.anchors_pem, bundle
        if self._agent is not None and not received.is_under(self._agent, bundle.anchors_pem, now=self._clock()):
            self._doubted = True  # the root that it is under has left
        return bundle

    async def _poll(self, known: int, report: Report) -> Answer:
        headers = {"If-None-Match": f'"{known}"'}
        try:
            await self._ensure_joined()
            own = {"Quietwire-Trusts": str(report.trusts)}
            own |= {"Quietwire-Issuers": ",".join(sorted(report.issuers | self._own_issuer()))}
            target = f"/v1/bundle?wait={POLL_SECONDS}"
            return await self._request("GET", target, None, headers | own, REQUEST_SECONDS + POLL_SECONDS)
        except ProviderError as error:
            if error.code in {"timeout", "wrong_authority", "bad_answer"}:
                raise
            failure = error
        # Perhaps the root that our own certificate is under has left, or it is revoked, or was: the bundle says so, and
        # is anybody's to read. Without it this agent would never hear that it may come back, nor of other revocations.
        answer = await self._read_bundle(headers)
        if failure.code in {"tls", "unreachable"}:
            self._doubted = True
        if answer.status == 304:
            raise failure  # there is no news that would mend it: the next try is not at once
        return answer

    async def _read_bundle(self, headers: Mapping[str, str]) -> Answer:
        return await self._request("GET", "/v1/bundle?wait=0", None, headers, REQUEST_SECONDS, anonymous=True)

    def _own_issuer(self) -> frozenset[str]:
        return frozenset() if self._agent is None else frozenset({self._agent.issuer_key_id})

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _ensure_joined(self) -> None:
        """Joins, or renews what we joined with, where that is due. Raises ProviderError."""
        if self._joining is None or self._joining.done():
            if not self._join_is_due() and not self._renewal_is_due():
                return
            self._joining = spawn(self._join(), name="agent's own SVID")
        # Shielded: whoever gives up waiting must not take a token down with it that is being used up.
        failure = await asyncio.shield(self._joining)
        if failure is not None:
            raise failure

    def _join_is_due(self) -> bool:
        agent = self._agent
        if agent is None or self._clock() >= agent.not_after:
            return True
        return self._bundle is not None and agent.serial in self._bundle.revoked_serials

    def _renewal_is_due(self) -> bool:
        agent = self._agent
        issuer_key_id = "" if self._bundle is None else self._bundle.issuer_key_id
        outdated = agent is not None and bool(issuer_key_id) and agent.issuer_key_id != issuer_key_id
        return self._clock() >= self._renew_at or outdated or self._doubted

    async def _join(self) -> ProviderError | None:
        now = self._clock()
        try:
            agent = await self._join_anew() if self._join_is_due() else await self._renew()
        except ProviderError as error:
            if self._join_is_due():
                return error
            # What there is still works; the next request tries again.
            log.warning("the agent's own SVID could not be renewed: %s", error)
            return None
        self._agent, self._doubted = agent, False
        self._renew_at = renew_at(agent, now, 0.0)
        if self._credential is not None:
            self._credential.save(agent)
        return None

    async def _join_anew(self) -> Svid:
        now = self._clock()
        if 0 < self._join_at - now <= BACKOFF_CAP_SECONDS:  # more, and this clock was set back
            raise ProviderError(
                "join_paused",
                f"this agent has joined {self._joins} times, and the authority takes nothing that came of it: its log "
                f"says why, and `quietwire authority status`. It joins again in {self._join_at - now:.0f} s",
            )
        token = await self._tokens()
        body = {self._proof.value: token, "node": self._node}
        try:
            agent = await self._sign("/v1/join", self._agent_id, body, anonymous=True)
        except ProviderError as error:
            if error.code == "bad_answer":  # the authority signs what nobody can use
                self._joined(now)
            raise
        self._joined(now)
        log.info("joined as %s", self._agent_id)
        return agent

    def _joined(self, now: float) -> None:
        """It was joined; until something works that came of it, the next time is ever later."""
        self._joins += 1
        self._join_at = now + join_pause(self._joins, self._random.random())

    async def _renew(self) -> Svid:
        try:
            return await self._sign("/v1/renew", self._agent_id, {})
        except ProviderError as error:
            if not self._doubted or error.code not in {"tls", "unreachable"}:
                raise
            failure = error
        agent = await self._join_anew()
        log.warning("the authority did not take this agent's certificate any more, and it joined anew: %s", failure)
        return agent

    async def _sign(self, path: str, spiffe_id: SpiffeId, more: dict[str, str], *, anonymous: bool = False) -> Svid:
        request = new_request(spiffe_id)
        body = {"csr": request.csr_pem.decode(), **more}
        answer = await self._request("POST", path, body, {}, REQUEST_SECONDS, anonymous=anonymous)
        try:
            chain = json.loads(answer.body)["chain_pem"].encode()
            return received.accept(request, spiffe_id, chain, self._anchors, now=self._clock())
        except (KeyError, AttributeError, UnsupportedAlgorithm, *x509_svid.UNREADABLE) as error:
            raise ProviderError("bad_answer", f"the authority's answer cannot be used: {error}") from error

    async def _request(
        self,
        method: str,
        target: str,
        body: dict[str, str] | None,
        headers: Mapping[str, str],
        seconds: float,
        *,
        anonymous: bool = False,
    ) -> Answer:
        """One request, to the first address that can be reached. Raises ProviderError."""
        data = None if body is None else json.dumps(body).encode()
        context = self._context(anonymous=anonymous)
        failure: ProviderError | None = None
        for where in list(self._addresses):
            try:
                answer = await self._request_at(where, context, method, target, data, headers, seconds)
            except ProviderError as error:
                failure = failure or error
                continue
            except _NoAnswer as error:
                problem = tls_failure.without_an_answer(None if anonymous else self._agent, self._clock())
                failure = failure or ProviderError("unreachable", f"{error}: {problem}")
                continue
            if where != self._addresses[0]:
                self._addresses.remove(where)
                self._addresses.insert(0, where)
            self._compare_clocks(answer)
            if answer.status not in {200, 304}:
                raise _refused(answer)
            if not anonymous:
                self._joins, self._join_at = 0, float("-inf")
            return answer
        raise failure or ProviderError("unreachable", "no address of an authority was given")

    async def _request_at(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        seconds: float,
    ) -> Answer:
        where = f"the authority at {address[0]}:{address[1]}"
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(address, context, method, target, body, headers)
        except TimeoutError:
            raise ProviderError("timeout", f"{where} did not answer in {seconds:g} s") from None
        except ssl.SSLCertVerificationError as error:
            seen = await tls_failure.look(address)
            why = tls_failure.does_not_verify(error, seen, self._anchors, self._clock())
            raise ProviderError("tls", f"TLS with {where} failed: {why}") from error
        except ssl.SSLError as error:
            why = tls_failure.refused_by_authority(error)
            raise ProviderError("tls", f"TLS with {where} failed: {why}") from error
        except peer.PeerRefused as error:
            raise ProviderError("wrong_authority", f"{where} is not {self._authority_id}: {error.detail}") from error
        except (ConnectionResetError, BrokenPipeError, EOFError) as error:
            raise _NoAnswer(f"{where} ended the connection") from error
        except OSError as error:
            raise ProviderError("unreachable", f"{where} cannot be reached: {error}") from error
        except h11.RemoteProtocolError as error:
            raise ProviderError("bad_answer", f"{where} does not speak HTTP: {error}") from error

    async def _exchange(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        reader, writer = await asyncio.open_connection(
            *address, ssl=context, server_hostname="", ssl_handshake_timeout=REQUEST_SECONDS
        )
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            identity = peer.identify(certificate or b"", trust_domain=self._trust_domain, now=self._clock())
            peer.expect(identity, self._authority_id)
            if self._bundle is not None and self._bundle.revokes(identity.spiffe_id, identity.serial):
                raise peer.PeerRefused(Outcome.IDENTITY_REVOKED, f"its certificate {identity.serial} is revoked")
            return await http.exchange(reader, writer, method, target, body, headers)
        finally:
            writer.close()

    def _context(self, *, anonymous: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the SPIFFE ID is checked instead
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self._anchors.decode("ascii"))
        if self._agent is not None and not anonymous:
            load_cert_chain(context, self._agent.chain_pem, self._agent.key_pem)
        return context

    def _compare_clocks(self, answer: Answer) -> None:
        if answer.date is None:
            return
        now = self._clock()
        self.skew = answer.date - now
        if abs(self.skew) > SKEW_SECONDS and now - self._skew_said_at > SKEW_SAID_EVERY_SECONDS:
            self._skew_said_at = now
            log.warning(
                "this clock is %.0f s %s the authority's: certificates may seem expired or not valid yet. Set it",
                abs(self.skew),
                "behind" if self.skew > 0 else "ahead of",
            )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _refused(answer: Answer) -> ProviderError:
    try:
        said: Any = json.loads(answer.body)
        return ProviderError(str(said["code"]), f"the authority refused: {said['message']}")
    except (ValueError, KeyError, TypeError):
        return ProviderError(f"http_{answer.status}", f"the authority answered with status {answer.status}")
