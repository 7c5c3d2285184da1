"""An authority's state on a real cluster: what every store keeps, with several writers, and what its objects are."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from cryptography.x509 import load_pem_x509_certificates

from agent.authority import control
from agent.authority.kubernetes import keeping, objects, secrets
from agent.authority.kubernetes.keeping import Keeping
from agent.authority.kubernetes.objects import CaKey, ca_name
from agent.authority.kubernetes.secrets import Secrets
from agent.authority.kubernetes.store import KubernetesStore
from agent.authority.kubernetes.tidy import KEPT_SECONDS
from agent.authority.ledger import Book, Kind, Revoked
from agent.authority.refusal import Refusal
from agent.authority.service import Caller, authority_id
from agent.authority.store import Store, StoreError, StoreUnavailableError
from agent.identity.csr import new_request
from agent.identity.spiffe import SpiffeId
from agent.kubernetes.access import from_kubeconfig
from agent.kubernetes.client import Client
from agent.kubernetes.errors import Unreachable
from agent.tasks import spawn
from tests.authority.running import ELSEWHERE, TD, WEB
from tests.authority.store_contract import LATER, SCENARIOS, Opened, Scenario, a_service, begun, issuance
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.inside import inside

NAMESPACE = "test-authority-store"


@pytest.fixture(scope="module", autouse=True)
def _namespace(cluster: Cluster) -> Iterator[None]:
    with cluster.namespace(NAMESPACE):
        yield


@pytest.fixture
def authority() -> str:
    """A name of its own for each test's."""
    return f"authority-{uuid4().hex[:8]}"


@contextlib.asynccontextmanager
async def stores(cluster: Cluster, authority: str) -> AsyncIterator[Opened]:
    """Opens replicas' stores, each with its own connection to the API server and its own watch."""
    made: list[tuple[KubernetesStore, asyncio.Task[None]]] = []

    async def another() -> Store:
        client = Client(from_kubeconfig([cluster.layout.kubeconfig]))
        store = KubernetesStore(client, namespace=NAMESPACE, trust_domain=TD, authority=authority)
        await store.open()
        made.append((store, spawn(store.run(), name="store")))
        return store

    try:
        yield another
    finally:
        for store, task in made:
            task.cancel()
            await asyncio.wait([task])
            await store.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.__name__ for each in SCENARIOS])
def test_every_stores_promises(cluster: Cluster, authority: str, scenario: Scenario) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            await scenario(opened)

    inside(cluster, work)


