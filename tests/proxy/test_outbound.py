"""What is refused or ended on the way out, and what is then named as what decided."""

import pytest

from agent.catalog.snapshot import CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey
from agent.objects.model import ContainerPort, Endpoint, Pod, Service, ServicePort
from agent.outcome import Outcome
from agent.policy.model import Denial
from agent.proxy import outbound
from agent.proxy.connection import Connection, Direction
from agent.proxy.outbound import still_permitted
from agent.proxy.refusal import Refusal
from agent.proxy.route import Passage, PlainReason
from tests.proxy.fakes import API_IP, PORT, STRANGER_IP, WEB_IP, Worker, mesh, plain, pod
from tests.tls.pki import TRUST_DOMAIN

WEB, API = pod("web", WEB_IP), pod("api", API_IP)
API_ID = SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "api")


def dialled(worker: Worker, address: str) -> Connection:
    connection, _ = worker.accept("demo/web", WEB_IP, (address, PORT), Direction.OUTBOUND)
    connection.client_id = worker.view.identity_of(WEB)
    return connection


@pytest.mark.parametrize("egress", ["flag", "annotation"])
async def test_the_first_refusal_by_egress_mode_is_a_decision_that_is_counted_and_named(egress: str) -> None:
    flag = egress == "flag"
    worker = Worker(
        pod("web", WEB_IP, egress_mode=None if flag else "meshed-only"), egress="meshed-only" if flag else "allow"
    )
    connection, setup = worker.accept("demo/web", WEB_IP, (STRANGER_IP, PORT), Direction.OUTBOUND)
    with pytest.raises(Refusal) as refused:
        await outbound.serve(connection, setup)
    assert refused.value.outcome is Outcome.EGRESS_NOT_MESHED
    decision = connection.decision
    assert isinstance(decision, Denial)
    assert (decision.decided_by, decision.outcome) == ("egress:meshed-only", Outcome.EGRESS_NOT_MESHED)
    connection.refuse(refused.value.outcome, refused.value.message)
    assert worker.decisions == {("deny", "egress:meshed-only", "", "egress_not_meshed"): 1}


async def test_a_refusal_that_no_policy_made_is_no_decision() -> None:
    worker = Worker(WEB)
    worker.view.forget_svid(worker.view.identity_of(WEB))
    worker.change(API)
    connection, setup = worker.accept("demo/web", WEB_IP, (API_IP, PORT), Direction.OUTBOUND)
    with pytest.raises(Refusal) as refused:
        await outbound.serve(connection, setup)
    connection.refuse(refused.value.outcome, refused.value.message)
    assert refused.value.outcome is Outcome.NO_IDENTITY
    assert worker.decisions == {}


PLAIN = plain(STRANGER_IP, PORT, PlainReason.DESTINATION_NOT_IN_CATALOG)
MESH = mesh(API_IP, PORT, "demo/api", API_ID)


@pytest.mark.parametrize(
    ("route", "changed", "gone", "rule"),
    [
        (PLAIN, (pod("web", WEB_IP, egress_mode="meshed-only"),), (), "egress:meshed-only"),
        (PLAIN, (pod("new", STRANGER_IP),), (), "mesh"),
        (MESH, (pod("web", WEB_IP, account="x"),), (), "identity"),
        (MESH, (pod("api", API_IP, account="x"),), (), "identity"),
        (MESH, (pod("thief", API_IP, account="api"),), ("api",), "address"),
        (MESH, (pod("api", API_IP, injected=False),), (), "mesh"),
    ],
)
async def test_whatever_ends_a_connection_is_named_by_its_rule(
    route: Passage, changed: tuple[Pod, ...], gone: tuple[str, ...], rule: str
) -> None:
    worker = Worker(WEB, API)
    connection = dialled(worker, route.address)
    connection.route = route
    worker.weigh(route.address, route.port)
    assert still_permitted(connection) is None
    denial = still_permitted(connection, worker.change(*changed, gone=gone))
    assert denial is not None
    assert (denial.decided_by, denial.outcome) == (rule, Outcome.TERMINATED)
    assert denial.message


async def test_what_becomes_meshed_while_it_is_dialled_gets_no_plaintext(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was nobody's address when the dial began."""
    started: list[Connection] = []
    monkeypatch.setattr(Connection, "start_relay", lambda connection, *_: started.append(connection))
    worker = Worker(WEB)
    connection, setup = worker.accept("demo/web", WEB_IP, (STRANGER_IP, PORT), Direction.OUTBOUND)
    worker.while_dialling = lambda: worker.change(pod("elsewhere", "10.1.0.77"))
    await outbound.serve(connection, setup)
    assert started == [connection], "a change that is about others"

    connection, setup = worker.accept("demo/web", WEB_IP, (STRANGER_IP, PORT), Direction.OUTBOUND)
    worker.while_dialling = lambda: worker.change(pod("new", STRANGER_IP))
    with pytest.raises(Refusal) as refused:
        await outbound.serve(connection, setup)
    assert refused.value.outcome is Outcome.TERMINATED
    assert "meshed now: plaintext must end" in refused.value.message
    assert isinstance(connection.decision, Denial)
    assert connection.decision.decided_by == "mesh"
    assert len(started) == 1


async def test_an_application_that_left_while_its_connection_was_dialled_gets_no_relay() -> None:
    worker = Worker(WEB)
    connection, setup = worker.accept("demo/web", WEB_IP, (STRANGER_IP, PORT), Direction.OUTBOUND)
    worker.while_dialling = lambda: setup.accepted.connection_lost(ConnectionResetError())
    with pytest.raises(Refusal) as refused:
        await outbound.serve(connection, setup)
    assert refused.value.outcome is Outcome.RESET_BY_APPLICATION
    assert refused.value.message == "the application left while its connection was set up"


NODE_IP = "203.0.113.1"
SERVED = Service(
    "demo",
    "api",
    ("198.51.100.1",),
    (ServicePort("", PORT, (Endpoint(API_IP, PORT),), external_ips=(STRANGER_IP,), node_port=30080),),
)
HOSTED = Pod("demo", "host", "host", "node-a", ("10.1.0.7",), container_ports=(ContainerPort("", PORT, host_port=80),))


@pytest.mark.parametrize(
    ("at", "change"),
    [
        ((STRANGER_IP, PORT), CatalogChange(2, services=(SERVED,))),
        (("198.51.100.1", PORT), CatalogChange(2, services=(SERVED,))),
        ((NODE_IP, 30080), CatalogChange(2, services=(SERVED,))),
        ((NODE_IP, 80), CatalogChange(2, pods=(HOSTED,))),
    ],
)
async def test_plaintext_to_what_turns_out_to_be_an_address_of_the_mesh_ends(
    at: tuple[str, int], change: CatalogChange
) -> None:
    worker = Worker(WEB, API)
    worker.view.set_node_addresses((NODE_IP,))
    connection = dialled(worker, at[0])
    connection.route = plain(*at, PlainReason.DESTINATION_NOT_IN_CATALOG)
    touched = worker.view.change_catalog(change)
    ended = still_permitted(connection, touched)
    assert ended is not None
    assert "is meshed now: plaintext must end" in ended.message
    gone = CatalogChange(3, gone=(ObjectKey("Service", "demo", "api"), ObjectKey("Pod", "demo", "host")))
    assert still_permitted(connection, worker.view.change_catalog(gone)) is None
