"""From a route to the relay: whom the agent speaks to for a pod, and who is told nothing."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from agent.capture.address import OriginalDst
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity import peer
from agent.identity.svid import Svid
from agent.objects.model import Endpoint, Service, ServicePort
from agent.outcome import Outcome
from agent.policy.model import Denial
from agent.proxy import detect
from agent.proxy.connection import Security
from agent.proxy.relay import TlsLeg
from agent.proxy.report import destination
from agent.tls._store import SessionStore, size_for
from agent.tls.client_hello import HelloParser
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine
from tests.proxy.fakes import API_IP, PKI, PORT, SOURCES, STRANGER_IP, WEB_IP, Enrolled, Transport, Worker, pod
from tests.proxy.serving import API, API_NAME, SERVICE_IP, WEB, account, set_up
from tests.tls.pki import TRUST_DOMAIN, Pki


class Server:
    """The far end of what a worker dials."""

    def __init__(self, svid: Svid, pki: Pki = PKI) -> None:
        self.contexts = Contexts(svid, pki.bundle(), SessionStore(bytearray(size_for(1))))
        self.machine = self.accept()

    def accept(self) -> TlsMachine:
        self.machine = TlsMachine.server(self.contexts.server)
        return self.machine

    async def shake(self, worker: Worker) -> bytes:
        """Its part of the handshake with whoever dialled; the ClientHello. The client's Finished comes by its relay."""
        async with asyncio.timeout(10):
            await worker.dialled.wait()
            worker.dialled.clear()
            leg = worker.peer
            assert leg is not None
            transport = leg.transport
            assert isinstance(transport, Transport)
            while not transport.written:  # noqa: ASYNC110 - a transport offers no event for a test to wait on
                await asyncio.sleep(0)
        hello, transport.written = transport.written, b""
        self.machine.receive(hello)
        leg.keep(self.machine.outgoing())
        return hello

    def judge(self) -> None:
        """What it does with whoever dialled: only what it finds good of a client is resumed."""
        leaf = self.machine.peer_certificate
        assert leaf is not None
        self.contexts.certificates(self.machine, leaf, peer.identify(leaf, trust_domain=TRUST_DOMAIN, now=time.time()))


async def test_a_meshed_destination_is_dialled_by_mutual_tls_under_its_name() -> None:
    worker = Worker(WEB, API)
    server = Server(PKI.svid("api"))
    made = set_up(worker, out=True)
    hello = await server.shake(worker)
    leg = await made.relay()
    connection = made.connection
    assert isinstance(leg, TlsLeg)
    assert isinstance(detect.classify(HelloParser().look(bytearray(hello)), API_NAME), detect.MeshTls)
    server.machine.receive(leg.machine.outgoing())
    assert server.machine.peer_certificate is not None, "it shows who it is"
    assert (connection.security, connection.resumed) == (Security.MTLS, False)
    assert (connection.client_id, connection.server_id) == (account("web"), account("api"))
    assert [each.spiffe_id for each in connection.certificates] == [account("web"), account("api")]
    assert worker.dials == [(API_IP, PORT, SOURCES)], "from where the pod says"
    assert worker.endpoint_load == {(API_IP, PORT): 1}


async def test_a_session_is_remembered_for_identity_and_address_and_resumed() -> None:
    worker, server = Worker(WEB, API), Server(PKI.svid("api"))
    contexts = worker.view.contexts_of(WEB, worker.now())
    assert contexts is not None
    for resumed in (False, True):
        server.accept()
        made = set_up(worker, out=True)
        await server.shake(worker)
        leg = await made.relay()
        assert isinstance(leg, TlsLeg)
        assert made.connection.resumed is resumed
        assert (made.connection.remember is None) is resumed, "whoever resumes has its ticket"
        assert [each.spiffe_id for each in made.connection.certificates] == [account("web"), account("api")]
        server.machine.receive(leg.machine.outgoing())
        server.judge()
        if not resumed:
            remember = made.connection.remember
            assert remember is not None
            assert not remember(leg.machine), "there is no ticket yet"
            server.machine.send(b"hello")
            leg.machine.receive(server.machine.outgoing())
            assert remember(leg.machine)
            assert contexts.sessions.get(account("api"), API_IP) is not None
            assert contexts.sessions.get(account("api"), "10.1.0.9") is None
            assert contexts.sessions.get(account("web"), API_IP) is None


