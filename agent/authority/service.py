"""What the authority does: joins agents, signs for the workloads of their nodes, publishes the bundle. No HTTP here."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from agent.authority import control, csr, rotation
from agent.authority.ledger import AUTHORITY, Book, Kind, Ledger, Publication, Revoked
from agent.authority.limits import RateLimit
from agent.authority.pki import GivenFiles, InForce, IssuerError
from agent.authority.refusal import Code, Refusal
from agent.authority.rotation import RotationError, Stage
from agent.authority.store import Store, StoreError
from agent.identity.spiffe import SpiffeId

log = logging.getLogger("quietwire.authority")

WATCH_SECONDS = 0.2
"""How often ledger and files are looked at for what others did to them."""
WARN_EVERY_SECONDS = 86400.0
AGENT_SECONDS = 86400.0
"""Lifetime of an agent's own SVID, at least: it is what an agent has to get all others with."""
ISSUER_RENEWED_AT = 1 / 3
"""Of its life left: then an issuer of our own is replaced."""
REQUESTS_PER_SECOND, REQUESTS_AT_ONCE = 50.0, 500
JOINS_PER_SECOND, JOINS_AT_ONCE = 5.0, 50


class Workloads(Protocol):
    """What the authority asks of the catalog."""

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of this service account is on this node."""


class Caller(Struct, frozen=True):
    """Who calls, by a client certificate that was verified."""

    spiffe_id: SpiffeId
    serial: str


class Signed(Struct, frozen=True):
    """An answer with a certificate: leaf first, then the issuer."""

    chain_pem: str


class AuthorityService:
    """One trust domain's authority. `start` before anything else; `watch` for as long as it serves."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        workloads: Workloads,
        *,
        trust_domain: str,
        svid_seconds: float,
        agent_seconds: float | None = None,
        given: GivenFiles | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.trust_domain = trust_domain
        self._store = store
        self._ledger = ledger
        self._workloads = workloads
        self._svid_seconds = svid_seconds
        self._agent_seconds = max(svid_seconds, AGENT_SECONDS) if agent_seconds is None else agent_seconds
        self._given = given
        self._given_state: object = None
        self._clock = clock
        self._news = asyncio.Event()
        self._closing = False
        self._requests = RateLimit(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)
        self._joins = RateLimit(JOINS_PER_SECOND, JOINS_AT_ONCE)
        self._warned_at = float("-inf")
        self.in_force: InForce
        self.publication: Publication

    async def start(self) -> None:
        """Makes what a first start needs, and puts it in force. Raises StoreError, IssuerError."""
        self.in_force, self.publication = await self._ledger.do(self._first)
        if self._given is not None:
            self._given_state = self._given.state()
        self._say_issuer("in force")
        self._warn()

    def _first(self, book: Book) -> tuple[InForce, Publication]:
        store, now, given = self._store, self._clock(), self._given
        if given is None:
            state = book.rotation()
            if state.since == 0.0:
                if book.issued():
                    raise StoreError(
                        f"{store.directory} has issued before, but not with roots of its own: give the issuer"
                    )
                store.create(state.root, self.trust_domain, now)
                book.set_rotation(rotation.first(now))
            book.set_given(None)
            control.tidy(book, store)
        else:
            book.set_given((str(given.certificate), str(given.key), str(given.roots)))
        return control.publish(book, store, now)

    # -- what others changed --

    async def watch(self, changed: Callable[[], None]) -> None:
        """Puts in force what an operator did, or the files of a given issuer say; `changed` follows each time."""
        seen = await self._ledger.do(Book.changes)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                now_seen = await self._ledger.do(Book.changes)
                files = None if self._given is None else self._given.state()
                if now_seen != seen or files != self._given_state:
                    seen, self._given_state = now_seen, files
                    await self._reload(changed)
                await self._advance(changed)
                await self._renew_issuer(changed)
            except StoreError as error:
                log.error("the root's rotation cannot go on: %s", error)
            except sqlite3.Error as error:
                log.error("the ledger cannot be used: %s", error)
            self._warn()

    async def _reload(self, changed: Callable[[], None]) -> None:
        former = self.in_force.anchors
        now = self._clock()
        try:
            self.in_force = await self._ledger.do(control.in_force, self._store, now)
        except (StoreError, IssuerError) as error:
            log.error("what is new cannot be put in force, the former stays: %s", error)
        self.publication = await self._ledger.do(Book.publish, self.in_force.anchors, now)
        if self.in_force.anchors != former:
            self._say_issuer("now in force")
        self._news.set()
        self._news = asyncio.Event()
        changed()

    async def _advance(self, changed: Callable[[], None]) -> None:
        state = await self._ledger.do(Book.rotation)
        if state.stage is Stage.NONE or not state.auto:
            return
        try:
            await self._ledger.do(control.advance, self._store, self._clock())
        except RotationError:
            return  # `status` names what holds it back
        log.info("the root's rotation has left stage %s", state.stage)
        await self._reload(changed)

    async def _renew_issuer(self, changed: Callable[[], None]) -> None:
        certificate = self.in_force.issuer.certificate
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        if self._given is not None or ends - self._clock() > (ends - begins) * ISSUER_RENEWED_AT:
            return
        root = self.in_force.roots[-1].not_valid_after_utc.timestamp()
        if ends >= root:
            return  # the root itself ends: only a rotation helps, and the warnings say so
        state = await self._ledger.do(Book.rotation)
        self._store.renew_issuer(state.issuer, self.trust_domain, self._clock())
        await self._reload(changed)

    def _say_issuer(self, how: str) -> None:
        found, publication = self.in_force, self.publication
        log.info(
            "issuer %s %s under %d root(s), until %s; bundle sequence %d",
            found.anchors.issuer[:16],
            how,
            len(found.roots),
            control.moment(found.expires),
            publication.sequence,
            extra={"fields": {"event": "issuer", "issuer": found.anchors.issuer, "sequence": publication.sequence}},
        )

    def _warn(self) -> None:
        now = self._clock()
        if now - self._warned_at < WARN_EVERY_SECONDS:
            return
        self._warned_at = now
        for expiry in control.expiries(self.in_force):
            warning = expiry.warning(now)
            if warning is not None:
                loud = expiry.not_after - now < control.WARN_SECONDS[0]
                log.log(
                    logging.ERROR if loud else logging.WARNING,
                    "%s: rotate the root (quietwire authority rotate-root start), or give a new issuer",
                    warning,
                )

    def close(self) -> None:
        """Ends every wait."""
        self._closing = True
        self._news.set()

    async def wait(self, known: int, seconds: float) -> Publication:
        """The publication, once its sequence is another than `known`; the same one after `seconds`."""
        news = self._news
        if self.publication.sequence == known and not self._closing:
            try:
                async with asyncio.timeout(seconds):
                    await news.wait()
            except TimeoutError:
                return self.publication
        return self.publication

    # -- what agents ask --

    async def join(self, token: str, node: str, csr_pem: str, address: str) -> Signed:
        """Attests an agent by its one-time token. Raises Refusal."""
        self._limit(self._joins, address)
        requested = csr.read(csr_pem, self.trust_domain)
        self._check_agent_id(requested.spiffe_id, node)
        await self._check_not_revoked(Kind.AGENT, node)
        try:
            problem = await self._ledger.do(Book.use_token, token, node, self._clock())
        except sqlite3.Error as error:
            raise _not_recorded(error) from error
        if problem is not None:
            raise Refusal(Code.BAD_TOKEN, f"{problem}; make a new one: quietwire authority token create --node {node}")
        log.info("agent of node %s joined", node)
        return await self.sign(requested, node, self._agent_seconds)

    async def renew(self, caller: Caller | None, csr_pem: str) -> Signed:
        """A new SVID for the calling agent itself. Raises Refusal."""
        node = await self._node_of(caller)
        requested = csr.read(csr_pem, self.trust_domain)
        self._check_agent_id(requested.spiffe_id, node)
        return await self.sign(requested, node, self._agent_seconds)

    async def issue(self, caller: Caller | None, csr_pem: str) -> Signed:
        """An SVID for a workload of the calling agent's node. Raises Refusal."""
        node = await self._node_of(caller)
        requested = csr.read(csr_pem, self.trust_domain)
        workload = requested.spiffe_id.workload
        if workload is None:
            raise Refusal(Code.NOT_A_WORKLOAD, f"{requested.spiffe_id} is no workload's: /ns/<namespace>/sa/<account>")
        if not self._workloads.has_workload(node, *workload):
            raise Refusal(
                Code.NO_SUCH_WORKLOAD,
                f"no pod of service account {workload[0]}/{workload[1]} is known on node {node}",
            )
        return await self.sign(requested, node, self._svid_seconds)

    async def confirm(self, caller: Caller | None, trusts: int, issuers: tuple[str, ...]) -> None:
        """An agent says what it trusts and uses. Callers that are no agents are not asked."""
        if caller is None or _node(caller.spiffe_id) is None:
            return
        node = await self._node_of(caller)
        try:
            await self._ledger.do(Book.confirm, node, trusts, issuers, self._clock())
        except sqlite3.Error as error:
            log.error("what the agent of node %s trusts could not be recorded: %s", node, error)

    async def sign(self, requested: csr.Requested, node: str, seconds: float) -> Signed:
        """Signs, and records it before anybody has it. Raises Refusal."""
        now, found = self._clock(), self.in_force
        if now >= found.expires:
            raise Refusal(
                Code.ISSUER_EXPIRED, f"the issuer, or what is above it, expired at {control.moment(found.expires)}"
            )
        try:
            chain = await self._ledger.do(
                control.sign, found, requested.spiffe_id, requested.public_key, node, now, seconds
            )
        except Revoked as revoked:
            raise Refusal(Code.REVOKED, f"{revoked}; quietwire authority unrevoke takes it back") from None
        except sqlite3.Error as error:
            raise _not_recorded(error) from error
        log.info("issued %s to node %s", requested.spiffe_id, node)
        return Signed(chain.decode())

    async def sign_own(self, csr_pem: str) -> bytes:
        """The authority's own SVID. Raises Refusal."""
        signed = await self.sign(csr.read(csr_pem, self.trust_domain), AUTHORITY, max(self._svid_seconds, 60.0))
        return signed.chain_pem.encode()

    async def _node_of(self, caller: Caller | None) -> str:
        node = None if caller is None else _node(caller.spiffe_id)
        if caller is None or node is None or not await self._ledger.do(Book.knows_agent, node):
            who = "without a client certificate" if caller is None else f"as {caller.spiffe_id}"
            raise Refusal(Code.UNKNOWN_CALLER, f"called {who}: only agents that have joined may ask; join with a token")
        await self._check_not_revoked(Kind.AGENT, node)
        if caller.serial in self.publication.revoked_serials:
            raise Refusal(Code.REVOKED, f"the certificate of {caller.spiffe_id}, serial {caller.serial}, is revoked")
        self._limit(self._requests, node)
        return node

    async def _check_not_revoked(self, kind: Kind, value: str) -> None:
        revocation = await self._ledger.do(Book.revocation, kind, value)
        if revocation is not None:
            raise Refusal(Code.REVOKED, f"{kind} {value} is revoked: {revocation.reason}")

    def _limit(self, limit: RateLimit, who: str) -> None:
        if not limit.admits(who, self._clock()):
            raise Refusal(Code.RATE_LIMITED, f"{who} asks too often: more than {limit.per_second:g} times a second")

    def _check_agent_id(self, asked: SpiffeId, node: str) -> None:
        try:
            wanted = SpiffeId.for_agent(self.trust_domain, node)
        except ValueError as error:
            raise Refusal(Code.MALFORMED_ID, f"node {node!r} cannot stand in a SPIFFE ID: {error}") from None
        if asked != wanted:
            raise Refusal(Code.WRONG_IDENTITY, f"the agent of node {node} may have {wanted}, not {asked}")


def _node(spiffe_id: SpiffeId) -> str | None:
    match spiffe_id.path.split("/"):
        case ["", "agent", node]:
            return node
        case _:
            return None


def _not_recorded(error: sqlite3.Error) -> Refusal:
    return Refusal(
        Code.NOT_RECORDED,
        f"the ledger cannot be written ({error}), so nothing was issued: is the authority's disk full?",
    )


def authority_id(trust_domain: str) -> SpiffeId:
    """The authority's own identity."""
    return SpiffeId.parse(f"spiffe://{trust_domain}/authority")
