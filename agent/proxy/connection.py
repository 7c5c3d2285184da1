"""One captured connection, from accept to its end: what is known about it grows stage by stage."""

import asyncio
import time
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.capture.address import OriginalDst, PeerAddr, show
from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit, Permits
from agent.proxy.opening import Opening
from agent.proxy.relay import Leg, Relay
from agent.proxy.route import Mesh, Plain
from agent.telemetry.access import AUDITED, CLOSED, DENIED, ConnectionRecord
from agent.tls.contexts import Certificate

if TYPE_CHECKING:
    from agent.proxy.runtime import EnrolledPod, Runtime


MAX_CONSIDERED = 16
"""Authorizations that one line of the log tells of."""


class Direction(StrEnum):
    """Seen from the pod."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Security(StrEnum):
    """What the leg towards the peer is."""

    MTLS = "mtls"
    TLS = "tls"
    """TLS terminated here, from a client that has no certificate."""
    PLAIN = "plain"


class Refusal(Exception):
    """The connection cannot be served. `alert` is what the peer still gets to read."""

    def __init__(self, outcome: Outcome, message: str, alert: bytes = b"") -> None:
        super().__init__(outcome, message)
        self.outcome = outcome
        self.message = message
        self.alert = alert

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}"


class Connection:
    """The record of one connection, and the owner of its relay.

    Thousands of these lie idle: what the connections of a pod have in common is shared, and not made for each.
    """

    __slots__ = (
        "_told_received",
        "_told_sent",
        "accepted_leg",
        "certificates",
        "client",
        "client_id",
        "decision",
        "dialled_leg",
        "direction",
        "enrolled",
        "opened_at",
        "original",
        "permits",
        "relay",
        "resumed",
        "runtime",
        "security",
        "server_id",
        "setup",
        "source",
        "taken",
    )

    def __init__(
        self,
        runtime: "Runtime",
        enrolled: "EnrolledPod",
        direction: Direction,
        accepted_leg: Opening,
        client: PeerAddr,
        original: OriginalDst,
    ) -> None:
        self.runtime = runtime
        self.enrolled = enrolled
        self.direction = direction
        self.client = client
        self.original = original
        self.accepted_leg: Opening | None = accepted_leg
        self.dialled_leg: Opening | None = None
        self.taken: Mesh | Plain | None = None
        """Where an outbound connection goes, and what it weighs on in the choice of two."""
        self.source: Pod | None = None
        """The pod that has an inbound connection's client address, as far as the catalog knew."""
        self.security = Security.PLAIN
        self.client_id: SpiffeId | None = None
        self.server_id: SpiffeId | None = None
        self.resumed = False
        self.certificates: tuple[Certificate, ...] = ()
        """What this connection stands on: our own SVID, and the peer's certificate."""
        self.decision: Permit | Denial | None = None
        """What policy says of it."""
        self.permits: Permits | None = None
        """What it was judged by: as long as this stays, the decision does."""
        self.opened_at = time.monotonic()
        self.relay: Relay | None = None
        self.setup: asyncio.Task[None] | None = None
        self._told_sent = self._told_received = 0
        """Bytes that the counters have."""

    @property
    def pod(self) -> PodKey:
        """The enrolled pod."""
        return self.enrolled.key

    @property
    def destination(self) -> str:
        """Where it goes, as far as that is known."""
        where = self.original if self.taken is None else self.taken
        return show(where.address, where.port)

    def look_again(self) -> None:
        """Something has changed: a set-up that waits asks again whether it may go on."""
        if self.accepted_leg is not None:
            self.accepted_leg.bell.ring()

    def start_relay(self, application: tuple[Leg, Opening], peer: tuple[Leg, Opening], first: bytes = b"") -> None:
        """Hands both legs to the relay. From here on there are only callbacks."""
        relay = self.relay
        if relay is None:
            raise RuntimeError("the relay's legs belong to a relay that was not made")
        self.runtime.live.joined(self)
        self.runtime.counters.opened(self.direction, self.security)
        if isinstance(self.decision, Permit):
            verdict = "audit" if self.decision.audit else "allow"
            self.runtime.counters.decided(verdict, self.decision.server, self.decision.authorization, "")
            if self.decision.audited is not None:
                self._say_audited(self.decision.audited, "only audit lets it in")
        self.accepted_leg = self.dialled_leg = None
        relay.start(*application, *peer, first)

    @property
    def is_audited(self) -> bool:
        """Whether only audit has let it in."""
        return isinstance(self.decision, Permit) and self.decision.audit

    def kept_by_audit(self, permit: Permit) -> None:
        """Policy has changed, and only audit permits this connection now: said, and counted, if it is relayed."""
        if permit.audited is not None and self.runtime.live.is_joined(self):
            self.runtime.counters.decided("audit", permit.server, permit.authorization, "")
            self._say_audited(permit.audited, "only audit keeps it, after a change")

    def _say_audited(self, instead: Denial, what: str) -> None:
        access_log = self.runtime.access_log
        if access_log.wants(AUDITED, self.pod, instead.outcome):
            access_log.write(self._record(AUDITED, instead.outcome, f"{what}: {instead.message}"))

    def stands_on(self, certificates: tuple[Certificate, ...]) -> None:
        """Remembers the certificates of a handshake. Raises Refusal where one is revoked."""
        self.certificates = certificates
        self.check_identity()

    def check_identity(self) -> None:
        """Raises Refusal where a certificate that this connection stands on may be used no more."""
        problem = self.identity_problem()
        if problem is not None:
            raise Refusal(Outcome.IDENTITY_REVOKED, problem)

    def identity_problem(self) -> str | None:
        """Why a certificate that this connection stands on may be used no more; None where all is well."""
        for certificate in self.certificates:
            problem = self.runtime.view.problem_of(certificate)
            if problem is not None:
                return problem
        return None

    def refuse(self, outcome: Outcome, message: str, alert: bytes = b"") -> None:
        """Ends a connection that was still being set up by a reset of both legs; the peer gets its alert first."""
        inbound = self.direction is Direction.INBOUND
        if self.accepted_leg is not None:
            self.accepted_leg.refuse(alert if inbound else b"")
        if self.dialled_leg is not None and self.dialled_leg.connected:
            self.dialled_leg.refuse(b"" if inbound else alert)
        self._over(outcome, message)

    def terminate(self, outcome: Outcome, message: str) -> None:
        """Ends the connection by a reset, whatever it is doing."""
        if self.relay is not None and self.runtime.live.is_joined(self):
            self.relay.failed(outcome, message)
        elif self.setup is not None:
            self.refuse(outcome, message)
            self.setup.cancel()

    def relay_ended(self, outcome: Outcome, detail: str) -> None:
        """Called once by the relay."""
        self._over(outcome, detail)

    def report_bytes(self) -> None:
        """Adds what has moved since the last report to the counters."""
        if self.relay is None or not self.runtime.live.is_joined(self):
            return
        sent, received = self.relay.application.received, self.relay.peer.received
        if sent != self._told_sent or received != self._told_received:
            self.runtime.counters.moved(self.direction, sent - self._told_sent, received - self._told_received)
            self._told_sent, self._told_received = sent, received

    def _over(self, outcome: Outcome, detail: str) -> None:
        runtime = self.runtime
        if not runtime.live.knows(self):
            return
        joined = runtime.live.is_joined(self)
        self.report_bytes()
        runtime.live.left(self)
        self.relay = None  # which holds this connection: see Leg.let_go
        if self.taken is not None:
            runtime.release(self.taken.address, self.taken.port)
        if joined:
            runtime.counters.closed(self.direction, outcome)
        if outcome.is_denial:
            runtime.counters.denied(self.direction, outcome)
        if isinstance(self.decision, Denial) and outcome.is_denial:
            runtime.counters.decided("deny", self.decision.server, "", outcome)
        event = DENIED if outcome.is_denial else CLOSED
        if runtime.access_log.wants(event, self.pod, outcome, audit=self.is_audited):
            runtime.access_log.write(self._record(event, outcome, detail))

    def _record(self, event: str, outcome: Outcome, detail: str) -> ConnectionRecord:
        decision = self.decision
        told = isinstance(decision, Denial) or event == AUDITED
        return ConnectionRecord(
            event=event,
            direction=self.direction.value,
            pod=self.pod,
            client=str(self.client),
            destination=self.destination,
            client_id=None if self.client_id is None else str(self.client_id),
            server_id=None if self.server_id is None else str(self.server_id),
            security=self.security.value,
            tls_resumed=self.resumed,
            server=None if decision is None else decision.server,
            authorization=decision.authorization if isinstance(decision, Permit) else None,
            considered=decision.considered[:MAX_CONSIDERED] if told and decision is not None else (),
            outcome=outcome,
            reason=detail,
            bytes_sent=self._told_sent,
            bytes_received=self._told_received,
            duration_ms=round((time.monotonic() - self.opened_at) * 1000, 1),
            audit=self.is_audited,
        )