WRONG_SERVERS: dict[str, tuple[Callable[[], Server], Outcome]] = {
    "another workload": (lambda: Server(PKI.svid("web")), Outcome.WRONG_SERVER_IDENTITY),
    "another namespace": (lambda: Server(PKI.svid("api", "other")), Outcome.WRONG_SERVER_IDENTITY),
    "another trust domain": (
        lambda: Server(PKI.certificate(["spiffe://other.test/ns/demo/sa/api"])),
        Outcome.FOREIGN_TRUST_DOMAIN,
    ),
    "another CA": (lambda: Server(Pki().svid("api")), Outcome.CERTIFICATE_UNTRUSTED),
    "no SVID": (lambda: Server(PKI.certificate([])), Outcome.NO_URI_SAN),
    "an expired one": (lambda: Server(PKI.svid("api", begins=-7200, ends=-60)), Outcome.CERTIFICATE_EXPIRED),
}


@pytest.mark.parametrize("name", WRONG_SERVERS)
async def test_whoever_is_not_exactly_whom_the_catalog_names_is_told_nothing(name: str) -> None:
    make, outcome = WRONG_SERVERS[name]
    worker, server = Worker(WEB, API), make()
    made = set_up(worker, out=True)
    await server.shake(worker)
    assert (await made.refusal()).outcome is outcome
    assert made.connection.security is Security.PLAIN
    made.connection.refuse(outcome, "")
    assert not worker.endpoint_load, "what it weighed is given back"


async def test_a_server_that_expires_is_refused_by_our_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    svid = PKI.svid("api", ends=3000)
    worker, server = Worker(WEB, API), Server(svid)
    made = set_up(worker, out=True)
    await asyncio.sleep(0)
    monkeypatch.setattr(worker, "now", lambda: svid.not_after)
    await server.shake(worker)
    assert (await made.refusal()).outcome is Outcome.CERTIFICATE_EXPIRED


@pytest.mark.parametrize("whose", ["web", "api"])
async def test_whoever_is_revoked_while_it_is_dialled_gets_no_relay(whose: str) -> None:
    worker, server = Worker(WEB, API), Server(PKI.svid("api"))
    worker.while_dialling = lambda: worker.view.set_bundle(
        msgspec.structs.replace(PKI.bundle(2), revoked_ids=frozenset({str(account(whose))}))
    )
    made = set_up(worker, out=True)
    await server.shake(worker)
    refused = await made.refusal()
    assert refused.outcome is Outcome.IDENTITY_REVOKED
    assert refused.message == f"{account(whose)} is revoked"


async def test_a_pod_that_is_revoked_dials_no_meshed_pod_and_others_all_the_same() -> None:
    worker = Worker(WEB, API)
    worker.view.set_bundle(msgspec.structs.replace(PKI.bundle(2), revoked_ids=frozenset({str(account("web"))})))
    assert (await set_up(worker, out=True).refusal()).outcome is Outcome.NO_IDENTITY
    assert worker.dials == []
    assert not isinstance(await set_up(worker, out=True, original=(STRANGER_IP, PORT)).relay(), TlsLeg)


async def test_what_the_destination_has_become_in_the_meantime_is_asked_before_the_relay() -> None:
    worker, server = Worker(WEB, API), Server(PKI.svid("api"))
    made = set_up(worker, out=True)
    worker.while_dialling = lambda: worker.change(pod("api", API_IP, account="other"))
    await server.shake(worker)
    assert (await made.refusal()).outcome is Outcome.TERMINATED
    decision = made.connection.decision
    assert isinstance(decision, Denial)
    assert decision.decided_by == "identity"


