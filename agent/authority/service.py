"""What the authority does: joins agents, signs for the workloads of their nodes, publishes the bundle. No HTTP here."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from agent.authority import control, csr, pki, rotation
from agent.authority.attestation import Attested
from agent.authority.control import Expiry
from agent.authority.ledger import AUTHORITY, Book, Publication, Revoked, Subject
from agent.authority.limits import RateLimit
from agent.authority.pki import GivenFiles, InForce, IssuerError
from agent.authority.refusal import Code, Refusal, bad_token
from agent.authority.retry import Retry
from agent.authority.rotation import RotationError, Stage
from agent.authority.store import Store, StoreError, StoreUnavailableError
from agent.identity.expiry import Nearness
from agent.identity.spiffe import SpiffeId

log = logging.getLogger("quietwire.authority")

WATCH_SECONDS = 0.2
"""How often ledger and files are looked at for what others did to them."""
WARN_EVERY_SECONDS = 86400.0
"""How often an end that nears is said again, besides the moments at which it comes within 30 days and within 7."""
WARN_LEVELS = {
    Nearness.NEAR: logging.WARNING,
    Nearness.URGENT: logging.ERROR,
    Nearness.EXPIRED: logging.CRITICAL,
}
AGENT_SECONDS = 86400.0
"""Lifetime of an agent's own SVID, at least: it is what an agent has to get all others with."""
REQUESTS_PER_SECOND, REQUESTS_AT_ONCE = 50.0, 500
JOINS_PER_SECOND, JOINS_AT_ONCE = 5.0, 50