def test_replicas_that_start_at_once_are_one_authority(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            services = [a_service(await opened()) for _ in range(3)]
            await asyncio.gather(*(service.start() for service in services))
            assert len({service.in_force.issuer.certificate.serial_number for service in services}) == 1
            assert len({service.publication.sequence for service in services}) == 1
            (root,) = load_pem_x509_certificates(services[0].publication.trust.anchors_pem)
            services[0].in_force.issuer.certificate.verify_directly_issued_by(root)

    inside(cluster, work)


async def deaf(cluster: Cluster, authority: str) -> KubernetesStore:
    """The store of a replica that hears of nothing: its watch has stalled. To be closed."""
    client = Client(from_kubeconfig([cluster.layout.kubeconfig]))
    store = KubernetesStore(client, namespace=NAMESPACE, trust_domain=TD, authority=authority)
    await store.open()
    return store


def test_a_replica_that_hears_of_nothing_issues_nothing_that_was_revoked(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store, other = await begun(opened), await deaf(cluster, authority)
            await other.do(Book.record, issuance("1"))
            await store.do(control.revoke, Kind.SPIFFE_ID, str(WEB), "leaked", 1.0)
            assert await other.do(Book.revocations) == [], "it has not heard"
            with pytest.raises(Revoked, match="leaked"):
                await other.do(Book.record, issuance("2"))
            await store.do(control.revoke, Kind.AGENT, "node-b", "sold", 1.0)
            with pytest.raises(Revoked, match="sold"):
                await other.do(Book.record, issuance("3", "node-b", ELSEWHERE))
            await other.close()

    inside(cluster, work)


def test_nor_does_it_sign_under_an_issuer_that_was_put_out_of_force(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store, other = await begun(opened), await deaf(cluster, authority)
            service = a_service(other)
            await service.start()
            await store.do(control.start, store.keys, time.time())
            await store.do(control.advance, store.keys, time.time(), force=True)
            await service.sign_own(new_request(authority_id(TD)).csr_pem.decode())
            (issued,) = await other.do(Book.issued)
            publication = await store.do(Book.publication)
            assert publication is not None
            assert issued.issuer_key_id == publication.trust.issuer_key_id
            await other.close()

    inside(cluster, work)


def test_an_agent_that_joined_elsewhere_is_asked_for_before_it_is_turned_away(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store, other = await begun(opened), await deaf(cluster, authority)
            service = a_service(other)
            await service.start()
            agent = Caller(SpiffeId.for_agent(TD, "node-a"), "1")
            with pytest.raises(Refusal, match="only agents that have joined"):
                await service.issue(agent, new_request(WEB).csr_pem.decode())
            token = await store.do(Book.create_token, "node-a", LATER)
            assert await store.do(Book.use_token, token, "node-a", 1.0) is None
            assert await service.issue(agent, new_request(WEB).csr_pem.decode())
            await other.close()

    inside(cluster, work)


def test_a_token_whose_use_was_cut_off_in_the_middle_is_used(
    cluster: Cluster, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token's object was written, and the agent's row was not: nobody is let in, now or by the same token again."""

    async def breaks(*_: Any) -> None:
        raise Unreachable("it broke here")

    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store = await begun(opened)
            token = await store.do(Book.create_token, "node-a", LATER)
            with monkeypatch.context() as patch:
                patch.setattr(Keeping, "keep_agents", breaks)
                with pytest.raises(StoreUnavailableError, match="it broke here"):
                    await store.do(Book.use_token, token, "node-a", 1.0)
            assert not await store.do(Book.knows_agent, "node-a")
            for each in (store, await opened()):
                assert await each.do(Book.use_token, token, "node-a", 1.0) == "the join token has been used already"

    inside(cluster, work)


def kept(cluster: Cluster, authority: str) -> dict[str, Any]:
    """Its Secrets, by name."""
    found = cluster.kubectl("get", "secrets", "-n", NAMESPACE, "-l", f"{objects.LABEL}={authority}", "-o", "json")
    return {each["metadata"]["name"]: each for each in json.loads(found)["items"]}


class Counted:
    """How often Secrets are written and looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = self.looks = 0
        write, version = Secrets.write, Secrets.version

        async def counted_write(of: Secrets, *words: Any) -> str:
            self.writes += 1
            return await write(of, *words)

        async def counted_version(of: Secrets, *words: Any) -> str | None:
            self.looks += 1
            return await version(of, *words)

        monkeypatch.setattr(Secrets, "write", counted_write)
        monkeypatch.setattr(Secrets, "version", counted_version)


def test_what_is_issued_at_once_is_written_at_once_and_no_object_grows_without_end(
    cluster: Cluster, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store = await begun(opened)
            counted = Counted(monkeypatch)
            await store.do(Book.record, issuance("aaa"))
            assert (counted.writes, counted.looks) == (1, 1), "one alone costs a write and a look"
            await asyncio.gather(*(store.do(Book.record, issuance(f"{number:x}")) for number in range(600)))
            assert counted.writes == counted.looks <= 1 + 600 / 50 + 1

    inside(cluster, work)
    records = {name: each for name, each in kept(cluster, authority).items() if "-issued-" in name}
    assert len(records) == 3, "601 of at most 250"
    assert all(len(each["data"]["content.json.gz"]) < 50_000 for each in records.values())


@pytest.mark.disruptive
def test_while_the_api_server_is_away_nothing_is_issued_what_is_known_is_answered_and_then_all_goes_on(
    cluster: Cluster, authority: str
) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store, other = await begun(opened), await opened()
            token = await store.do(Book.create_token, "node-a", LATER)
            await store.do(Book.record, issuance("1"))
            await other.refresh()
            cluster.processes.end([each for each in cluster.processes.all if each.name == "kube-apiserver"])
            for attempt in (
                store.do(Book.record, issuance("2")),
                other.do(Book.use_token, token, "node-a", 1.0),
                store.do(control.revoke, Kind.SERIAL, "1", "leaked", 1.0),
            ):
                with pytest.raises(StoreUnavailableError, match=r"cannot be reached|ended the connection|broke"):
                    await attempt
            assert [each.serial for each in await store.do(Book.issued)] == ["1"]
            assert await other.do(Book.token_problem, token, "node-a", 1.0) is None
            with pytest.raises(StoreUnavailableError):
                await store.refresh()
            await asyncio.to_thread(cluster.restart, "kube-apiserver")
            assert await other.do(Book.use_token, token, "node-a", 1.0) is None
            await store.do(Book.record, issuance("3"))
            await other.do(control.revoke, Kind.SERIAL, "3", "leaked", 1.0)
            late = await opened()
            assert [each.serial for each in await late.do(Book.issued)] == ["1", "3"]
            assert [each.value for each in await late.do(Book.revocations)] == ["3"]
            assert await late.do(Book.use_token, token, "node-a", 1.0) == "the join token has been used already"

    inside(cluster, work, 120.0)


@pytest.mark.disruptive
def test_what_was_sent_to_an_api_server_that_did_not_answer_happened_once_or_not_at_all(
    cluster: Cluster, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped while it has the requests, and does them when it goes on: nobody knows, and nobody guesses."""
    monkeypatch.setattr(secrets, "REQUEST_SECONDS", 1.0)
    server = cluster.processes.named("kube-apiserver")
    assert server is not None

    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store, other = await begun(opened), await opened()
            tokens = [await store.do(Book.create_token, "node-a", LATER) for _ in range(2)]
            await other.refresh()
            server.signal(signal.SIGSTOP)
            try:
                unknown = await asyncio.gather(
                    store.do(Book.use_token, tokens[0], "node-a", 1.0),
                    other.do(Book.record, issuance("1")),
                    return_exceptions=True,
                )
            finally:
                server.signal(signal.SIGCONT)
            assert [type(each) for each in unknown] == [StoreUnavailableError] * 2
            monkeypatch.setattr(secrets, "REQUEST_SECONDS", 20.0)
            await other.do(Book.record, issuance("2"))
            assert await other.do(Book.use_token, tokens[1], "node-a", 1.0) is None
            used = [await each.do(Book.use_token, tokens[0], "node-a", 1.0) for each in (store, other)]
            assert used[1] == "the join token has been used already"
            late = await opened()
            assert {each.serial for each in await late.do(Book.issued)} in ({"2"}, {"1", "2"})
            assert await late.do(Book.use_token, tokens[0], "node-a", 1.0) == used[1]

    inside(cluster, work, 120.0)


def test_a_state_that_is_deleted_closes_and_one_that_is_restored_opens_again(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            store = await begun(opened)
            await store.do(control.revoke, Kind.AGENT, "node-a", "sold", 1.0)
            await store.do(Book.record, issuance("1", "node-b"))
            backup = kept(cluster, authority)[f"{authority}-state"]
            backup["metadata"] = {name: backup["metadata"][name] for name in ("name", "namespace", "labels")}
            await asyncio.to_thread(cluster.kubectl, "delete", "secret", "-n", NAMESPACE, f"{authority}-state")
            with pytest.raises(StoreError, match="its state was deleted"):
                await store.do(Book.record, issuance("2", "node-b"))
            late = await opened()
            with pytest.raises(StoreError, match="no state, but records of what it issued"):
                await a_service(late).start()
            await asyncio.to_thread(cluster.kubectl, "create", "-f", "-", given=json.dumps(backup))
            await store.refresh()
            await store.do(Book.record, issuance("3", "node-b"))
            assert [each.value for each in await store.do(Book.revocations)] == ["node-a"]

    inside(cluster, work)


def test_one_of_another_trust_domain_is_not_opened(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            await begun(opened)
        client = Client(from_kubeconfig([cluster.layout.kubeconfig]))
        other = KubernetesStore(client, namespace=NAMESPACE, trust_domain="other.test", authority=authority)
        with pytest.raises(StoreError, match=r"is of trust domain example\.test, not other\.test"):
            await other.open()
        client.close()

    inside(cluster, work)


def test_what_expired_long_ago_and_keys_that_nobody_named_are_tidied_away(cluster: Cluster, authority: str) -> None:
    async def work() -> None:
        async with stores(cluster, authority) as opened:
            gone = await begun(opened)
            await gone.do(Book.record, issuance("1", expires=10.0))
            await gone.do(control.revoke, Kind.SERIAL, "1", "leaked", 1.0)
            store = await opened()
            assert isinstance(store, KubernetesStore)
            await store.do(Book.record, issuance("2", expires=time.time()))
            client = Client(from_kubeconfig([cluster.layout.kubeconfig]))
            orphan = ca_name(authority, "root-9.pem", "00")
            await Secrets(client, NAMESPACE, authority).write(orphan, CaKey(b"pem"), None)
            client.close()
            in_force = {name for name in kept(cluster, authority) if "-ca-" in name} - {orphan}
            await store.tidy(11.0 + KEPT_SECONDS)
            assert [each.serial for each in await store.do(Book.issued)] == ["2"]
            assert await store.do(Book.revocations) == []
            assert orphan in kept(cluster, authority), "who made it may be about to name it"
            await store.tidy(time.time() + 2 * 3600)
            assert {name for name in kept(cluster, authority) if "-ca-" in name} == in_force
            assert [each.serial for each in await (await opened()).do(Book.issued)] == ["2"]

    inside(cluster, work)


def test_of_replicas_that_write_about_the_same_agents_none_overwrites_another(
    cluster: Cluster, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [f"node-{number}" for number in range(12)]
    monkeypatch.setattr(objects, "BUCKETS", 1)
    assert len(nodes) < keeping.MERGES

    async def work() -> None:
        async with stores(cluster, authority) as opened:
            each = [await begun(opened), await opened(), await opened()]
            tokens = [await each[0].do(Book.create_token, node, LATER) for node in nodes]
            for store in each:
                await store.refresh()
            joining = zip(nodes, tokens, each * 4, strict=True)
            joined = [store.do(Book.use_token, token, node, 1.0) for node, token, store in joining]
            assert await asyncio.gather(*joined) == [None] * 12
            late = await opened()
            assert {agent.node for agent in await late.do(Book.agents)} == set(nodes)

    inside(cluster, work)
