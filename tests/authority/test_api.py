"""Whatever way somebody is revoked by, it holds at every endpoint of the API, and in what all agents are told.

One table: what was revoked, and the verdict of every endpoint for each who may call it. An endpoint that is not in the
table fails the test.
"""

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from agent.authority import control
from agent.authority.api import application
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Issuance, Kind, Subject
from agent.authority.service import AuthorityService
from agent.authority.sqlite_store import SqliteStore
from agent.identity.authority_client import AuthorityClient
from agent.identity.csr import new_request
from agent.identity.provider import ProviderError
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from tests.authority.running import ELSEWHERE, TD, WEB, Authority, Everywhere, newer

CART = SpiffeId.for_service_account(TD, "demo", "cart")
CART_POD = """
kind: Pod
apiVersion: v1
metadata: {name: cart, namespace: demo}
spec: {nodeName: node-a, serviceAccountName: cart}
"""
AGENT = SpiffeId.for_agent(TD, "node-a")
POLL = {"Quietwire-Trusts": "1", "Quietwire-Issuers": "aa"}


class Mesh:
    """Two agents that have joined, with SVIDs for web and cart on node-a, and elsewhere on node-b."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.agent, self.other = authority.client(node="node-a"), authority.client(node="node-b")
        self.svids: dict[str, Svid] = {}

    async def begin(self) -> None:
        for name, client, wanted in (
            ("web", self.agent, WEB),
            ("cart", self.agent, CART),
            ("elsewhere", self.other, ELSEWHERE),
        ):
            self.svids[name] = await client.issue(wanted)
        for name, client in (("agent", self.agent), ("other agent", self.other)):
            assert client.agent is not None
            self.svids[name] = client.agent

    def book(self, work: Callable[..., object], *words: Any) -> None:
        book = self.authority.book()
        try:
            work(book, *words, time.time())
        finally:
            book.close()

    async def ask(
        self, who: str | None, method: str, path: str, body: dict[str, str] | None, poll: bool = False
    ) -> str:
        """What comes back for a caller that shows one of the SVIDs, or none: `yes`, or the code."""
        client = self.authority.client("none")
        client._agent = None if who is None else self.svids[who]
        try:
            await client._request(method, path, body, POLL if poll else {}, 10)
        except ProviderError as error:
            return error.code
        return "yes"

    async def join(self, who: str | None, node: str = "node-a") -> str:
        token = self.authority.token(node)
        csr = new_request(SpiffeId.for_agent(TD, node)).csr_pem.decode()
        return await self.ask(who, "POST", "/v1/join", {"token": token, "node": node, "csr": csr})

    async def sign(self, who: str | None, path: str, wanted: SpiffeId) -> str:
        return await self.ask(who, "POST", path, {"csr": new_request(wanted).csr_pem.decode()})


Attempt = Callable[[Mesh], Awaitable[str]]

DOORS: dict[str, tuple[str, Attempt]] = {
    "join": ("/v1/join", lambda mesh: mesh.join(None)),
    "join, showing the agent's": ("/v1/join", lambda mesh: mesh.join("agent")),
    "join, showing web's": ("/v1/join", lambda mesh: mesh.join("web")),
    "join another node": ("/v1/join", lambda mesh: mesh.join(None, "node-b")),
    "renew": ("/v1/renew", lambda mesh: mesh.sign("agent", "/v1/renew", AGENT)),
    "svid web": ("/v1/svid", lambda mesh: mesh.sign("agent", "/v1/svid", WEB)),
    "svid cart": ("/v1/svid", lambda mesh: mesh.sign("agent", "/v1/svid", CART)),
    "svid by the other": ("/v1/svid", lambda mesh: mesh.sign("other agent", "/v1/svid", ELSEWHERE)),
    "poll": ("/v1/bundle", lambda mesh: mesh.ask("agent", "GET", "/v1/bundle", None, poll=True)),
    "bundle by the agent": ("/v1/bundle", lambda mesh: mesh.ask("agent", "GET", "/v1/bundle", None)),
    "bundle by web": ("/v1/bundle", lambda mesh: mesh.ask("web", "GET", "/v1/bundle", None)),
    "bundle by anybody": ("/v1/bundle", lambda mesh: mesh.ask(None, "GET", "/v1/bundle", None)),
    "poll by the other": ("/v1/bundle", lambda mesh: mesh.ask("other agent", "GET", "/v1/bundle", None, poll=True)),
}

THE_AGENT = {"join", "join, showing the agent's", "renew", "svid web", "svid cart", "poll", "bundle by the agent"}
SHOWING_AGENT = THE_AGENT - {"join"}
SHOWING_WEB = {"join, showing web's", "bundle by web"}
ALL_OF_IT = {"agent", "web", "cart"}

CASES: list[tuple[str, Kind, Callable[[Mesh], str], set[str], set[str]]] = [
    # What was revoked, and then: the doors that are shut, and the SVIDs that nobody may accept any more.
    ("the agent, by its SPIFFE ID", Kind.SPIFFE_ID, lambda _: str(AGENT), THE_AGENT | SHOWING_WEB, ALL_OF_IT),
    ("the agent, by its node", Kind.AGENT, lambda _: "node-a", THE_AGENT | SHOWING_WEB, ALL_OF_IT),
    ("the agent's certificate", Kind.SERIAL, lambda mesh: mesh.svids["agent"].serial, SHOWING_AGENT, {"agent"}),
    ("a workload, by its SPIFFE ID", Kind.SPIFFE_ID, lambda _: str(WEB), SHOWING_WEB | {"svid web"}, {"web"}),
    ("a workload's certificate", Kind.SERIAL, lambda mesh: mesh.svids["web"].serial, SHOWING_WEB, {"web"}),
]


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    authority = Authority(tmp_path, started=False)
    (authority.manifests / "cart.yaml").write_text(CART_POD)
    authority.start()
    made = Mesh(authority)
    await made.begin()
    yield made
    authority.stop()


async def shut(mesh: Mesh) -> dict[str, str]:
    """The doors that say no, with the code; the poll is believed nowhere else."""
    found = {name: await attempt(mesh) for name, (_, attempt) in DOORS.items()}
    return {name: said for name, said in found.items() if said != "yes"}


@pytest.mark.parametrize(
    ("kind", "value", "doors", "refused"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_whatever_is_revoked_is_revoked_at_every_door_until_it_is_taken_back(
    mesh: Mesh, kind: Kind, value: Callable[[Mesh], str], doors: set[str], refused: set[str]
) -> None:
    assert await shut(mesh) == {}
    known = await newer(mesh.other, 0)
    mesh.book(control.revoke, kind, value(mesh), "leaked")
    told = await newer(mesh.other, known.sequence)
    assert await shut(mesh) == dict.fromkeys(doors, "revoked")
    assert {name for name, svid in mesh.svids.items() if told.revokes(svid.spiffe_id, svid.serial)} == refused
    mesh.book(control.unrevoke, kind, value(mesh))
    told = await newer(mesh.other, told.sequence)
    assert await shut(mesh) == {}, "the very same certificates are good again"
    assert not any(told.revokes(svid.spiffe_id, svid.serial) for svid in mesh.svids.values())


async def test_every_endpoint_of_the_api_is_in_the_table(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    store.prepare(TD)
    ledger = SqliteStore(store)
    routes = application(AuthorityService(ledger, Everywhere(), trust_domain=TD, svid_seconds=60)).routes
    await ledger.close()
    assert all(isinstance(route, Route) for route in routes)
    assert {getattr(route, "path", "") for route in routes} == {path for path, _ in DOORS.values()}


async def test_a_token_is_not_used_up_by_an_agent_that_is_revoked(mesh: Mesh) -> None:
    mesh.book(control.revoke, Kind.SPIFFE_ID, str(AGENT), "sold")
    token = mesh.authority.token("node-a")
    body = {"token": token, "node": "node-a", "csr": new_request(AGENT).csr_pem.decode()}
    assert await mesh.ask(None, "POST", "/v1/join", body) == "revoked"
    mesh.book(control.unrevoke, Kind.SPIFFE_ID, str(AGENT))
    assert await mesh.ask(None, "POST", "/v1/join", body) == "yes"


async def test_what_was_revoked_by_two_names_stays_so_until_both_are_taken_back(mesh: Mesh) -> None:
    mesh.book(control.revoke, Kind.AGENT, "node-a", "sold")
    mesh.book(control.revoke, Kind.SPIFFE_ID, str(AGENT), "sold")
    mesh.book(control.unrevoke, Kind.AGENT, "node-a")
    assert (await shut(mesh)).keys() == THE_AGENT | SHOWING_WEB
    mesh.book(control.unrevoke, Kind.SPIFFE_ID, str(AGENT))
    assert await shut(mesh) == {}


async def test_a_certificate_that_the_ledger_does_not_know_can_be_revoked_for_good(mesh: Mesh) -> None:
    """It was signed before a backup was restored, say, or by a thief of the issuer's key."""
    known = await newer(mesh.other, 0)
    mesh.book(control.revoke, Kind.SERIAL, "abcdef", "forged")
    assert (await newer(mesh.other, known.sequence)).revokes(WEB, "abcdef")
    book = mesh.authority.book()
    assert book.publish(None, time.time() + 1e9).revoked_serials == ("abcdef",)
    book.close()


