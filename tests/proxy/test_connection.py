"""How a connection goes from stage to stage, and is refused and ended: each once."""

import asyncio
from typing import Any

import msgspec
import pytest

from agent.capture.address import OriginalDst
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.proxy.connection import Connection, Direction, Security
from agent.proxy.inbound import judge
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.relay import Relay, TlsLeg
from agent.proxy.route import PlainReason
from agent.proxy.stage import SetUp
from agent.tasks import spawn
from agent.telemetry.counters import CLOSED, DECIDED, DENIED, OPENED
from agent.tls.contexts import Certificate
from agent.tls.machine import TlsMachine
from tests.proxy.fakes import API_IP, PKI, PORT, STRANGER_IP, Transport, opening, plain
from tests.proxy.test_report import API_ID, WEB_ID, Case
from tests.tls.test_machine import joined


async def test_a_connection_that_is_relayed_is_counted_and_lets_go_of_its_set_up() -> None:
    case = Case()
    judge(case.connection)
    case.connection.security = Security.TLS
    case.join()
    assert case.counted(OPENED) == {("inbound", "tls"): 1}
    assert case.counted(DECIDED) == {("allow", "default:all-unauthenticated", "default:all-unauthenticated", ""): 1}
    assert case.worker.live.relayed() == [case.connection]
    case.connection.look_again()  # and there is no bell to ring any more


async def test_nothing_is_taken_for_known_of_a_connection_that_has_just_come() -> None:
    case = Case()
    made = Connection(
        case.worker, case.connection.enrolled, Direction.INBOUND, case.connection.client, OriginalDst(API_IP, PORT)
    )
    assert (made.stage, made.route, made.source, made.client_id, made.server_id) == (None,) * 5
    assert (made.decision, made.permits, made.certificates) == (None, None, ())
    assert (made.security, made.resumed) == (Security.PLAIN, False)
    assert made.identity_problem() is None


async def test_a_relay_has_all_that_its_set_up_found() -> None:
    case = Case()
    permit = judge(case.connection)
    assert isinstance(permit, Permit)
    application, (far, near) = opening(case.leg.bell), joined()
    asked: list[TlsMachine] = []

    def remember(machine: TlsMachine) -> bool:
        asked.append(machine)
        return True

    case.connection.start_relay(permit, application, case.leg, near, remember, first=b"words")
    relay = case.connection.stage
    assert isinstance(relay, Relay)
    assert isinstance(relay.peer, TlsLeg)
    assert relay.peer.machine is near
    assert not isinstance(relay.application, TlsLeg)
    assert isinstance(application.transport, Transport)
    assert application.transport.written == b"words"
    assert relay.peer.received == len(b"words")
    relay.peer.took(far.seal(b", more"))
    assert application.transport.written == b"words, more"
    assert asked == [near], "whoever remembers sessions"


@pytest.mark.parametrize("nothing", [None, Denial("default:deny", Outcome.DENIED_BY_DEFAULT)], ids=str)
async def test_what_nobody_allowed_is_not_relayed(nothing: Any) -> None:
    case = Case()
    with pytest.raises(TypeError, match="needs a Permit or a Passage"):
        case.connection.start_relay(nothing, opening(case.leg.bell), case.leg)
    assert case.connection.stage is case.setup
    assert case.worker.live.relayed() == []
    assert case.counted(OPENED) == {}


async def test_an_end_is_counted_once_and_nothing_of_the_connection_is_kept() -> None:
    case = Case(direction=Direction.OUTBOUND, enabled=True)
    case.connection.route = plain(STRANGER_IP, PORT, PlainReason.DESTINATION_NOT_IN_CATALOG)
    case.worker.weigh(STRANGER_IP, PORT)
    case.join()
    for _ in range(2):
        case.connection.relay_ended(Outcome.RESET_BY_PEER, "the peer reset the connection")
    assert case.counted(CLOSED) == {("outbound", "reset_by_peer"): 1}
    assert case.counted(DENIED) == case.counted(DECIDED) == {}
    assert len(case.worker.live) == 0
    assert not case.worker.endpoint_load
    assert case.connection.stage is None
    (record,) = case.log.records
    assert (record.event, record.outcome, record.reason) == (
        "closed",
        Outcome.RESET_BY_PEER,
        "the peer reset the connection",
    )


@pytest.mark.parametrize("direction", Direction)
async def test_a_refusal_ends_both_legs_and_only_the_peer_is_given_the_alert(
    monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    case = Case(direction=direction)
    dialled = case.setup.dialled = opening(case.leg.bell)
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
    case.connection.refuse(Outcome.NO_IDENTITY, "no SVID")
    assert case.leg.lost
    (record,) = case.log.records
    assert (record.event, record.outcome, record.reason, record.decided_by) == (
        "denied",
        Outcome.NO_IDENTITY,
        "no SVID",
        None,
    )


async def test_a_set_up_that_is_terminated_is_refused_and_cancelled() -> None:
    case = Case(enabled=True)

    async def forever() -> None:
        await asyncio.Event().wait()

    task = spawn(forever(), name="set-up")
    case.connection.stage = SetUp(case.leg, task)
    case.connection.terminate(Outcome.UNENROLLED, "the pod has left")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert case.leg.lost
    assert len(case.worker.live) == 0
    (record,) = case.log.records
    assert (record.outcome, record.reason) == (Outcome.UNENROLLED, "the pod has left")


async def test_a_connection_that_is_over_is_left_alone() -> None:
    case = Case(enabled=True)
    for outcome in (Outcome.UNENROLLED, Outcome.DRAINED):
        case.connection.terminate(outcome, "it is over")
    (record,) = case.log.records
    assert record.outcome is Outcome.UNENROLLED


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
