"""The service by itself: callers and CSRs in, certificates and refusals out."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.authority import control, service
from agent.authority.attestation import Attested, ServiceAccount
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book, Kind
from agent.authority.refusal import Code, Refusal
from agent.authority.service import AuthorityService, Caller
from agent.authority.sqlite_store import SqliteStore
from agent.identity.csr import new_request
from agent.identity.spiffe import SpiffeId
from tests.authority.running import TD, WEB, Everywhere


async def test_who_asks_too_often_is_told_so_and_others_are_not(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    store.prepare(TD)
    ledger = SqliteStore(store)
    moment = time.time()
    asked = AuthorityService(ledger, Everywhere(), trust_domain=TD, svid_seconds=60, clock=lambda: moment)
    await asked.start()
    callers = []
    for node in ("node-a", "node-b"):
        token = await ledger.do(Book.create_token, node, moment + 60)
        agent = SpiffeId.for_agent(TD, node)
        await asked.join(token, node, new_request(agent).csr_pem.decode(), "192.0.2.1")
        callers.append(Caller(agent, "serial"))
    csr = new_request(WEB).csr_pem.decode()
    for _ in range(service.REQUESTS_AT_ONCE):
        await asked.issue(callers[0], csr)
    with pytest.raises(Refusal, match="asks too often") as caught:
        await asked.issue(callers[0], csr)
    assert (caught.value.code, caught.value.status) == (Code.RATE_LIMITED, 429)
    assert await asked.issue(callers[1], csr)
    moment += 1.5 / service.REQUESTS_PER_SECOND
    assert await asked.issue(callers[0], csr)
    await ledger.close()


MOMENT = 1_800_000_000.0


class OfNodeA:
    """Knows one token, of a pod on node-a."""

    asked = 0

    async def attest(self, token: str, node: str) -> Attested:
        self.asked += 1
        if token != "good":
            raise Refusal(Code.NOT_AUTHENTICATED, "who is that?")
        return Attested("node-a", ServiceAccount("quietwire", "agent"), "agent-1", "uid")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = StateDirectory(tmp_path)
    store.prepare(TD)
    made = SqliteStore(store)
    yield made
    await made.close()


async def serving(tmp_path: Path, ledger: SqliteStore, attestor: OfNodeA | None) -> AuthorityService:
    made = AuthorityService(
        ledger,
        Everywhere(),
        trust_domain=TD,
        svid_seconds=60,
        attestor=attestor,
        clock=lambda: MOMENT,
    )
    await made.start()
    return made


def a_request(node: str = "node-a") -> str:
    return new_request(SpiffeId.for_agent(TD, node)).csr_pem.decode()


async def refusal(attempt: object) -> Code:
    with pytest.raises(Refusal) as caught:
        await attempt  # type: ignore[misc]  # a coroutine of whatever type
    return caught.value.code


async def test_an_agent_that_its_pod_attests_has_joined_and_is_on_the_record(
    tmp_path: Path, ledger: SqliteStore
) -> None:
    asked = await serving(tmp_path, ledger, OfNodeA())
    assert await asked.join_from_pod("good", "node-a", a_request(), "192.0.2.1")
    assert await ledger.do(Book.knows_agent, "node-a")
    (agent,) = await ledger.do(Book.agents)
    assert (agent.joined, agent.expires) == (MOMENT, MOMENT + service.AGENT_SECONDS)


async def test_who_is_not_attested_has_not_joined(tmp_path: Path, ledger: SqliteStore) -> None:
    asked = await serving(tmp_path, ledger, OfNodeA())
    assert await refusal(asked.join_from_pod("bad", "node-a", a_request(), "192.0.2.1")) is Code.NOT_AUTHENTICATED
    assert not await ledger.do(Book.knows_agent, "node-a")


async def test_a_request_for_another_identity_is_refused_before_anybody_is_asked(
    tmp_path: Path, ledger: SqliteStore
) -> None:
    attestor = OfNodeA()
    asked = await serving(tmp_path, ledger, attestor)
    attempt = asked.join_from_pod("good", "node-a", a_request("node-b"), "192.0.2.1")
    assert await refusal(attempt) is Code.WRONG_IDENTITY
    assert attestor.asked == 0


@pytest.mark.parametrize("kind", [Kind.AGENT, Kind.SPIFFE_ID])
async def test_a_revoked_agent_does_not_come_back_by_a_new_token(
    tmp_path: Path, ledger: SqliteStore, kind: Kind
) -> None:
    asked = await serving(tmp_path, ledger, OfNodeA())
    value = "node-a" if kind is Kind.AGENT else str(SpiffeId.for_agent(TD, "node-a"))
    await ledger.do(control.revoke, kind, value, "sold", MOMENT)
    assert await refusal(asked.join_from_pod("good", "node-a", a_request(), "192.0.2.1")) is Code.REVOKED
    assert not await ledger.do(Book.knows_agent, "node-a")


async def test_the_api_server_is_not_asked_at_whatever_rate_a_stranger_likes(
    tmp_path: Path, ledger: SqliteStore
) -> None:
    attestor = OfNodeA()
    asked = await serving(tmp_path, ledger, attestor)
    for _ in range(service.JOINS_AT_ONCE):
        await refusal(asked.join_from_pod("bad", "node-a", a_request(), "192.0.2.66"))
    attempt = asked.join_from_pod("bad", "node-a", a_request(), "192.0.2.66")
    assert await refusal(attempt) is Code.RATE_LIMITED
    assert attestor.asked == service.JOINS_AT_ONCE
    assert await asked.join_from_pod("good", "node-a", a_request(), "192.0.2.1"), "another address"


async def test_an_authority_of_no_cluster_says_that_it_knows_no_service_accounts(
    tmp_path: Path, ledger: SqliteStore
) -> None:
    asked = await serving(tmp_path, ledger, None)
    assert await refusal(asked.join_from_pod("good", "node-a", a_request(), "192.0.2.1")) is Code.NOT_AUTHENTICATED
