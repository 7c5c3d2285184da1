"""The service by itself: callers and CSRs in, certificates and refusals out."""

import time
from pathlib import Path

import pytest

from agent.authority import service
from agent.authority.ledger import Book, Ledger
from agent.authority.refusal import Code, Refusal
from agent.authority.service import AuthorityService, Caller
from agent.authority.store import Store
from agent.identity.csr import new_request
from agent.identity.spiffe import SpiffeId
from tests.authority.running import TD, WEB, Everywhere


async def test_who_asks_too_often_is_told_so_and_others_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare(TD)
    ledger = Ledger(store.ledger)
    moment = time.time()
    asked = AuthorityService(store, ledger, Everywhere(), trust_domain=TD, svid_seconds=60, clock=lambda: moment)
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
    ledger.close()
