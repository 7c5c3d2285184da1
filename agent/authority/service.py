"""What the authority does: joins agents, signs for the workloads of their nodes, publishes the bundle. No HTTP here."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from agent.authority import ca, csr
from agent.authority.ledger import Issuance, Ledger
from agent.authority.refusal import Code, Refusal
from agent.authority.store import State
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle

log = logging.getLogger("quietwire.authority")

TOKEN_SECONDS = 600.0


class Workloads(Protocol):
    """What the authority asks of the catalog."""

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of this service account is on this node."""


class Signed(Struct, frozen=True):
    """An answer with a certificate: leaf first, then the issuer."""

    chain_pem: str


class AuthorityService:
    """One trust domain's authority."""

    def __init__(
        self,
        state: State,
        ledger: Ledger,
        workloads: Workloads,
        *,
        trust_domain: str,
        svid_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._workloads = workloads
        self._trust_domain = trust_domain
        self._svid_seconds = svid_seconds
        self._clock = clock

    @property
    def bundle(self) -> Bundle:
        """The trust anchors; the sequence is 1 as long as roots do not rotate."""
        return Bundle(self._trust_domain, ca.pem(self._state.root.certificate), sequence=1, refresh_hint=300)

    async def add_token(self, token: str, node: str) -> None:
        """Takes a join token in, for one node and a short time."""
        await self._ledger.add_token(token, node, self._clock() + TOKEN_SECONDS)

    async def join(self, token: str, node: str, csr_pem: str) -> Signed:
        """Attests an agent by its one-time token. Raises Refusal."""
        requested = csr.read(csr_pem, self._trust_domain)
        self._check_agent_id(requested.spiffe_id, node)
        problem = await self._ledger.use_token(token, node, self._clock())
        if problem is not None:
            raise Refusal(Code.BAD_TOKEN, f"{problem}; make a new one for node {node}")
        log.info("agent of node %s joined", node)
        return await self.sign(requested, node)

    async def renew(self, caller: SpiffeId | None, csr_pem: str) -> Signed:
        """A new SVID for the calling agent itself. Raises Refusal."""
        node = await self._caller(caller)
        requested = csr.read(csr_pem, self._trust_domain)
        self._check_agent_id(requested.spiffe_id, node)
        return await self.sign(requested, node)

    async def issue(self, caller: SpiffeId | None, csr_pem: str) -> Signed:
        """An SVID for a workload of the calling agent's node. Raises Refusal."""
        node = await self._caller(caller)
        requested = csr.read(csr_pem, self._trust_domain)
        workload = requested.spiffe_id.workload
        if workload is None:
            raise Refusal(Code.NOT_A_WORKLOAD, f"{requested.spiffe_id} is no workload's: /ns/<namespace>/sa/<account>")
        if not self._workloads.has_workload(node, *workload):
            raise Refusal(
                Code.NO_SUCH_WORKLOAD,
                f"no pod of service account {workload[0]}/{workload[1]} is known on node {node}",
            )
        return await self.sign(requested, node)

    async def sign(self, requested: csr.Requested, node: str) -> Signed:
        """Signs, and records it before anybody has it."""
        now = self._clock()
        issuer = self._state.issuer
        leaf = ca.sign_leaf(issuer, requested.spiffe_id, requested.public_key, now=now, seconds=self._svid_seconds)
        serial, expires = f"{leaf.serial_number:x}", leaf.not_valid_after_utc.timestamp()
        await self._ledger.record(Issuance(serial, str(requested.spiffe_id), node, now, expires))
        log.info("issued %s to node %s, serial %s", requested.spiffe_id, node, serial)
        return Signed((ca.pem(leaf) + ca.pem(issuer.certificate)).decode())

    async def _caller(self, caller: SpiffeId | None) -> str:
        match caller.path.split("/") if caller is not None else []:
            case ["", "agent", node] if await self._ledger.knows_agent(node):
                return node
        who = "without a client certificate" if caller is None else f"as {caller}"
        raise Refusal(Code.UNKNOWN_CALLER, f"called {who}: only agents that have joined may ask; join with a token")

    def _check_agent_id(self, asked: SpiffeId, node: str) -> None:
        try:
            wanted = SpiffeId.for_agent(self._trust_domain, node)
        except ValueError as error:
            raise Refusal(Code.MALFORMED_ID, f"node {node!r} cannot stand in a SPIFFE ID: {error}") from None
        if asked != wanted:
            raise Refusal(Code.WRONG_IDENTITY, f"the agent of node {node} may have {wanted}, not {asked}")
