"""What an inbound connection is judged by: at its set-up what holds then, afterwards what holds now."""

import asyncio
import ipaddress
import logging
from typing import Any

import msgspec
import pytest

from agent.identity.spiffe import SpiffeId
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.policy.networks import Address
from agent.proxy import inbound
from agent.proxy.connection import Connection, Security
from agent.proxy.inbound import judge, still_permitted
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.stage import SetUp
from agent.tasks import spawn
from agent.tls.contexts import Certificate, Contexts
from agent.tls.machine import TlsMachine
from tests.proxy.fakes import API_IP, PKI, PORT, STRANGER_IP, WEB_IP, Transport, Worker, opening, pod
from tests.tls.pki import TRUST_DOMAIN

API, WEB = pod("api", API_IP), pod("web", WEB_IP)
OPEN = pod("api", API_IP, policy="all-unauthenticated")
AUDITING = pod("api", API_IP, policy="audit")


def addressed(text: str) -> Address:
    return ipaddress.ip_address(text)


def account(name: str) -> SpiffeId:
    return SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name)


def relayed(worker: Worker, source: Pod | None, *, identity: str | None = None) -> Connection:
    """A connection to demo/api that was permitted, and is relayed."""
    connection, _ = worker.accept("demo/api", WEB_IP if source is None else source.ips[0], (API_IP, PORT))
    connection.server_id = worker.view.identity_of(API)
    connection.client_id = None if identity is None else account(identity)
    connection.security = Security.PLAIN if identity is None else Security.MTLS
    connection.source = source
    assert isinstance(judge(connection), Permit)
    worker.live.joined(connection)
    return connection


def ended(connection: Connection, touched: Any = None) -> Denial:
    denial = still_permitted(connection, touched)
    assert isinstance(denial, Denial)
    return denial


# after a change


@pytest.mark.parametrize("identity", ["web", None])
async def test_a_client_pod_with_another_service_account_ends_its_connections_here_too(identity: str | None) -> None:
    worker = Worker(OPEN, WEB)
    connection = relayed(worker, WEB, identity=identity)
    assert still_permitted(connection, worker.change(pod("web", WEB_IP, policy="deny"))) is None, "it is who it was"
    denial = ended(connection, worker.change(pod("web", WEB_IP, account="other")))
    assert (denial.outcome, denial.decided_by) == (Outcome.TERMINATED, "identity")
    assert denial.message == f"demo/web was {account('web')}, and is {account('other')} now"


async def test_whatever_ends_a_connection_is_named_by_its_rule_and_never_by_an_address() -> None:
    worker = Worker(OPEN, WEB)
    connection = relayed(worker, WEB)
    moved = ended(connection, worker.change(pod("api", "10.1.0.9", policy="all-unauthenticated")))
    assert (moved.decided_by, moved.outcome) == ("address", Outcome.TERMINATED)
    renamed = ended(connection, worker.change(pod("api", API_IP, account="x", policy="all-unauthenticated")))
    assert renamed.decided_by == "identity"
    given = ended(connection, worker.change(OPEN, pod("thief", WEB_IP), gone=("web",)))
    assert given.decided_by == "address"
    left = ended(connection, worker.change(gone=("api",)))
    assert (left.decided_by, left.outcome) == ("pod", Outcome.UNENROLLED)
    for denial in (moved, renamed, given, left):
        assert denial.message
        assert denial.considered == ()


async def test_equal_permits_are_remembered_so_that_the_next_look_is_at_one_pointer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker(OPEN, WEB)
    connection = relayed(worker, WEB)
    before = connection.permits
    assert before is not None
    copied = type(before)(before.decided_by, before.authorizations)
    monkeypatch.setattr(worker.view.policy, "permits", lambda *_: copied)
    assert still_permitted(connection) is None
    assert connection.permits is copied


# what only audit keeps


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.name == "quietwire.access"]


def start(connection: Connection) -> None:
    assert isinstance(connection.decision, Permit)
    assert isinstance(connection.stage, SetUp)
    client = connection.stage.accepted
    connection.start_relay(connection.decision, opening(client.bell), client)


