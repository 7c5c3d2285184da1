"""What a change means for what is relayed inbound: who inherits an address, who is still whom, what is looked at."""

import pytest

from agent.catalog.snapshot import CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey
from agent.objects.model import Pod
from agent.objects.policy import DefaultPolicy, LabelSelector, NetworkRange, Server, ServerAuthorization
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.proxy.connection import Connection, Security
from agent.proxy.inbound import judge, still_permitted
from agent.proxy.view import Touched
from tests.proxy.fakes import API_IP, PORT, WEB_IP, Worker, pod
from tests.tls.pki import TRUST_DOMAIN

OPEN = pod("api", API_IP, policy="all-unauthenticated")
CLOSED = pod("api", API_IP, policy="deny")
WEB = pod("web", WEB_IP)
NOTHING = Touched()


def account(name: str) -> SpiffeId:
    return SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name)


def inbound(worker: Worker, source: Pod | None, *, identity: str | None = None, client: str = WEB_IP) -> Connection:
    """A connection to demo/api that was permitted; `source` is who the catalog said its client was."""
    connection, _ = worker.accept("demo/api", client, (API_IP, PORT))
    connection.server_id = account("api")
    connection.client_id = None if identity is None else account(identity)
    connection.security = Security.PLAIN if identity is None else Security.MTLS
    connection.source = source
    assert isinstance(judge(connection), Permit)
    return connection


# whose the client's address is


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        ("1", "1", True),
        ("1", "2", False),
        ("", "2", True),
        ("1", "", True),
        ("", "", True),
    ],
    ids=["the same one", "made anew", "none was told", "none is told", "none at all"],
)
async def test_a_pod_of_the_same_name_is_the_same_one_unless_its_uid_says_no(was: str, now: str, *, same: bool) -> None:
    former = pod("web", WEB_IP, uid=was)
    worker = Worker(OPEN, former)
    connection = inbound(worker, former)
    touched = worker.change(pod("web", WEB_IP, uid=now, policy="deny"))
    denial = still_permitted(connection, touched)
    assert (denial is None) is same
    if denial is not None:
        assert isinstance(denial, Denial)
        assert (denial.decided_by, denial.outcome) == ("address", Outcome.TERMINATED)
        assert denial.message == f"{WEB_IP} was demo/web's, and is demo/web's now"


async def test_a_pod_of_another_name_is_another_one_whatever_its_uid_and_account() -> None:
    former = pod("web", WEB_IP, uid="1")
    worker = Worker(OPEN, former)
    connection = inbound(worker, former)
    denial = still_permitted(connection, worker.change(pod("thief", WEB_IP, uid="1", account="web"), gone=("web",)))
    assert denial is not None
    assert denial.decided_by == "address"


@pytest.mark.parametrize(("identity", "stays"), [(None, True), ("web", True), ("other", False)])
async def test_whoever_called_before_the_catalog_knew_of_it_must_be_who_the_catalog_then_names(
    identity: str | None, *, stays: bool
) -> None:
    """An SVID of another identity came from this address before the pod that has it now did."""
    worker = Worker(OPEN)
    connection = inbound(worker, None, identity=identity)
    denial = still_permitted(connection, worker.change(WEB))
    assert (denial is None) is stays
    if denial is None:
        assert connection.source == WEB, "from now on it is this pod's"
        later = still_permitted(connection, worker.change(pod("thief", WEB_IP), gone=("web",)))
        assert later is not None
        assert later.decided_by == "address"
    else:
        assert isinstance(denial, Denial)
        assert (denial.decided_by, denial.outcome) == ("address", Outcome.TERMINATED)
        assert denial.message == f"{WEB_IP} is demo/web's now, and {account('other')} is not its identity"
        assert connection.source is None


async def test_an_address_that_is_nobodys_for_a_while_is_still_its_pods() -> None:
    """It may be finishing what it does; whoever gets the address next ends the connection."""
    worker = Worker(OPEN, WEB)
    connection = inbound(worker, WEB)
    assert still_permitted(connection, worker.change(gone=("web",))) is None
    assert still_permitted(connection) is None
    assert connection.source == WEB
    assert still_permitted(connection, worker.change(pod("thief", WEB_IP))) is not None


# what is looked at