class Workloads(Protocol):
    """What the authority asks of the catalog."""

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of this service account is on this node."""


class Attestor(Protocol):
    """Who knows agents by the service account tokens of their pods."""

    async def attest(self, token: str, node: str) -> Attested:
        """The agent of this node. Raises Refusal."""


class Caller(Struct, frozen=True):
    """Who calls, by a client certificate that was verified."""

    spiffe_id: SpiffeId
    serial: str


class Signed(Struct, frozen=True):
    """An answer with a certificate: leaf first, then the issuer."""

    chain_pem: str


class AuthorityService:
    """One trust domain's authority. `start` before anything else; `watch` for as long as it serves.

    Of several replicas each signs; the one that `leads` goes on with a rotation, and renews the issuer.
    """

    def __init__(
        self,
        store: Store,
        workloads: Workloads,
        *,
        trust_domain: str,
        svid_seconds: float,
        agent_seconds: float | None = None,
        given: GivenFiles | None = None,
        attestor: Attestor | None = None,
        leads: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.trust_domain = trust_domain
        self._store = store
        self._workloads = workloads
        self._svid_seconds = svid_seconds
        self._agent_seconds = max(svid_seconds, AGENT_SECONDS) if agent_seconds is None else agent_seconds
        self._given = given
        self._attestor = attestor
        self._leads = leads
        self._taken: object = None
        """The state of ledger and files that was put in force, and the last one that was tried."""
        self._tried: object = None
        self._retry, self._trouble = Retry(), Retry()
        self._clock = clock
        self._polls: dict[str, asyncio.Event] = {}
        """What each agent's poll waits for, by node."""
        self._closing = False
        self._requests = RateLimit(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)
        self._joins = RateLimit(JOINS_PER_SECOND, JOINS_AT_ONCE)
        self._warned: dict[Expiry, tuple[Nearness, float]] = {}
        self.in_force: InForce
        self.publication: Publication

    async def start(self) -> None:
        """Makes what a first start needs, and puts it in force. Raises StoreError, IssuerError."""
        self._taken = self._tried = await self._state()
        self.in_force, self.publication = await self._store.do(self._first)
        self._say_issuer("is in force")
        self._warn()

    def _first(self, book: Book) -> tuple[InForce, Publication]:
        keys, now, given = self._store.keys, self._clock(), self._given
        if not book.has_begun():
            keys.check_new()
            book.begin()  # what is cut short from here on is no lost ledger
        keys.begun()
        if given is None:
            state = book.rotation()
            if state.since == 0.0:
                if book.issued():
                    raise StoreError(f"{keys.where} has issued before, but not with roots of its own: give the issuer")
                keys.create(state.root, self.trust_domain, now)
                book.set_rotation(rotation.first(now))
            book.set_given(None)
            control.tidy(book, keys)
            # One that expired while nobody ran is no reason to stay down.
            if control.renew_issuer(book, keys, now):
                log.info("the issuer was in the last third of its life: a new one is made")
        else:
            book.set_given((str(given.certificate), str(given.key), str(given.roots)))
        with book.transaction():
            found = self._found(book, now)
            return self._settled(book, found, found, now)

    # -- what others changed --

    async def watch(self, changed: Callable[[], None]) -> None:
        """Puts in force what an operator did, or the files of a given issuer say; `changed` follows each time.

        Raises LedgerReplacedError: whoever runs it starts it again, on the file that is there then.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.look(changed)

    async def look(self, changed: Callable[[], None]) -> None:
        """One look of `watch`. What fails is said, and tried again until it works."""
        now = self._clock()
        try:
            await self._follow(changed, "taken over" if self._given is not None else "now in force")
            if self._leads() and self._trouble.due(now):
                await self._advance(changed)
                await self._renew_issuer(changed)
                self._trouble.succeeded()
        except (StoreError, StoreUnavailableError, OSError) as error:
            self._taken = None  # part of it may be done
            reason = (
                f"{'the ledger' if isinstance(error, StoreUnavailableError) else 'the state'} cannot be used: {error}"
            )
            if self._trouble.failed(now, reason):
                log.error("%s; what is in force stays, and this is tried again", reason)
        self._warn()

    async def _state(self) -> object:
        """Differs once somebody else has written to the ledger, or a file of a given issuer is another one."""
        return await self._store.changes(), None if self._given is None else (self._given.state(), self._leads())

    async def _follow(self, changed: Callable[[], None], how: str) -> None:
        state = await self._state()
        if state != self._tried:
            self._retry.hurry()
        elif state == self._taken or not self._retry.due(self._clock()):
            return
        self._tried = state
        problem: Exception | None
        try:
            problem = await self._reload(changed, how)
        except StoreUnavailableError as error:
            problem = error
        if problem is None:
            self._taken = state
            if self._retry.failing:
                log.info("what was refused can be used now")
            self._retry.succeeded()
            return
        possible_at = problem.possible_at if isinstance(problem, IssuerError) else None
        if self._retry.failed(self._clock(), str(problem), possible_at=possible_at):
            log.error(
                "what is new cannot be put in force, the former stays: %s%s",
                problem,
                "; it is tried again" if possible_at is None else f"; tried again at {control.moment(possible_at)}",
                extra={"fields": {"event": "issuer", "action": "refused", "issuer": self.in_force.trust.issuer_key_id}},
            )

    async def _reload(self, changed: Callable[[], None], how: str) -> StoreError | IssuerError | None:
        """Puts in force and publishes what ledger and files say, both or neither; why the issuer was refused."""
        former, published = self.in_force, self.publication
        found, publication, problem = await self._store.do(self._take, former, self._clock())
        self.in_force, self.publication = found, publication
        if found.issuer.certificate != former.issuer.certificate:
            self._say_issuer(how)
        elif found.trust != former.trust or found.left_out != former.left_out:
            self._say_issuer("stays, under other roots")
        if publication != published:
            self._tell()
            changed()
        return problem

    def _take(
        self, book: Book, former: InForce, now: float
    ) -> tuple[InForce, Publication, StoreError | IssuerError | None]:
        with book.transaction():
            problem = None
            try:
                found = self._found(book, now)
            except (StoreError, IssuerError) as error:
                found, problem = former, error
            # Also then: revocations are in the same ledger, and do not wait.
            return *self._settled(book, found, former, now), problem

    def _found(self, book: Book, now: float) -> InForce:
        if self._given is not None:
            return pki.given(self._given, self.trust_domain, now)
        return control.in_force(book, self._store.keys, now)

    def _settled(self, book: Book, found: InForce, former: InForce, now: float) -> tuple[InForce, Publication]:
        """What is signed with, and published. A given issuer's files are replaced under each replica at another time.

        So the one that leads publishes what its files say; another signs as before until its files say the same.
        """
        published = book.publication()
        differs = published is not None and published.trust != found.trust
        if self._given is not None and differs and not self._leads():
            return former, book.publish(None, now)
        return found, book.publish(found.trust, now)

    async def _advance(self, changed: Callable[[], None]) -> None:
        state = await self._store.do(Book.rotation)
        if state.stage is Stage.NONE or not state.auto:
            return
        try:
            await self._store.do(control.advance, self._store.keys, self._clock())
        except RotationError:
            return  # `status` names what holds it back
        log.info("the root's rotation has left stage %s", state.stage)
        self._taken = None
        await self._follow(changed, "now in force")

    async def _renew_issuer(self, changed: Callable[[], None]) -> None:
        issuer, now = self.in_force.issuer.certificate, self._clock()
        if self._given is not None or not any(
            control.renewal_is_due(issuer, root, now) for root in self.in_force.roots
        ):
            return
        # Which of the roots it is under, the ledger knows.
        if await self._store.do(control.renew_issuer, self._store.keys, now):
            self._taken = None
            await self._follow(changed, "renewed")

    def _say_issuer(self, how: str) -> None:
        found, publication = self.in_force, self.publication
        log.info(
            "issuer %s %s, under %d root(s), until %s; bundle sequence %d",
            found.trust.issuer_key_id[:16],
            how,
            len(found.roots),
            control.moment(found.expires),
            publication.sequence,
            extra={
                "fields": {
                    "event": "issuer",
                    "action": how,
                    "issuer": found.trust.issuer_key_id,
                    "sequence": publication.sequence,
                }
            },
        )
        for words in found.left_out:
            log.warning("%s", words)

    def _warn(self) -> None:
        """Says what ends soon: when it comes within a threshold, when it is put in force so, and once a day."""
        now = self._clock()
        warned: dict[Expiry, tuple[Nearness, float]] = {}
        for expiry in control.expiries(self.in_force):
            near = expiry.nearness(now)
            if near is Nearness.FAR:
                continue
            level, said_at = self._warned.get(expiry, (Nearness.FAR, now))
            if level is near and now - said_at < WARN_EVERY_SECONDS:
                warned[expiry] = level, said_at
                continue
            warned[expiry] = near, now
            log.log(
                WARN_LEVELS[near],
                "%s: %s",
                expiry.warning(now),
                "rotate the root (quietwire authority rotate-root start)"
                if self._given is None
                else f"put a new issuer into {self._given.certificate}, with its key and roots",
                extra={"fields": {"event": "expiry", "certificate": expiry.what, "nearness": near.name.lower()}},
            )
        self._warned = warned

    def close(self) -> None:
        """Ends every wait."""
        self._closing = True
        self._tell()

    def _tell(self) -> None:
        for poll in self._polls.values():
            poll.set()

    async def wait(self, known: int, seconds: float, node: str) -> Publication:
        """The publication, once its sequence is another than `known`; the same one after `seconds`.

        Of one agent's polls the newest waits: the one before belongs to a connection that it has given up.
        """
        mine = asyncio.Event()
        former, self._polls[node] = self._polls.get(node), mine
        if former is not None:
            former.set()
        try:
            async with asyncio.timeout(seconds):
                # What agents confirm is news too, and no other publication.
                while self.publication.sequence == known and not self._closing and self._polls.get(node) is mine:
                    mine.clear()
                    await mine.wait()
        except TimeoutError:
            return self.publication
        finally:
            if self._polls.get(node) is mine:
                del self._polls[node]
        return self.publication

    # -- what agents ask --

    async def check_caller(self, caller: Caller) -> None:
        """What every door asks before it opens to who shows a certificate. Raises Refusal where it is revoked."""
        try:
            await self._store.do(Book.check_caller, caller.spiffe_id, caller.serial)
        except Revoked as revoked:
            raise _revoked(revoked) from None
        except StoreUnavailableError as error:  # who cannot be looked up is not let in
            raise Refusal(Code.NOT_RECORDED, f"the ledger cannot be read ({error}): is the disk well?") from error

    async def join(self, token: str, node: str, csr_pem: str, address: str) -> Signed:
        """Attests an agent by its one-time token; `address` is whose attempts count together. Raises Refusal."""
        try:
            problem = await self._store.do(Book.token_problem, token, node, self._clock())
        except StoreUnavailableError as error:
            raise _not_recorded(error) from error
        if problem is not None:
            # Only these are limited: whoever has a token that is good is kept out by nobody else's attempts.
            self._limit(self._joins, address)
            raise bad_token(problem, node)
        requested = csr.read(csr_pem, self.trust_domain)
        self._check_agent_id(requested.spiffe_id, node)
        try:
            await self._store.do(Book.check, Subject(requested.spiffe_id, node))  # before the token is used up
            problem = await self._store.do(Book.use_token, token, node, self._clock())
        except Revoked as revoked:
            raise _revoked(revoked) from None
        except StoreUnavailableError as error:
            raise _not_recorded(error) from error
        if problem is not None:  # another one was quicker
            raise bad_token(problem, node)
        log.info("agent of node %s joined", node)
        return await self.sign(requested, node, self._agent_seconds)

    async def join_from_pod(self, token: str, node: str, csr_pem: str, address: str) -> Signed:
        """Attests an agent by the service account token of its pod; `address` as for `join`. Raises Refusal."""
        if self._attestor is None:
            raise Refusal(
                Code.NOT_AUTHENTICATED,
                "this authority is of no cluster and knows no service accounts: join with a one-time token, or run it "
                "with --kubernetes",
            )
        requested = csr.read(csr_pem, self.trust_domain)
        self._check_agent_id(requested.spiffe_id, node)
        self._limit(self._joins, address)  # all of them: each has the API server asked
        found = await self._attestor.attest(token, node)
        try:
            await self._store.do(Book.join, found.node, Subject(requested.spiffe_id, found.node), self._clock())
        except Revoked as revoked:
            raise _revoked(revoked) from None
        except StoreUnavailableError as error:
            raise _not_recorded(error) from error
        log.info("agent of node %s joined, from pod %s/%s", found.node, found.account.namespace, found.pod)
        return await self.sign(requested, found.node, self._agent_seconds)

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

    async def agent(self, caller: Caller | None) -> str | None:
        """The node of an agent that calls; None where it is anybody else, who may read the bundle. Raises Refusal."""
        return None if caller is None or caller.spiffe_id.agent is None else await self._node_of(caller)

    async def confirm(self, node: str, trusts: int, issuers: tuple[str, ...]) -> None:
        """An agent says what it trusts and uses."""
        try:
            await self._store.do(Book.confirm, node, trusts, issuers, self._clock())
        except StoreUnavailableError as error:
            log.error("what the agent of node %s trusts could not be recorded: %s", node, error)

    async def sign(self, requested: csr.Requested, node: str, seconds: float) -> Signed:
        """Signs, and records it before anybody has it. Raises Refusal."""
        now, found = self._clock(), self.in_force
        if now >= found.expires:
            raise Refusal(
                Code.ISSUER_EXPIRED, f"the issuer, or what is above it, expired at {control.moment(found.expires)}"
            )
        try:
            chain = await self._store.do(self._sign, requested, node, now, seconds)
        except Revoked as revoked:
            raise _revoked(revoked) from None
        except StoreUnavailableError as error:
            raise _not_recorded(error) from error
        log.info("issued %s to node %s", requested.spiffe_id, node)
        return Signed(chain.decode())

    def _sign(self, book: Book, requested: csr.Requested, node: str, now: float, seconds: float) -> bytes:
        found, publication = self.in_force, book.publication()
        changed = publication is not None and publication.trust.issuer_key_id != found.trust.issuer_key_id
        if changed and self._given is None:
            # Another replica, or an operator, did so a moment ago: nothing is signed under an issuer that has left.
            found = control.in_force(book, self._store.keys, now)
        return control.sign(book, found, requested.spiffe_id, requested.public_key, node, now, seconds)

    async def sign_own(self, csr_pem: str) -> bytes:
        """The authority's own SVID. Raises Refusal."""
        signed = await self.sign(csr.read(csr_pem, self.trust_domain), AUTHORITY, max(self._svid_seconds, 60.0))
        return signed.chain_pem.encode()

    async def _node_of(self, caller: Caller | None) -> str:
        node = None if caller is None else caller.spiffe_id.agent
        if caller is None or node is None or not await self._knows(node):
            who = "without a client certificate" if caller is None else f"as {caller.spiffe_id}"
            raise Refusal(Code.UNKNOWN_CALLER, f"called {who}: only agents that have joined may ask; join with a token")
        self._limit(self._requests, node)
        return node

    async def _knows(self, node: str) -> bool:
        if not await self._store.do(Book.knows_agent, node):
            await self._store.refresh()  # it may have joined by another replica a moment ago
        return await self._store.do(Book.knows_agent, node)

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


def _revoked(revoked: Revoked) -> Refusal:
    return Refusal(Code.REVOKED, f"{revoked}; quietwire authority unrevoke takes it back")


def _not_recorded(error: StoreUnavailableError) -> Refusal:
    return Refusal(
        Code.NOT_RECORDED,
        f"the ledger cannot be written ({error}), so nothing was issued: is the authority's disk full?",
    )


def authority_id(trust_domain: str) -> SpiffeId:
    """The authority's own identity."""
    return SpiffeId.parse(f"spiffe://{trust_domain}/authority")
