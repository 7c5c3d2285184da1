"""What is told of a connection: each thing once, with what was known of it."""

from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.model import Considered, Denial, Permit
from agent.proxy import report
from agent.proxy.connection import Direction, Security
from agent.proxy.inbound import judge
from agent.proxy.relay import Relay
from agent.proxy.report import MAX_CONSIDERED
from agent.proxy.route import PlainReason
from agent.telemetry.access import AccessLog, ConnectionRecord
from agent.telemetry.counters import BYTES, CLOSED, DECIDED, DENIED
from tests.proxy.fakes import API_IP, PORT, STRANGER_IP, WEB_IP, Worker, opening, plain, pod
from tests.tls.pki import TRUST_DOMAIN

WEB_ID, API_ID = (SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name) for name in ("web", "api"))
OPEN = pod("api", API_IP, policy="all-unauthenticated")
ALLOWED = Permit("Server demo/api", "everybody")


class Noted(AccessLog):
    """Wants everything that a log of denials wants, and keeps it."""

    def __init__(self, *, enabled: bool = False) -> None:
        super().__init__(enabled=enabled)
        self.records: list[ConnectionRecord] = []

    def write(self, record: ConnectionRecord) -> None:
        self.records.append(record)


class Case:
    """A connection to demo/api (or from it), and what was said of it."""

    def __init__(
        self,
        served: Pod = OPEN,
        *,
        direction: Direction = Direction.INBOUND,
        enabled: bool = False,
        client: str = WEB_IP,
    ) -> None:
        self.worker = Worker(served, pod("web", WEB_IP))
        self.log = self.worker.access_log = Noted(enabled=enabled)
        self.connection, self.setup = self.worker.accept("demo/api", client, (API_IP, PORT), direction)
        self.leg = self.setup.accepted

    def join(self) -> Relay:
        """Has it relayed, by what was decided; nothing moves but what a test says."""
        decision = self.connection.decision
        allowed_by = decision if isinstance(decision, Permit) else self.connection.route or ALLOWED
        self.connection.start_relay(allowed_by, opening(self.leg.bell), self.leg)
        relay = self.connection.stage
        assert isinstance(relay, Relay)
        return relay

    def counted(self, name: str) -> dict[tuple[str, ...], int]:
        return {key[1:]: value for key, value in self.worker.counters.snapshot().items() if key[0] == name}


async def test_bytes_are_told_once_whenever_somebody_asks_and_the_rest_at_the_end() -> None:
    case = Case(enabled=True)
    relay = case.join()
    case.connection.report_bytes()
    assert case.counted(BYTES) == {}
    relay.application.received = 7
    case.connection.report_bytes()
    case.connection.report_bytes()
    assert case.counted(BYTES) == {("inbound", "sent"): 7, ("inbound", "received"): 0}
    relay.peer.received = 5
    case.connection.report_bytes()
    relay.application.received, relay.peer.received = 10, 20
    case.connection.relay_ended(Outcome.COMPLETED, "")
    assert case.counted(BYTES) == {("inbound", "sent"): 10, ("inbound", "received"): 20}
    (record,) = case.log.records
    assert (record.bytes_sent, record.bytes_received) == (10, 20)


async def test_an_end_of_what_was_permitted_is_no_line_where_only_denials_are_logged() -> None:
    case = Case()
    judge(case.connection)
    case.join()
    case.connection.relay_ended(Outcome.COMPLETED, "")
    assert case.log.records == []


async def test_the_end_of_what_only_audit_let_in_is_always_a_line() -> None:
    case = Case(pod("api", API_IP, policy="audit"), client=STRANGER_IP)
    judge(case.connection)
    case.join()
    case.connection.relay_ended(Outcome.COMPLETED, "")
    audited, closed = case.log.records
    assert (audited.event, audited.audit, bool(audited.considered)) == ("audited", True, False)
    assert (closed.event, closed.audit, closed.authorization) == ("closed", True, "audit")


async def test_what_is_permitted_no_more_is_a_denial_that_is_counted_with_what_decided() -> None:
    case = Case()
    judge(case.connection)
    case.join()
    case.worker.change(pod("api", API_IP, policy="deny"))
    denial = judge(case.connection)
    assert isinstance(denial, Denial)
    case.connection.terminate(denial.outcome, denial.message)
    assert case.counted(CLOSED) == case.counted(DENIED) == {("inbound", "denied_by_default"): 1}
    assert ("deny", "default:deny", "", "denied_by_default") in case.counted(DECIDED)
    (record,) = case.log.records
    assert (record.event, record.decided_by, record.reason) == ("denied", "default:deny", denial.message)