async def test_a_rotation_does_not_wait_for_who_is_revoked_by_either_name(mesh: Mesh) -> None:
    book = mesh.authority.book()
    book.record(Issuance("1", str(CART), "(mint)", time.time(), time.time() + 3600, "former"))
    control.start(book, mesh.authority.store, time.time())
    for node, value in (("node-a", str(AGENT)), ("node-b", str(SpiffeId.for_agent(TD, "node-b")))):
        assert any(f"of node {node} " in each for each in control.blockers(book, time.time()))
        control.revoke(book, Kind.SPIFFE_ID, value, "sold", time.time())
    assert control.blockers(book, time.time()) == []
    control.advance(book, mesh.authority.store, time.time())
    assert [each.partition(",")[0] for each in control.blockers(book, time.time())] == [f"minted {CART}"]
    control.revoke(book, Kind.SPIFFE_ID, str(CART), "leaked", time.time())
    assert control.blockers(book, time.time()) == []
    book.close()


async def test_an_agent_hears_that_it_may_come_back_without_being_started_again(mesh: Mesh) -> None:
    """It has no second token: its own certificate is good again, and it must learn that from somewhere."""

    async def none() -> str:
        raise ProviderError("no_token", "the only token is used up")

    mesh.agent._tokens = none
    known = await newer(mesh.agent, 0)
    mesh.book(control.revoke, Kind.AGENT, "node-a", "sold")
    revoked = await until_newer(mesh.agent, known.sequence)
    assert mesh.svids["agent"].serial in revoked.revoked_serials
    with pytest.raises(ProviderError):
        await mesh.agent.issue(WEB)
    mesh.book(control.unrevoke, Kind.AGENT, "node-a")
    back = await until_newer(mesh.agent, revoked.sequence)
    assert back.revoked_serials == frozenset()
    assert (await mesh.agent.issue(WEB)).spiffe_id == WEB


