"""A set-up from accept to its relay, with real TLS in memory: what the relay is given, and what gets none."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from agent.capture.address import PeerAddr
from agent.catalog.snapshot import Catalog
from agent.identity import peer
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from agent.objects.model import Endpoint, Pod, Service, ServicePort
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.proxy import detect, inbound, outbound
from agent.proxy.connection import Connection, Direction, Refusal, Security
from agent.proxy.opening import Opening
from agent.proxy.relay import Leg, TlsLeg
from agent.proxy.route import Mesh
from agent.proxy.source import of_client
from agent.proxy.view import View
from agent.tasks import spawn
from agent.tls import alerts
from agent.tls._store import SessionStore, size_for
from agent.tls.client_hello import HelloParser
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine
from tests.proxy.fakes import API_IP, PKI, PORT, SOURCES, STRANGER_IP, WEB_IP, Transport, Worker, pod
from tests.tls.pki import TRUST_DOMAIN, Pki

API, WEB = pod("api", API_IP), pod("web", WEB_IP)
OPEN = pod("api", API_IP, policy="all-unauthenticated")
SERVICE_IP = "198.51.100.1"


def account(name: str) -> SpiffeId:
    return SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name)


API_NAME = account("api").dns_name or ""


class SetUp:
    """A set-up that runs; it ends by a relay, whose parts are here, or by a refusal."""

    def __init__(
        self, worker: Worker, client: str = WEB_IP, *, original: tuple[str, int] = (API_IP, PORT), out: bool = False
    ) -> None:
        self.worker = worker
        direction = Direction.OUTBOUND if out else Direction.INBOUND
        self.connection, self.leg = worker.accept("demo/web" if out else "demo/api", client, original, direction)
        self.application: tuple[Leg, Opening] | None = None
        self.peer: tuple[Leg, Opening] | None = None
        self.first = b""
        self._serve: Callable[[Connection, Opening], Awaitable[None]] = outbound.serve if out else inbound.serve
        self._task = spawn(self._run(), name="set-up")

    def relayed(self, application: tuple[Leg, Opening], peer: tuple[Leg, Opening], first: bytes) -> None:
        self.application, self.peer, self.first = application, peer, first

    async def _run(self) -> Refusal | None:
        try:
            await self._serve(self.connection, self.leg)
        except Refusal as refusal:
            return refusal
        return None

    async def over(self) -> Refusal | None:
        async with asyncio.timeout(10):
            return await self._task

    async def relay(self) -> TlsLeg | Leg:
        """The relay's leg towards the peer."""
        refused = await self.over()
        assert refused is None, refused
        assert self.application is not None
        assert self.peer is not None
        dialled, accepted = self.application, self.peer
        if self.connection.direction is Direction.OUTBOUND:
            dialled, accepted = accepted, dialled
        assert (accepted[1], dialled[1]) == (self.leg, self.worker.peer)
        assert isinstance(self.application[0], Leg)
        assert not isinstance(self.application[0], TlsLeg), "towards the application there is no TLS"
        return self.peer[0]

    async def refusal(self) -> Refusal:
        refused = await self.over()
        assert refused is not None
        assert self.peer is None, "no relay"
        return refused


