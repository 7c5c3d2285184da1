"""One captured connection, from accept to its end: what is known about it grows stage by stage."""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.capture.address import OriginalDst, PeerAddr
from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit, Permits
from agent.proxy import report
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.relay import Relay
from agent.proxy.route import Passage
from agent.proxy.stage import Accepted, SetUp
from agent.tls.contexts import Certificate
from agent.tls.machine import TlsMachine

if TYPE_CHECKING:
    from agent.proxy.runtime import EnrolledPod, Runtime


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


class Connection:
    """The record of one connection, and the owner of its stage.

    Thousands of these lie idle: what the connections of a pod have in common is shared, and not made for each.
    """

    __slots__ = (
        "certificates",
        "client",
        "client_id",
        "decision",
        "direction",
        "enrolled",
        "opened_at",
        "original_destination",
        "permits",
        "resumed",
        "route",
        "runtime",
        "security",
        "server_id",
        "source",
        "stage",
        "told_received",
        "told_sent",
    )

    def __init__(
        self,
        runtime: "Runtime",
        enrolled: "EnrolledPod",
        direction: Direction,
        client: PeerAddr,
        original_destination: OriginalDst,
    ) -> None:
        self.runtime = runtime
        self.enrolled = enrolled
        self.direction = direction
        self.client = client
        self.original_destination = original_destination
        self.stage: Accepted | SetUp | Relay | None = None
        """What holds its legs; None before the first stage and when it is over: then there are none."""
        self.route: Passage | None = None
        """Where an outbound connection goes, what allows it, and what it weighs on in the choice of two."""
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
        self.told_sent = self.told_received = 0
        """Bytes that the counters have."""

    @property
    def pod(self) -> PodKey:
        """The enrolled pod."""
        return self.enrolled.key

    def look_again(self) -> None:
        """Something has changed: a set-up that waits asks again whether it may go on."""
        if isinstance(self.stage, SetUp):
            self.stage.accepted.bell.ring()

    def start_relay(
        self,
        allowed_by: Permit | Passage,
        application: Opening,
        peer: Opening,
        machine: TlsMachine | None = None,
        remember: Callable[[TlsMachine], bool] | None = None,
        first: bytes = b"",
    ) -> None:
        """Hands both legs to the relay, that towards the peer with its machine. From here on there are only callbacks.

        `remember` and `first` are as in `Relay`. Raises TypeError where nobody has allowed it.
        """
        relay = Relay(self, allowed_by, application, peer, machine, remember)
        self.stage = relay
        self.runtime.live.joined(self)
        report.relay_begins(self)
        relay.start(application, peer, first)

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
        if isinstance(self.stage, (Accepted, SetUp)):
            inbound = self.direction is Direction.INBOUND
            self.stage.refuse(alert if inbound else b"", b"" if inbound else alert)
        self._over(outcome, message)

    def terminate(self, outcome: Outcome, message: str) -> None:
        """Ends the connection by a reset, whatever it is doing."""
        match self.stage:
            case Relay() as relay:
                relay.failed(outcome, message)
            case Accepted() | SetUp() as stage:
                self.refuse(outcome, message)
                stage.cancel()

    def relay_ended(self, outcome: Outcome, detail: str) -> None:
        """Called once by the relay."""
        self._over(outcome, detail)

    def report_bytes(self) -> None:
        """Adds what has moved since the last report to the counters."""
        if isinstance(self.stage, Relay):
            report.moved(self, self.stage)

    def _over(self, outcome: Outcome, detail: str) -> None:
        runtime = self.runtime
        if not runtime.live.knows(self):
            return
        relayed = runtime.live.is_joined(self)
        self.report_bytes()
        runtime.live.left(self)
        self.stage = None  # a relay holds this connection: see Leg.let_go
        if self.route is not None:
            runtime.release(self.route.address, self.route.port)
        report.ended(self, outcome, detail, relayed=relayed)
