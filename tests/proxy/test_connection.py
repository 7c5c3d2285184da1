"""How a connection is refused, ended and told of: each once, with what was known of it."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from agent.identity.spiffe import SpiffeId
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.model import Considered, Denial, Permit
from agent.proxy.connection import MAX_CONSIDERED, Connection, Direction, Refusal, Security
from agent.proxy.inbound import judge
from agent.proxy.opening import Opening
from agent.proxy.relay import Relay
from agent.proxy.route import Plain, PlainReason
from agent.tasks import spawn
from agent.telemetry.access import AccessLog, ConnectionRecord
from agent.telemetry.counters import BYTES, CLOSED, DECIDED, DENIED, OPENED
from agent.tls.contexts import Certificate
from tests.proxy.fakes import API_IP, PKI, PORT, STRANGER_IP, WEB_IP, Transport, Worker, pod
from tests.tls.pki import TRUST_DOMAIN

WEB_ID, API_ID = (SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name) for name in ("web", "api"))
OPEN = pod("api", API_IP, policy="all-unauthenticated")


class Noted(AccessLog):
    """Wants everything that a log of denials wants, and keeps it."""

    def __init__(self, *, enabled: bool = False) -> None:
        super().__init__(enabled=enabled)
        self.records: list[ConnectionRecord] = []

    def write(self, record: ConnectionRecord) -> None:
        self.records.append(record)


class Moved:
    """One leg of a relay: what came in by it."""

    received = 0


class Still:
    """A relay in which only what a test says moves."""

    def __init__(self, connection: Connection) -> None:
        self.application, self.peer = Moved(), Moved()
        self._connection = connection
        self.given: tuple[object, ...] = ()

    def start(self, *given: object) -> None:
        self.given = given

    def failed(self, outcome: Outcome, detail: str) -> None:
        self._connection.relay_ended(outcome, detail)


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
        self.connection, self.leg = self.worker.accept("demo/api", client, (API_IP, PORT), direction)

    def join(self) -> Still:
        """Has it relayed."""
        relay = Still(self.connection)
        self.connection.relay = cast("Relay", relay)
        leg: Any = None
        self.connection.start_relay((leg, self.leg), (leg, self.leg))
        return relay

    def counted(self, name: str) -> dict[tuple[str, ...], int]:
        return {key[1:]: value for key, value in self.worker.counters.snapshot().items() if key[0] == name}


# what is relayed, and its end


async def test_a_connection_that_is_relayed_is_counted_and_lets_go_of_its_set_up() -> None:
    case = Case()
    judge(case.connection)
    case.connection.security = Security.TLS
    relay = case.join()
    assert case.counted(OPENED) == {("inbound", "tls"): 1}
    assert case.counted(DECIDED) == {("allow", "default:all-unauthenticated", "default:all-unauthenticated", ""): 1}
    assert relay.given == (None, case.leg, None, case.leg, b"")
    assert case.worker.live.relayed() == [case.connection]
    assert (case.connection.accepted_leg, case.connection.dialled_leg) == (None, None)
    case.connection.look_again()  # and there is no bell to ring any more


async def test_a_relay_that_was_never_made_is_a_fault() -> None:
    case = Case()
    leg: Any = None
    with pytest.raises(RuntimeError, match="a relay that was not made"):
        case.connection.start_relay((leg, case.leg), (leg, case.leg))


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


async def test_an_end_is_counted_once_and_nothing_of_the_connection_is_kept() -> None:
    case = Case(direction=Direction.OUTBOUND, enabled=True)
    case.connection.taken = Plain(STRANGER_IP, PORT, PlainReason.DESTINATION_NOT_IN_CATALOG)
    case.worker.weigh(STRANGER_IP, PORT)
    case.join()
    for _ in range(2):
        case.connection.relay_ended(Outcome.RESET_BY_PEER, "the peer reset the connection")
    assert case.counted(CLOSED) == {("outbound", "reset_by_peer"): 1}
    assert case.counted(DENIED) == case.counted(DECIDED) == {}
    assert len(case.worker.live) == 0
    assert not case.worker.endpoint_load
    assert case.connection.relay is None
    (record,) = case.log.records
    assert (record.event, record.outcome, record.reason) == (
        "closed",
        Outcome.RESET_BY_PEER,
        "the peer reset the connection",
    )


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
    assert (record.event, record.server, record.reason) == ("denied", "default:deny", denial.message)


async def test_a_connection_that_ends_by_itself_after_a_denial_was_found_is_no_denial() -> None:
    """It was reset before it was ended: what was decided is told by what ended it."""
    case = Case(pod("api", API_IP, policy="deny"), enabled=True)
    assert isinstance(judge(case.connection), Denial)
    case.connection.refuse(Outcome.RESET_BY_PEER, "the client left")
    assert case.counted(DENIED) == case.counted(DECIDED) == case.counted(CLOSED) == {}
    assert case.log.records[0].event == "closed"


# a refusal


@pytest.mark.parametrize("direction", Direction)
async def test_a_refusal_ends_both_legs_and_only_the_peer_is_given_the_alert(
    monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    case = Case(direction=direction)
    dialled = case.connection.dialled_leg = Opening(case.leg.bell)
    dialled.connection_made(Transport(dialled))
    ended: list[tuple[Opening, bytes]] = []
    monkeypatch.setattr(Opening, "refuse", lambda leg, alert: ended.append((leg, alert)))
    case.connection.refuse(Outcome.UNAUTHENTICATED, "who are you?", b"alert")
    inbound = direction is Direction.INBOUND
    assert ended == [(case.leg, b"alert" if inbound else b""), (dialled, b"" if inbound else b"alert")]
    assert case.counted(DENIED) == {(direction.value, "unauthenticated"): 1}
    assert case.counted(CLOSED) == {}, "it was never relayed"
    assert len(case.worker.live) == 0


async def test_a_refusal_before_anything_was_dialled_ends_the_leg_that_there_is() -> None:
    case = Case()
    case.connection.dialled_leg = Opening(case.leg.bell)
    case.connection.refuse(Outcome.NO_IDENTITY, "no SVID")
    assert case.leg.lost
    (record,) = case.log.records
    assert (record.event, record.outcome, record.reason, record.server) == (
        "denied",
        Outcome.NO_IDENTITY,
        "no SVID",
        None,
    )


async def test_a_set_up_that_is_terminated_is_refused_and_cancelled() -> None:
    case = Case()

    async def forever() -> None:
        await asyncio.Event().wait()

    case.connection.setup = spawn(forever(), name="set-up")
    case.connection.terminate(Outcome.UNENROLLED, "the pod has left")
    with pytest.raises(asyncio.CancelledError):
        await case.connection.setup
    assert case.leg.lost
    assert len(case.worker.live) == 0


async def test_a_connection_that_is_neither_set_up_nor_relayed_is_left_alone() -> None:
    case = Case()
    case.connection.terminate(Outcome.UNENROLLED, "the pod has left")
    assert not case.leg.lost
    assert case.worker.live.knows(case.connection)


# who it stands on


async def test_any_certificate_that_is_good_no_more_ends_a_set_up() -> None:
    case = Case()
    own, peer = Certificate(API_ID, "1", frozenset()), Certificate(WEB_ID, "2", frozenset())
    case.connection.stands_on((own, peer))
    assert case.connection.identity_problem() is None
    for revoked in ("1", "2"):
        case.worker.view.set_bundle(msgspec.structs.replace(PKI.bundle(), revoked_serials=frozenset({revoked})))
        assert f"certificate {revoked} of" in (case.connection.identity_problem() or "")
        with pytest.raises(Refusal, match="is revoked") as refused:
            case.connection.check_identity()
        assert refused.value.outcome is Outcome.IDENTITY_REVOKED
    with pytest.raises(Refusal):
        case.connection.stands_on((own, peer))
    assert str(refused.value) == f"identity_revoked: {refused.value.message}"


# the record


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
        server="default:all-unauthenticated",
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
    assert case.connection.destination == f"{API_IP}:{PORT}"
    case.connection.taken = Plain("2001:db8::7", 9, PlainReason.DESTINATION_NOT_IN_CATALOG)
    assert case.connection.destination == "[2001:db8::7]:9"