@pytest.fixture(autouse=True)
def _no_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the relay would be given is kept: it needs real sockets."""

    def start(connection: Connection, application: Any, peer: Any, first: bytes = b"") -> None:
        SETUPS[connection].relayed(application, peer, first)

    monkeypatch.setattr(Connection, "start_relay", start)


SETUPS: dict[Connection, SetUp] = {}


def set_up(worker: Worker, client: str = WEB_IP, **more: Any) -> SetUp:
    made = SetUp(worker, client, **more)
    SETUPS.clear()
    SETUPS[made.connection] = made
    return made


async def shake(far: TlsMachine, leg: Opening, last: bytes = b"") -> None:
    """The far end's part of a handshake; a client's `last` goes out with its Finished."""
    transport = leg.transport
    assert isinstance(transport, Transport)
    async with asyncio.timeout(10):
        while not far.handshake_complete:
            out = far.outgoing()
            if out:
                leg.keep(out)
            await asyncio.sleep(0)
            answer, transport.written = transport.written, b""
            if answer:
                far.receive(answer)
    if last:
        far.send(last)
    leg.keep(far.outgoing())


def client(svid: Svid, pki: Pki = PKI, *, name: str = API_NAME, session: Any = None) -> TlsMachine:
    machine = TlsMachine.client(Contexts(svid, pki.bundle()).client, name, session)
    machine.start()
    return machine


# inbound


@pytest.mark.parametrize("known", [True, False])
async def test_a_meshed_client_is_relayed_under_the_identity_that_it_showed(*, known: bool) -> None:
    """Whether or not the catalog knows its address: its certificate says who it is."""
    worker = Worker(API, WEB) if known else Worker(API)
    svid = PKI.svid("web")
    made = set_up(worker)
    await shake(client(svid), made.leg, b"GET / HTTP/1.1\r\n")
    leg = await made.relay()
    connection = made.connection
    assert isinstance(leg, TlsLeg)
    assert leg.machine.handshake_complete
    assert made.first == b"GET / HTTP/1.1\r\n", "what came with the handshake is the application's"
    assert (connection.client_id, connection.server_id) == (account("web"), account("api"))
    assert (connection.security, connection.resumed) == (Security.MTLS, False)
    assert connection.source == (WEB if known else None)
    own, peer = connection.certificates
    assert (own.spiffe_id, own.anchors) == (account("api"), frozenset())
    assert (peer.spiffe_id, peer.serial) == (account("web"), svid.serial)
    assert peer.anchors <= Contexts(svid, PKI.bundle()).anchors != frozenset()
    assert isinstance(connection.decision, Permit)
    assert worker.dials == [(API_IP, PORT, of_client(PeerAddr(WEB_IP, 40000)))], "from the client's own address"
    assert connection.relay is not None


async def test_a_client_that_resumes_is_known_by_the_certificate_of_its_session() -> None:
    worker = Worker(API, WEB)
    sessions = SessionStore(bytearray(size_for(1)))
    worker.view = View(worker.view.settings, sessions)
    worker.view.set_catalog(Catalog(1, (API, WEB)))
    worker.view.set_bundle(PKI.bundle())
    worker.view.set_svid(PKI.svid("api"))
    contexts = Contexts(PKI.svid("web"), PKI.bundle())
    session = None
    for resumed in (False, True):
        far = TlsMachine.client(contexts.client, API_NAME, session)
        far.start()
        made = set_up(worker)
        await shake(far, made.leg)
        leg = await made.relay()
        assert made.connection.resumed is resumed
        assert made.connection.client_id == account("web")
        assert made.connection.certificates[1].spiffe_id == account("web")
        assert isinstance(leg, TlsLeg)
        leg.machine.send(b"hello")
        far.receive(leg.machine.outgoing())
        session = session or far.session
        assert session is not None


def without_certificate(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *alpn: str) -> ssl.SSLObject:
    """A client that shows no certificate; its first flight is written."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    context.load_verify_locations(cadata=PKI.bundle().anchors_pem.decode())
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    made = context.wrap_bio(BIOS[0], BIOS[1], server_hostname=API_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        made.do_handshake()
    return made


BIOS: list[ssl.MemoryBIO] = []


@pytest.fixture(autouse=True)
def _bios() -> None:
    BIOS[:] = [ssl.MemoryBIO(), ssl.MemoryBIO()]


async def finish(far: ssl.SSLObject, leg: Opening) -> None:
    transport = leg.transport
    assert isinstance(transport, Transport)
    while True:
        leg.keep(BIOS[1].read())
        await asyncio.sleep(0)
        BIOS[0].write(transport.written)
        transport.written = b""
        try:
            far.do_handshake()
        except ssl.SSLWantReadError:
            continue
        leg.keep(BIOS[1].read())
        return


async def test_tls_without_a_certificate_is_tls_and_nobodys() -> None:
    worker = Worker(OPEN)
    made = set_up(worker, STRANGER_IP)
    await finish(without_certificate(), made.leg)
    assert isinstance(await made.relay(), TlsLeg)
    connection = made.connection
    assert (connection.security, connection.client_id) == (Security.TLS, None)
    assert [each.spiffe_id for each in connection.certificates] == [account("api")]
    assert connection.source is None


async def test_tls_without_a_certificate_is_no_mesh_identity() -> None:
    worker = Worker(API)
    made = set_up(worker, STRANGER_IP)
    await finish(without_certificate(), made.leg)
    refused = await made.refusal()
    assert refused.outcome is Outcome.UNAUTHENTICATED
    assert "no mesh TLS" not in refused.message
    assert worker.dials == []


@pytest.mark.parametrize(
    ("version", "alpn", "outcome", "alert"),
    [
        (ssl.TLSVersion.TLSv1_2, (), Outcome.TLS_VERSION, alerts.PROTOCOL_VERSION),
        (ssl.TLSVersion.TLSv1_3, ("other",), Outcome.NO_APPLICATION_PROTOCOL, alerts.NO_APPLICATION_PROTOCOL),
    ],
)
async def test_mesh_tls_that_cannot_be_served_gets_an_alert_whatever_policy_says(
    version: ssl.TLSVersion, alpn: tuple[str, ...], outcome: Outcome, alert: bytes
) -> None:
    made = set_up(Worker(OPEN), STRANGER_IP)
    without_certificate(version, *alpn)
    made.leg.keep(BIOS[1].read())
    refused = await made.refusal()
    assert (refused.outcome, refused.alert) == (outcome, alert)


WRONG_CLIENTS: dict[str, tuple[Callable[[], Svid], Outcome, bool]] = {
    "of another CA": (Pki().svid, Outcome.CERTIFICATE_UNTRUSTED, True),
    "of another trust domain": (
        lambda: PKI.certificate(["spiffe://other.test/ns/demo/sa/web"]),
        Outcome.FOREIGN_TRUST_DOMAIN,
        False,
    ),
    "that is no SVID": (lambda: PKI.certificate([]), Outcome.NO_URI_SAN, False),
    "that has expired": (lambda: PKI.svid(begins=-7200, ends=-3600), Outcome.CERTIFICATE_EXPIRED, True),
}


@pytest.mark.parametrize("policy", ["all-authenticated", "all-unauthenticated"])
@pytest.mark.parametrize("name", WRONG_CLIENTS)
async def test_a_client_with_a_certificate_that_is_not_good_is_refused_where_one_without_would_be_let_in(
    name: str, policy: str
) -> None:
    make, outcome, by_openssl = WRONG_CLIENTS[name]
    made = set_up(Worker(pod("api", API_IP, policy=policy)), STRANGER_IP)
    await shake(client(make()), made.leg)
    refused = await made.refusal()
    assert refused.outcome is outcome
    assert bool(refused.alert) is by_openssl
    assert made.connection.client_id is None
    assert made.connection.decision is None, "policy was not asked"


async def test_a_certificate_that_expires_between_two_handshakes_is_refused_by_our_own_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, svid = Worker(API), PKI.svid("web", ends=3000)
    made = set_up(worker, STRANGER_IP)
    await asyncio.sleep(0)
    monkeypatch.setattr(worker, "now", lambda: svid.not_after)
    await shake(client(svid), made.leg)
    assert (await made.refusal()).outcome is Outcome.CERTIFICATE_EXPIRED


async def test_a_client_that_is_revoked_gets_no_further_than_its_handshake() -> None:
    worker = Worker(API, WEB)
    worker.view.set_bundle(msgspec.structs.replace(PKI.bundle(2), revoked_ids=frozenset({str(account("web"))})))
    made = set_up(worker)
    await shake(client(PKI.svid("web")), made.leg)
    assert (await made.refusal()).outcome is Outcome.IDENTITY_REVOKED
    assert worker.dials == []


async def test_what_came_for_another_address_is_forwarded_for_nobody() -> None:
    made = set_up(Worker(OPEN), STRANGER_IP, original=("192.0.2.99", PORT))
    refused = await made.refusal()
    assert refused.outcome is Outcome.NOT_A_POD_ADDRESS
    assert refused.message.startswith(f"192.0.2.99:{PORT} is no address of demo/api ({API_IP})")


@pytest.mark.parametrize("out", [False, True])
async def test_a_pod_that_has_left_the_catalog_is_served_no_more(*, out: bool) -> None:
    worker = Worker(API, WEB)
    worker.change(gone=("web" if out else "api",))
    assert (await set_up(worker, out=out).refusal()).outcome is Outcome.UNENROLLED


async def test_a_pod_without_an_svid_serves_nobody_not_even_whom_policy_lets_in_without() -> None:
    worker = Worker(OPEN)
    worker.view.forget_svid(account("api"))
    assert (await set_up(worker, STRANGER_IP).refusal()).outcome is Outcome.NO_IDENTITY
    assert worker.dials == []


@pytest.mark.parametrize(
    ("first", "words", "outcome"),
    [
        (b"GET / HTTP/1.1\r\n", detect.NotMesh.NOT_TLS, Outcome.UNAUTHENTICATED),
        (b"\x16\x03\x01\x00\x00", detect.NotMesh.MALFORMED, Outcome.CLIENT_HELLO_MALFORMED),
        (None, detect.NotMesh.ENDED, Outcome.UNAUTHENTICATED),
    ],
)
@pytest.mark.parametrize(("address", "whose"), [(STRANGER_IP, "which is not meshed"), (WEB_IP, "pod demo/web")])
async def test_plaintext_where_policy_demands_an_identity_reaches_no_application(
    first: bytes | None, words: str, outcome: Outcome, address: str, whose: str
) -> None:
    worker = Worker(API, WEB)
    made = set_up(worker, address)
    await asyncio.sleep(0)
    if first is None:
        made.leg.eof_received()
    else:
        made.leg.keep(first)
    refused = await made.refusal()
    assert refused.outcome is outcome
    assert refused.message.startswith(f"demo/api:{PORT}: no mesh TLS from {address}:40000, {whose}: {words}. ")
    assert worker.dials == []
    assert isinstance(made.connection.decision, Denial)


@pytest.mark.parametrize(("source", "dialled"), [(WEB, 0), (pod("web", WEB_IP, meshed=False), 1)])
async def test_of_a_meshed_source_mesh_tls_is_waited_for_before_anything_is_dialled(source: Pod, dialled: int) -> None:
    """It will come by mesh TLS; whoever else policy lets in may be an application that speaks first."""
    worker = Worker(OPEN, source)
    made = set_up(worker)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(worker.dials) == dialled
    made.leg.keep(b"GET / HTTP/1.1\r\n")
    assert not isinstance(await made.relay(), TlsLeg)
    assert worker.dials == [(API_IP, PORT, of_client(PeerAddr(WEB_IP, 40000)))], "once"
    assert made.connection.security is Security.PLAIN
    assert made.connection.client_id is None


@pytest.mark.parametrize("address", [STRANGER_IP, WEB_IP])
async def test_a_client_that_says_nothing_is_refused_in_time(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(detect, "HANDSHAKE_SECONDS", 0.01)
    refused = await set_up(Worker(API, WEB), address).refusal()
    assert refused.outcome is Outcome.HANDSHAKE_TIMEOUT
    assert detect.NotMesh.SILENT in refused.message


async def test_a_client_that_stops_in_the_midst_of_its_handshake_is_refused_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = set_up(Worker(API))
    await asyncio.sleep(0)
    monkeypatch.setattr(detect, "HANDSHAKE_SECONDS", 0.01)
    made.leg.keep(client(PKI.svid("web")).outgoing())
    assert (await made.refusal()).outcome is Outcome.HANDSHAKE_TIMEOUT


async def test_a_client_that_left_while_its_application_was_dialled_gets_no_relay() -> None:
    worker = Worker(API, WEB)
    made = set_up(worker)
    worker.while_dialling = lambda: made.leg.connection_lost(ConnectionResetError())
    await shake(client(PKI.svid("web")), made.leg)
    assert (await made.refusal()).outcome is Outcome.RESET_BY_PEER


async def test_the_name_of_the_pod_is_taken_in_either_case_and_no_other_name_is() -> None:
    made = set_up(Worker(API))
    await shake(client(PKI.svid("web"), name=API_NAME.upper()), made.leg)
    assert isinstance(await made.relay(), TlsLeg)
    made = set_up(Worker(API))
    made.leg.keep(client(PKI.svid("web"), name=account("web").dns_name or "").outgoing())
    assert detect.NotMesh.OTHER_NAME in (await made.refusal()).message


# outbound


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
        assert [each.spiffe_id for each in made.connection.certificates] == [account("web"), account("api")]
        server.machine.receive(leg.machine.outgoing())
        server.judge()
        if not resumed:
            assert isinstance(made.connection.taken, Mesh)
            remember = outbound._rememberer(made.connection.taken, contexts)
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
    assert decision.server == "identity"


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
    assert made.first == b""
    assert worker.dials == [(STRANGER_IP, PORT, SOURCES)]
    assert worker.endpoint_load == {(STRANGER_IP, PORT): 1}
    assert (made.connection.client_id, made.connection.server_id) == (account("web"), None)
    assert made.connection.certificates == ()
    assert made.connection.destination == f"{STRANGER_IP}:{PORT}"
    assert made.connection.relay is not None


async def test_a_service_without_endpoints_weighs_nothing() -> None:
    worker = Worker(WEB)
    worker.view.set_catalog(Catalog(1, (WEB,), (Service("demo", "api", (SERVICE_IP,), ()),)))
    refused = await set_up(worker, out=True, original=(SERVICE_IP, 80)).refusal()
    assert refused.outcome is Outcome.NO_ENDPOINT
    assert not worker.endpoint_load