async def until_newer(client: AuthorityClient, known: int) -> Any:
    """The keeper's loop, without its pauses: what fails is tried again."""
    for _ in range(1000):
        try:
            return await newer(client, known)
        except ProviderError:
            continue
    raise AssertionError("it never heard")


async def test_the_authoritys_own_certificate_can_be_revoked_and_is_replaced_at_once(mesh: Mesh) -> None:
    """A thief of it is no authority to agents that know; the authority itself goes on under another one."""
    book = mesh.authority.book()
    (own,) = [each for each in book.issued() if each.spiffe_id == f"spiffe://{TD}/authority"]
    book.close()
    known = await newer(mesh.agent, 0)
    assert mesh.agent._bundle is not None
    mesh.agent._bundle = known.__class__(TD, known.anchors_pem, known.sequence, revoked_serials=frozenset({own.serial}))
    with pytest.raises(ProviderError, match="is revoked") as caught:
        await mesh.agent.issue(WEB)
    assert caught.value.code == "wrong_authority"
    mesh.agent._bundle = known
    mesh.book(control.revoke, Kind.SERIAL, own.serial, "leaked")
    told = await newer(mesh.agent, known.sequence)
    assert told.revoked_serials == {own.serial}
    for _ in range(1000):
        book = mesh.authority.book()
        serials = [each.serial for each in book.issued() if each.spiffe_id == f"spiffe://{TD}/authority"]
        book.close()
        if serials != [own.serial]:
            break
    assert len(serials) == 2
    assert (await until_issued(mesh.agent)).spiffe_id == WEB