async def test_a_server_that_would_show_no_certificate_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS 1.3 has none such; were there one, it would be told nothing."""
    monkeypatch.setattr(TlsMachine, "peer_certificate", property(lambda _: None), raising=False)
    worker, server = Worker(WEB, API), Server(PKI.svid("api"))
    made = set_up(worker, out=True)
    await server.shake(worker)
    refused = await made.refusal()
    assert refused.outcome is Outcome.CERTIFICATE_MISSING
    assert refused.message == f"demo/api at {API_IP}:{PORT} showed no certificate"
    assert made.connection.security is Security.PLAIN


async def test_a_server_has_so_long_for_its_handshake() -> None:
    worker = Worker(WEB, API)
    begun = asyncio.get_running_loop().time()
    made = set_up(worker, out=True)
    async with asyncio.timeout(10):
        await worker.dialled.wait()
    while not worker.deadlines._waiters:  # noqa: ASYNC110 - no event says that it waits
        await asyncio.sleep(0)
    (deadline,) = worker.deadlines._waiters.values()
    assert begun + detect.HANDSHAKE_SECONDS <= deadline < begun + detect.HANDSHAKE_SECONDS + 5
    worker.peer.eof_received()  # type: ignore[union-attr] # there is one: it was dialled
    await made.refusal()


@pytest.mark.parametrize(("original", "own"), [((API_IP, PORT), False), ((SERVICE_IP, 80), True)])
async def test_the_pod_is_asked_from_where_a_leg_may_come_that_goes_where_the_route_leads(
    original: tuple[str, int], *, own: bool
) -> None:
    """To a service's endpoint, which may be the pod itself."""
    service = Service("demo", "web", (SERVICE_IP,), (ServicePort("", 80, (Endpoint(WEB_IP, PORT),)),))
    worker = Worker(WEB, pod("api", API_IP, injected=False))
    worker.view.change_catalog(CatalogChange(2, services=(service,)))
    made = set_up(worker, out=True, original=original)
    await made.relay()
    place = (WEB_IP, PORT) if own else original
    asked = cast("Enrolled", made.connection.enrolled).asked
    assert asked == [(made.connection.client, OriginalDst(*original), place, own)]
    assert worker.dials == [(*place, SOURCES)]


async def test_what_a_refusal_says_is_what_was_decided() -> None:
    worker = Worker(pod("web", WEB_IP, egress_mode="meshed-only"), API)
    made = set_up(worker, out=True, original=(STRANGER_IP, PORT))
    refused = await made.refusal()
    assert refused.message.startswith("demo/web may only dial meshed pods (egress mode meshed-only)")
    assert isinstance(made.connection.decision, Denial)
    assert made.connection.decision.message == refused.message
    worker.view.forget_svid(account("web"))
    refused = await set_up(worker, out=True).refusal()
    assert refused.message == "demo/web has no valid SVID now; see the agent's /ready"
    server = Server(PKI.svid("web"))
    worker.view.set_svid(PKI.svid("web"))
    made = set_up(worker, out=True)
    await server.shake(worker)
    assert str(account("web")) in (await made.refusal()).message


async def test_a_handshake_that_a_server_does_not_finish_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "HANDSHAKE_SECONDS", 0.01)
    made = set_up(Worker(WEB, API), out=True)
    assert (await made.refusal()).outcome is Outcome.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize(("end", "words"), [("lost", "the peer reset"), ("eof", "the peer ended")])
async def test_a_server_that_leaves_in_its_handshake_is_told_of(end: str, words: str) -> None:
    worker = Worker(WEB, API)
    made = set_up(worker, out=True)
    await worker.dialled.wait()
    leg = worker.peer
    assert leg is not None
    if end == "lost":
        leg.connection_lost(ConnectionResetError())
    else:
        leg.eof_received()
    refused = await made.refusal()
    assert refused.outcome is Outcome.HANDSHAKE_FAILED
    assert refused.message.startswith(words)


async def test_a_service_is_dialled_at_its_endpoint_and_weighs_there() -> None:
    service = Service("demo", "api", (SERVICE_IP,), (ServicePort("http", 80, (Endpoint(STRANGER_IP, PORT),)),))
    worker = Worker(WEB)
    worker.view.set_catalog(Catalog(1, (WEB,), (service,)))
    made = set_up(worker, out=True, original=(SERVICE_IP, 80))
    leg = await made.relay()
    assert not isinstance(leg, TlsLeg)
    assert made.connection.first == b""
    assert worker.dials == [(STRANGER_IP, PORT, SOURCES)]
    assert worker.endpoint_load == {(STRANGER_IP, PORT): 1}
    assert (made.connection.client_id, made.connection.server_id) == (account("web"), None)
    assert made.connection.certificates == ()
    assert destination(made.connection) == f"{STRANGER_IP}:{PORT}"


async def test_a_service_without_endpoints_weighs_nothing() -> None:
    worker = Worker(WEB)
    worker.view.set_catalog(Catalog(1, (WEB,), (Service("demo", "api", (SERVICE_IP,), ()),)))
    refused = await set_up(worker, out=True, original=(SERVICE_IP, 80)).refusal()
    assert refused.outcome is Outcome.NO_ENDPOINT
    assert not worker.endpoint_load
