"""What a change means for relayed outbound connections: whether what they go to is still what they went to."""

from typing import Any

import pytest

from agent.catalog.snapshot import CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey
from agent.objects.model import Endpoint, Pod, PortRange, Service, ServicePort
from agent.outcome import Outcome
from agent.proxy.connection import Connection, Direction
from agent.proxy.outbound import still_permitted
from agent.proxy.route import Passage, PlainReason
from agent.proxy.view import Touched
from tests.proxy.fakes import API_IP, PORT, STRANGER_IP, WEB_IP, Worker, mesh, plain, pod
from tests.tls.pki import TRUST_DOMAIN

WEB = pod("web", WEB_IP)
NOTHING = Touched()


def account(name: str) -> SpiffeId:
    return SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name)


PLAIN = plain(STRANGER_IP, PORT, PlainReason.DESTINATION_NOT_IN_CATALOG)
API = pod("api", API_IP)
MESH = mesh(API_IP, PORT, "demo/api", account("api"))


def out(worker: Worker, route: Passage | None) -> Connection:
    connection, _ = worker.accept("demo/web", WEB_IP, (STRANGER_IP, PORT), Direction.OUTBOUND)
    connection.client_id = account("web")
    connection.route = route
    return connection


async def test_a_connection_that_goes_nowhere_yet_is_not_judged() -> None:
    assert still_permitted(out(Worker(WEB), None)) is None


async def test_what_a_change_is_not_about_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(WEB)
    connection = out(worker, PLAIN)
    worker.view.change_catalog(CatalogChange(2, (pod("new", STRANGER_IP),)))
    assert still_permitted(connection, NOTHING) is None
    for touched in (Touched(frozenset({"demo/web"})), Touched(addresses=frozenset({STRANGER_IP})), None):
        denial = still_permitted(connection, touched)
        assert denial is not None
        assert denial.decided_by == "mesh"


async def test_a_pod_that_merely_left_the_catalog_may_finish_what_it_does() -> None:
    worker = Worker(WEB, API)
    connections = [out(worker, MESH), out(worker, PLAIN)]
    for gone in ("api", "web"):
        touched = worker.change(gone=(gone,))
        assert [still_permitted(each, touched) for each in connections] == [None, None]


async def test_plaintext_is_its_pods_whatever_its_account_and_mesh_tls_is_the_identitys() -> None:
    worker = Worker(WEB, API)
    touched = worker.change(pod("web", WEB_IP, account="other"))
    assert still_permitted(out(worker, PLAIN), touched) is None
    denial = still_permitted(out(worker, MESH), touched)
    assert denial is not None
    assert denial.message == f"demo/web is {account('other')} now, and no longer {account('web')}"


async def test_a_destination_that_has_become_a_services_address_is_named_by_its_address() -> None:
    """It is asked for again as what it is: no endpoint stands behind it."""
    worker = Worker(WEB)
    connection = out(worker, PLAIN)
    service = Service("demo", "late", (STRANGER_IP,), (ServicePort("http", PORT),))
    worker.view.change_catalog(CatalogChange(2, services=(service,)))
    denial = still_permitted(connection)
    assert denial is not None
    assert (denial.decided_by, denial.outcome) == ("address", Outcome.TERMINATED)
    worker.view.change_catalog(CatalogChange(3, gone=(ObjectKey("Service", "demo", "late"),)))
    assert still_permitted(connection) is None


@pytest.mark.parametrize(
    ("changed", "gone"), [((pod("api", API_IP, uid="2", policy="deny"),), ()), ((pod("x", "10.1.0.7"),), ())]
)
async def test_mesh_tls_to_the_same_pod_under_the_same_identity_stays(
    changed: tuple[Pod, ...], gone: tuple[str, ...]
) -> None:
    worker = Worker(WEB, API)
    touched: Any = worker.change(*changed, gone=gone)
    assert still_permitted(out(worker, MESH), touched) is None
    assert still_permitted(out(worker, MESH)) is None


@pytest.mark.parametrize(
    ("route", "skipped", "rule"),
    [
        (MESH, PORT, "mesh"),
        (MESH, PORT + 1, None),
        (plain(API_IP, PORT, PlainReason.DESTINATION_SKIPS), PORT, None),
        (plain(API_IP, PORT, PlainReason.DESTINATION_SKIPS), PORT + 1, "mesh"),
    ],
)
async def test_what_a_destination_keeps_out_of_the_mesh_is_asked_for_the_port_that_was_dialled(
    route: Passage, skipped: int, rule: str | None
) -> None:
    worker = Worker(WEB, API)
    connection = out(worker, route)
    touched = worker.change(pod("api", API_IP, skip_inbound_ports=(PortRange(skipped, skipped),)))
    denial = still_permitted(connection, touched)
    assert (None if denial is None else denial.decided_by) == rule


@pytest.mark.parametrize(("endpoint", "rule"), [(API_IP, "mesh"), ("192.0.2.99", None)])
async def test_plaintext_to_what_is_a_services_address_now_ends_where_that_leads_to_a_meshed_pod(
    endpoint: str, rule: str | None
) -> None:
    worker = Worker(WEB, API)
    connection = out(worker, PLAIN)
    service = Service("demo", "late", (STRANGER_IP,), (ServicePort("http", PORT, (Endpoint(endpoint, PORT),)),))
    worker.view.change_catalog(CatalogChange(2, services=(service,)))
    denial = still_permitted(connection)
    assert (None if denial is None else denial.decided_by) == rule