async def until_issued(client: AuthorityClient) -> Svid:
    for _ in range(1000):
        try:
            return await client.issue(WEB)
        except ProviderError:
            continue
    raise AssertionError("it never came back")


@pytest.mark.parametrize("kind", Kind)
def test_what_is_told_and_what_is_refused_agree(tmp_path: Path, kind: Kind) -> None:
    """The same question in both directions: who is refused at a door, and what the bundle says of a certificate."""
    authority = Authority(tmp_path, started=False)
    authority.store.prepare(TD)
    authority.store.create(1, TD, 0.0)
    book = authority.book()
    subjects = []
    for number, (spiffe_id, node) in enumerate(
        [
            (WEB, "node-a"),
            (AGENT, "node-a"),
            (CART, "node-b"),
            (SpiffeId.for_agent(TD, "node-b"), "node-b"),
            (WEB, "(mint)"),
        ]
    ):
        book.record(Issuance(f"{number + 10:x}", str(spiffe_id), node, 0.0, 1e12))
        subjects.append((spiffe_id, node, f"{number + 10:x}"))
    values = {
        Kind.SPIFFE_ID: [str(WEB), str(CART), str(AGENT)],
        Kind.AGENT: ["node-a", "node-b"],
        Kind.SERIAL: ["a", "b", "e"],
    }
    for value in values[kind]:
        book.revoke(kind, value, "why", 1.0)
        ids, serials = book._revoked(1.0)
        told = [str(spiffe_id) in ids or serial in serials for spiffe_id, _, serial in subjects]
        asked = [book.why_revoked(Subject(*subject)) is not None for subject in subjects]
        assert told == asked
        assert any(told)
        book.unrevoke(kind, value)
    book.close()


@pytest.mark.parametrize("wanted", [SpiffeId.for_agent(TD, "node-b"), WEB, SpiffeId(TD, "/authority")])
async def test_an_agent_gets_its_own_identity_and_no_other_by_joining_or_renewing(mesh: Mesh, wanted: SpiffeId) -> None:
    token = mesh.authority.token("node-a")
    body = {"token": token, "node": "node-a", "csr": new_request(wanted).csr_pem.decode()}
    assert await mesh.ask(None, "POST", "/v1/join", body) == "wrong_identity"
    assert await mesh.sign("agent", "/v1/renew", wanted) == "wrong_identity"
    body["csr"] = new_request(AGENT).csr_pem.decode()
    assert await mesh.ask(None, "POST", "/v1/join", body) == "yes", "the token was not used up"
    book = mesh.authority.book()
    assert sum(each.spiffe_id == str(wanted) and each.node == "node-a" for each in book.issued()) == (wanted == WEB)
    book.close()


async def test_an_agent_that_the_ledger_does_not_know_is_nobody_until_it_joins(mesh: Mesh) -> None:
    """Its certificate is of our own root: from before the ledger was restored, say."""
    with contextlib.closing(sqlite3.connect(mesh.authority.store.ledger, isolation_level=None)) as db:
        db.execute("DELETE FROM agents WHERE node = 'node-a'")
    for name in ("renew", "svid web", "poll", "bundle by the agent"):
        assert await DOORS[name][1](mesh) == "unknown_caller"
    assert await DOORS["join"][1](mesh) == "yes"
    assert await DOORS["svid web"][1](mesh) == "yes"


@pytest.mark.parametrize(
    ("proofs", "code"),
    [
        ({}, "bad_request"),
        ({"token": "a", "service_account_token": "b"}, "bad_request"),
        ({"service_account_token": "b"}, "not_authenticated"),
    ],
    ids=["none", "both", "of a pod, where there is no cluster"],
)
async def test_who_joins_shows_one_proof(mesh: Mesh, proofs: dict[str, str], code: str) -> None:
    body = {"node": "node-a", "csr": new_request(AGENT).csr_pem.decode(), **proofs}
    assert await mesh.ask(None, "POST", "/v1/join", body) == code