async def test_a_change_that_is_about_others_is_not_looked_at_but_for_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of connections are asked at each change: whose addresses are whose is looked up where it matters."""
    worker = Worker(OPEN, WEB)
    connection = inbound(worker, WEB)
    asked: list[str] = []

    def identity_of(pod: Pod) -> SpiffeId:
        asked.append(pod.key)
        return account(pod.service_account)

    monkeypatch.setattr(worker.view, "identity_of", identity_of)
    monkeypatch.setattr(worker.view.catalog, "pod_at", asked.append)
    assert still_permitted(connection, NOTHING) is None
    assert asked == []
    assert still_permitted(connection) is None, "without a word of what it was about, all is"
    assert asked == ["demo/api", WEB_IP]


@pytest.mark.parametrize("touched", ["what it was about", None])
@pytest.mark.parametrize(
    ("changed", "gone", "rule"),
    [
        (pod("api", "10.1.0.9", policy="all-unauthenticated"), (), "address"),
        (pod("api", API_IP, account="x", policy="all-unauthenticated"), (), "identity"),
        (pod("web", WEB_IP, account="x"), (), "identity"),
        (pod("thief", WEB_IP), ("web",), "address"),
        (CLOSED, (), "default:deny"),
        (None, ("api",), "pod"),
    ],
)
async def test_each_change_ends_a_connection_told_or_not_what_it_was_about(
    changed: Pod | None, gone: tuple[str, ...], rule: str, touched: str | None
) -> None:
    worker = Worker(OPEN, WEB)
    connection = inbound(worker, WEB)
    assert still_permitted(connection) is None
    about = worker.change(*() if changed is None else (changed,), gone=gone)
    denial = still_permitted(connection, None if touched is None else about)
    assert isinstance(denial, Denial)
    assert denial.decided_by == rule
    assert denial.outcome is {"pod": Outcome.UNENROLLED, "default:deny": Outcome.DENIED_BY_DEFAULT}.get(
        rule, Outcome.TERMINATED
    )


async def test_one_of_several_addresses_that_a_pod_has_is_enough() -> None:
    worker = Worker(pod("api", API_IP, "2001:db8::1", policy="all-unauthenticated"), WEB)
    connection = inbound(worker, WEB)
    kept = pod("api", "2001:db8::7", API_IP, policy="all-unauthenticated")
    assert still_permitted(connection, worker.change(kept)) is None


async def test_policy_that_changes_is_asked_for_the_port_and_by_who_the_client_is() -> None:
    authenticated = pod("api", API_IP, policy="all-authenticated")
    worker = Worker(OPEN, WEB)
    known, unknown = inbound(worker, WEB, identity="web"), inbound(worker, WEB)
    touched = worker.change(authenticated)
    permit = still_permitted(known, touched)
    assert isinstance(permit, Permit)
    assert known.decision is permit
    assert permit.decided_by == "default:all-authenticated"
    denial = still_permitted(unknown, touched)
    assert isinstance(denial, Denial)
    assert denial.outcome is Outcome.UNAUTHENTICATED
    assert unknown.decision is denial
    permit = still_permitted(known, worker.change(OPEN))
    assert isinstance(permit, Permit)
    assert known.decision is permit
    assert permit.decided_by == "default:all-unauthenticated"


async def test_policy_in_force_is_asked_also_where_a_change_was_about_nothing() -> None:
    """Another object of policy may have decided, and no pod has changed."""
    worker = Worker(OPEN, WEB)
    connection = inbound(worker, WEB)
    worker.change(CLOSED)
    denial = still_permitted(connection, NOTHING)
    assert denial is not None
    assert denial.decided_by == "default:deny"


@pytest.mark.parametrize(("port", "ends"), [(PORT, True), (PORT + 1, False)])
async def test_a_server_that_comes_decides_about_connections_to_its_port_and_no_others(
    port: int, *, ends: bool
) -> None:
    worker = Worker(OPEN, WEB)
    connection = inbound(worker, WEB)
    touched = worker.view.change_catalog(CatalogChange(2, policies=(Server("demo", "api", port, LabelSelector()),)))
    denial = still_permitted(connection, touched)
    assert isinstance(denial, Denial) is ends
    assert denial is None or denial.decided_by == "Server demo/api"
    gone = worker.view.change_catalog(CatalogChange(3, gone=(ObjectKey("Server", "demo", "api"),)))
    assert isinstance(still_permitted(connection, gone), Permit) is ends


async def test_what_audit_keeps_is_said_when_it_begins_to_and_not_at_each_change_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(pod("api", API_IP, policy="audit"), WEB)
    connection = inbound(worker, WEB)
    worker.live.joined(connection)
    server = Server("demo", "api", PORT, LabelSelector(), DefaultPolicy.AUDIT)
    worker.view.change_catalog(CatalogChange(2, policies=(server,)))
    permit = still_permitted(connection)
    assert isinstance(permit, Permit)
    assert connection.decision is permit
    assert permit.decided_by == "Server demo/api"
    assert caplog.records == [], "only audit let it in before, too"


@pytest.mark.parametrize(
    ("security", "identity", "permitted"),
    [(Security.PLAIN, None, False), (Security.TLS, None, True), (Security.MTLS, "web", True)],
)
async def test_a_client_is_judged_by_the_port_that_it_dialled_and_by_whether_it_came_by_tls(
    security: Security, identity: str | None, *, permitted: bool
) -> None:
    worker = Worker(CLOSED, WEB)
    server = Server("demo", "api", PORT, LabelSelector())
    anyone = ServerAuthorization(
        "demo", "tls", "api", None, networks=(NetworkRange("0.0.0.0/0"),), unauthenticated_tls=True
    )
    worker.view.change_catalog(CatalogChange(2, policies=(server, anyone)))
    connection, _ = worker.accept("demo/api", WEB_IP, (API_IP, PORT))
    connection.security = security
    connection.client_id = None if identity is None else account(identity)
    verdict = judge(connection)
    assert isinstance(verdict, Permit) is permitted
    assert verdict.decided_by == "Server demo/api"
    assert connection.decision is verdict
    elsewhere, _ = worker.accept("demo/api", WEB_IP, (API_IP, PORT + 1))
    elsewhere.security = security
    assert judge(elsewhere).decided_by == "default:deny"


async def test_a_pod_that_has_left_is_judged_by_nothing() -> None:
    worker = Worker(OPEN, WEB)
    connection = inbound(worker, WEB)
    worker.change(gone=("api",))
    verdict = judge(connection)
    assert isinstance(verdict, Denial)
    assert (verdict.decided_by, verdict.outcome, verdict.message) == (
        "pod",
        Outcome.UNENROLLED,
        "demo/api left the catalog",
    )