async def test_a_connection_that_ends_by_itself_after_a_denial_was_found_is_no_denial() -> None:
    """It was reset before it was ended: what was decided is told by what ended it."""
    case = Case(pod("api", API_IP, policy="deny"), enabled=True)
    assert isinstance(judge(case.connection), Denial)
    case.connection.refuse(Outcome.RESET_BY_PEER, "the client left")
    assert case.counted(DENIED) == case.counted(DECIDED) == case.counted(CLOSED) == {}
    assert case.log.records[0].event == "closed"


async def test_a_record_says_all_that_is_known() -> None:
    case = Case(enabled=True)
    connection = case.connection
    connection.client_id, connection.server_id = WEB_ID, API_ID
    connection.security, connection.resumed = Security.MTLS, True
    judge(connection)
    connection.opened_at -= 60
    case.join()
    connection.relay_ended(Outcome.COMPLETED, "")
    (record,) = case.log.records
    assert record == ConnectionRecord(
        event="closed",
        direction="inbound",
        pod=PodKey("demo/api"),
        client=f"{WEB_IP}:40000",
        destination=f"{API_IP}:{PORT}",
        security="mtls",
        outcome=Outcome.COMPLETED,
        reason="",
        client_id=str(WEB_ID),
        server_id=str(API_ID),
        tls_resumed=True,
        decided_by="default:all-unauthenticated",
        authorization="default:all-unauthenticated",
        duration_ms=record.duration_ms,
    )
    assert 60_000 <= record.duration_ms < 120_000


async def test_a_denial_says_what_was_considered_and_not_without_end() -> None:
    case = Case(client=STRANGER_IP)
    many = tuple(Considered(f"authorization {number}", "no mesh identity") for number in range(MAX_CONSIDERED + 5))
    case.connection.decision = Denial("Server demo/api", Outcome.UNAUTHENTICATED)
    vars(case.connection.decision)["considered"] = many
    case.connection.refuse(Outcome.UNAUTHENTICATED, "no")
    (record,) = case.log.records
    assert record.considered == many[:MAX_CONSIDERED]
    assert (record.client_id, record.server_id, record.authorization) == (None, None, None)


async def test_what_is_permitted_is_logged_without_what_else_was_considered() -> None:
    case = Case(enabled=True)
    instead = Denial("default:audit", Outcome.UNAUTHENTICATED)
    vars(instead)["considered"] = (Considered("one", "no mesh identity"),)
    case.connection.decision = Permit("default:audit", "audit", instead)
    case.join()
    case.connection.relay_ended(Outcome.COMPLETED, "")
    audited, closed = case.log.records
    assert audited.considered == instead.considered, "what audit would deny says why"
    assert closed.considered == ()


async def test_where_an_outbound_connection_goes_is_told_once_it_is_known() -> None:
    case = Case(direction=Direction.OUTBOUND)
    assert report.destination(case.connection) == f"{API_IP}:{PORT}"
    case.connection.route = plain("2001:db8::7", 9, PlainReason.DESTINATION_NOT_IN_CATALOG)
    assert report.destination(case.connection) == "[2001:db8::7]:9"


async def test_what_audit_keeps_is_told_of_what_is_relayed_and_of_nothing_else() -> None:
    """A set-up that audit lets in is told when its relay begins."""
    instead = Denial("default:audit", Outcome.UNAUTHENTICATED, "who is that?")
    audited, allowed = Permit("default:audit", "audit", instead), Permit("default:audit", "everybody")
    case = Case(enabled=True)
    report.kept_by_audit(case.connection, audited)
    case.join()
    report.kept_by_audit(case.connection, allowed)
    assert (case.counted(DECIDED), case.log.records) == ({}, [])
    report.kept_by_audit(case.connection, audited)
    assert case.counted(DECIDED) == {("audit", "default:audit", "audit", ""): 1}
    (record,) = case.log.records
    assert (record.event, record.outcome) == ("audited", Outcome.UNAUTHENTICATED)
    assert record.reason == "only audit keeps it, after a change: who is that?"


async def test_the_log_is_asked_by_event_pod_and_outcome_whether_it_wants_a_line() -> None:
    """It counts what it is asked of each: one pod's denials leave room for another's."""
    case = Case(pod("api", API_IP, policy="audit"), client=STRANGER_IP)
    asked: list[tuple[object, ...]] = []

    def wants(*args: object, audit: bool = False) -> bool:
        asked.append((*args, audit))
        return False

    case.log.wants = wants  # type: ignore[method-assign, assignment] # only this log, in this test
    judge(case.connection)
    case.join()
    case.connection.relay_ended(Outcome.COMPLETED, "")
    assert asked == [
        ("audited", "demo/api", Outcome.DENIED_BY_DEFAULT, False),
        ("closed", "demo/api", Outcome.COMPLETED, True),
    ]
    assert case.log.records == []