async def test_what_audit_lets_in_is_said_at_once_with_what_would_be_denied(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(AUDITING, WEB)
    connection, _ = worker.accept("demo/api", STRANGER_IP, (API_IP, PORT))
    judge(connection)
    start(connection)
    (line,) = lines(caplog)
    assert line.levelno == logging.WARNING
    assert line.getMessage().startswith("audit: only audit lets it in: demo/api:8080: 192.0.2.7 is not permitted by")
    fields: dict[str, Any] = vars(line)["fields"]
    assert (fields["event"], fields["audit"], fields["outcome"]) == ("audited", True, "denied_by_default")
    assert fields["server"] == "default:audit"
    assert worker.decisions == {("audit", "default:audit", "audit", ""): 1}


async def test_what_is_permitted_by_more_than_audit_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(OPEN, WEB)
    connection = relayed(worker, WEB)
    start(connection)
    assert lines(caplog) == []


async def test_a_connection_that_only_audit_keeps_after_a_change_is_said_and_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(OPEN, WEB)
    connection = relayed(worker, WEB)
    start(connection)
    touched = worker.change(AUDITING)
    assert isinstance(still_permitted(connection, touched), Permit)
    assert still_permitted(connection, touched) is None
    (line,) = lines(caplog)
    assert line.levelno == logging.WARNING
    assert "only audit keeps it, after a change: demo/api:8080" in line.getMessage()
    assert worker.decisions == {
        ("allow", "default:all-unauthenticated", "default:all-unauthenticated", ""): 1,
        ("audit", "default:audit", "audit", ""): 1,
    }
    assert isinstance(still_permitted(connection, worker.change(OPEN)), Permit)
    assert isinstance(still_permitted(connection, worker.change(AUDITING)), Permit)
    assert len(lines(caplog)) == 2, "it is kept by audit again"


# between accept and relay


class Setting:
    """A connection to demo/api whose set-up runs."""

    def __init__(self, worker: Worker, client: str) -> None:
        self.connection, self._setup = worker.accept("demo/api", client, (API_IP, PORT))
        self.leg = self._setup.accepted
        self._task = spawn(self._serve(), name="set-up")

    async def _serve(self) -> Refusal | None:
        try:
            await inbound.serve(self.connection, self._setup)
        except Refusal as refusal:
            return refusal
        return None

    async def refusal(self) -> Refusal:
        async with asyncio.timeout(10):
            found = await self._task
        assert found is not None
        return found


CHANGES = [
    ((pod("web", WEB_IP, account="other"),), (), (Outcome.TERMINATED, "identity")),
    ((pod("thief", WEB_IP),), ("web",), (Outcome.TERMINATED, "address")),
    ((pod("api", API_IP, account="web", policy="all-unauthenticated"),), (), (Outcome.TERMINATED, "identity")),
    ((pod("api", "10.1.0.9", policy="all-unauthenticated"),), (), (Outcome.TERMINATED, "address")),
    ((pod("api", API_IP, policy="deny"),), (), (Outcome.DENIED_BY_DEFAULT, "default:deny")),
]


@pytest.mark.parametrize(("changed", "gone", "expected"), CHANGES)
async def test_what_changed_while_nobody_spoke_decides_when_somebody_does(
    changed: tuple[Pod, ...], gone: tuple[str, ...], expected: tuple[Outcome, str]
) -> None:
    """The client's pod skips the port, so that its plaintext is looked at; it says nothing until all has changed."""
    web = pod("web", WEB_IP, injected=False)
    worker = Worker(OPEN, web)
    setting = Setting(worker, WEB_IP)
    await worker.dialled.wait()
    worker.change(*changed, gone=gone)
    setting.leg.keep(b"GET / HTTP/1.1\r\n")
    refusal = await setting.refusal()
    decision = setting.connection.decision
    assert isinstance(decision, Denial)
    assert (refusal.outcome, decision.decided_by) == expected


async def test_a_pod_whose_certificate_went_while_nobody_spoke_serves_nobody() -> None:
    worker = Worker(OPEN)
    setting = Setting(worker, STRANGER_IP)
    await worker.dialled.wait()
    worker.view.forget_svid(account("api"))
    setting.leg.keep(b"GET / HTTP/1.1\r\n")
    assert (await setting.refusal()).outcome is Outcome.NO_IDENTITY


@pytest.mark.parametrize("default", ["all-authenticated", "all-unauthenticated"])
async def test_a_client_that_takes_its_time_meets_the_certificate_that_is_in_force_when_it_speaks(default: str) -> None:
    """The handshake is made under the SVID of then; afterwards policy refuses, so that no relay is needed."""
    worker = Worker(pod("api", API_IP, policy=default))
    setting = Setting(worker, STRANGER_IP)
    await asyncio.sleep(0)
    renewed = PKI.svid("api")
    worker.view.set_svid(renewed)
    name = account("api").dns_name or ""
    client = TlsMachine.client(Contexts(PKI.svid("web"), PKI.bundle()).client, name, None)
    await shake(client, setting.leg, lambda: worker.change(pod("api", API_IP, policy="deny")))
    refused = await setting.refusal()
    assert refused.outcome is Outcome.DENIED_BY_DEFAULT
    assert isinstance(setting.connection.decision, Denial)
    assert refused.message == setting.connection.decision.message
    assert setting.connection.certificates[0] == Certificate(account("api"), renewed.serial, frozenset())
    assert setting.connection.client_id == account("web")


@pytest.mark.parametrize("whose", ["the client's", "the pod's own"])
async def test_who_is_revoked_between_handshake_and_relay_is_served_no_more(whose: str) -> None:
    """The handshake was good, policy lets it in; the revocation comes while the application is dialled."""
    worker = Worker(API, WEB)
    setting = Setting(worker, WEB_IP)
    await asyncio.sleep(0)
    revoked = account("web" if whose == "the client's" else "api")

    def revoke() -> None:
        worker.view.set_bundle(msgspec.structs.replace(PKI.bundle(), revoked_ids=frozenset({str(revoked)})))

    worker.while_dialling = revoke
    client = TlsMachine.client(Contexts(PKI.svid("web"), PKI.bundle()).client, account("api").dns_name or "", None)
    await shake(client, setting.leg, lambda: None)
    refusal = await setting.refusal()
    assert refusal.outcome is Outcome.IDENTITY_REVOKED
    assert str(revoked) in refusal.message
    assert isinstance(setting.connection.decision, Permit), "policy had nothing against it"


async def shake(client: TlsMachine, leg: Opening, before_the_last: Any) -> None:
    """The client's side of a handshake, towards an opening of ours."""
    transport = leg.transport
    assert isinstance(transport, Transport)
    client.start()
    leg.keep(client.outgoing())
    async with asyncio.timeout(10):
        while not client.handshake_complete:
            await asyncio.sleep(0)
            answer, transport.written = transport.written, b""
            if answer:
                client.receive(answer)
    before_the_last()
    leg.keep(client.outgoing())


async def test_a_first_speaker_that_is_still_permitted_gets_as_far_as_its_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = asyncio.Event()
    monkeypatch.setattr(Connection, "start_relay", lambda *_, **__: started.set())
    worker = Worker(OPEN, WEB)
    setting = Setting(worker, STRANGER_IP)
    await worker.dialled.wait()
    worker.change(pod("other", "10.1.0.77"))
    setting.leg.keep(b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(10):
        await started.wait()
