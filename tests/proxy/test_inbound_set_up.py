"""From a ClientHello, or plaintext, to the relay: who is served, under which identity, and who is refused how."""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from agent.capture.address import PeerAddr
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.svid import Svid
from agent.objects.model import Pod, PortRange
from agent.objects.policy import DefaultPolicy, LabelSelector, NetworkRange, Server, ServerAuthorization
from agent.outcome import Outcome
from agent.policy.model import Denial, Permit
from agent.proxy import detect
from agent.proxy.connection import Security
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.relay import TlsLeg
from agent.proxy.source import of_client
from agent.proxy.view import View
from agent.tls import alerts
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine
from tests.proxy.fakes import API_IP, PKI, PORT, STRANGER_IP, WEB_IP, Enrolled, Transport, Worker, pod
from tests.proxy.serving import API, API_NAME, OPEN, WEB, account, client, set_up, shake
from tests.tls.pki import Pki


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
    assert made.connection.first == b"GET / HTTP/1.1\r\n", "what came with the handshake is the application's"
    assert (connection.client_id, connection.server_id) == (account("web"), account("api"))
    assert (connection.security, connection.resumed) == (Security.MTLS, False)
    assert connection.source == (WEB if known else None)
    own, peer = connection.certificates
    assert (own.spiffe_id, own.anchors) == (account("api"), frozenset())
    assert (peer.spiffe_id, peer.serial) == (account("web"), svid.serial)
    assert peer.anchors <= Contexts(svid, PKI.bundle()).anchors != frozenset()
    assert isinstance(connection.decision, Permit)
    assert worker.dials == [(API_IP, PORT, of_client(PeerAddr(WEB_IP, 40000)))], "from the client's own address"


def with_sessions(worker: Worker, api: Pod) -> None:
    """Gives a worker memory for the sessions of its servers."""
    worker.view = View(worker.view.settings, SessionStore(bytearray(size_for(1))))
    worker.view.set_catalog(Catalog(1, (api, WEB)))
    worker.view.set_bundle(PKI.bundle())
    worker.view.set_svid(PKI.svid("api"))


async def test_a_client_that_resumes_is_known_by_the_certificate_of_its_session() -> None:
    worker = Worker(API, WEB)
    with_sessions(worker, API)
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
    assert refused.message.startswith("the client ")


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
    assert refused.message
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


async def test_what_came_to_a_second_network_of_the_pod_is_said_to_be_that() -> None:
    worker = Worker(pod("api", API_IP, "2001:db8::1", policy="all-unauthenticated"))
    made = set_up(worker, STRANGER_IP, original=("192.0.2.99", PORT))
    cast("Enrolled", made.connection.enrolled).own = "192.0.2.99"
    refused = await made.refusal()
    assert refused.outcome is Outcome.NOT_A_POD_ADDRESS
    assert refused.message.startswith(
        f"192.0.2.99:{PORT} is on an interface of demo/api, and none of its podIPs ({API_IP}, 2001:db8::1): of a second"
    )
    assert f"name the network of {STRANGER_IP} in the pod's annotation" in refused.message


@pytest.mark.parametrize("out", [False, True])
async def test_a_pod_that_has_left_the_catalog_is_served_no_more(*, out: bool) -> None:
    worker = Worker(API, WEB)
    worker.change(gone=("web" if out else "api",))
    assert (await set_up(worker, out=out).refusal()).outcome is Outcome.UNENROLLED


async def test_a_pod_without_an_svid_serves_nobody_not_even_whom_policy_lets_in_without() -> None:
    worker = Worker(OPEN)
    worker.view.forget_svid(account("api"))
    refused = await set_up(worker, STRANGER_IP).refusal()
    assert refused.outcome is Outcome.NO_IDENTITY
    assert refused.message == "demo/api has no valid SVID now; see the agent's /ready"
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


SKIPS_PORT, SKIPS_OTHER = (
    pod("web", WEB_IP, skip_outbound_ports=(PortRange(port, port),)) for port in (PORT, PORT + 1)
)


@pytest.mark.parametrize(
    ("source", "dialled"),
    [
        (WEB, 0),
        (pod("web", WEB_IP, injected=False), 1),
        (SKIPS_PORT, 1),
        (SKIPS_OTHER, 0),
        (pod("web", WEB_IP, skip_subnets=(f"{API_IP}/32",)), 1),
        (pod("web", WEB_IP, skip_subnets=(f"{WEB_IP}/32",)), 0),
    ],
)
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


@pytest.mark.parametrize(("network", "dialled"), [(f"{STRANGER_IP}/32", 1), ("192.0.2.8/32", 0)])
async def test_an_application_is_dialled_before_it_is_known_who_comes_only_where_policy_lets_in_whoever_is_there(
    network: str, dialled: int
) -> None:
    """An application that speaks first would else say its word, and be busy, for whom policy keeps out."""
    worker = Worker(API)
    policies = (
        Server("demo", "api", PORT, LabelSelector()),
        ServerAuthorization("demo", "a", "api", None, networks=(NetworkRange(network),), unauthenticated=True),
    )
    worker.view.change_catalog(CatalogChange(2, policies=policies))
    made = set_up(worker, STRANGER_IP)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(worker.dials) == dialled
    assert not hasattr(made.connection, "relay"), "nobody has spoken"
    worker.change(pod("other", "10.1.0.77"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not hasattr(made.connection, "relay")
    made.leg.keep(b"GET / HTTP/1.1\r\n")
    if dialled:
        assert not isinstance(await made.relay(), TlsLeg)
        assert made.connection.first == b""
    else:
        assert (await made.refusal()).outcome is Outcome.NETWORK_NOT_PERMITTED
        assert worker.dials == []


@pytest.mark.parametrize("network", [f"{STRANGER_IP}/32", None])
async def test_a_client_that_has_not_spoken_is_ended_when_policy_does_not_let_it_in_any_more(
    network: str | None,
) -> None:
    """By another network, or by the Server itself; and nothing is waited for that could still come."""
    server = Server("demo", "api", PORT, LabelSelector(), DefaultPolicy.DENY)
    open_to = ServerAuthorization(
        "demo", "a", "api", None, networks=(NetworkRange(f"{STRANGER_IP}/32"),), unauthenticated=True
    )
    worker = Worker(API)
    worker.view.change_catalog(CatalogChange(2, policies=(server, open_to)))
    made = set_up(worker, STRANGER_IP)
    async with asyncio.timeout(10):
        await worker.dialled.wait()
    if network is None:
        worker.view.change_catalog(CatalogChange(3, gone=(open_to.key,)))
    else:
        elsewhere = msgspec.structs.replace(open_to, networks=(NetworkRange("192.0.2.8/32"),))
        worker.view.change_catalog(CatalogChange(3, policies=(elsewhere,)))
    made.connection.look_again()
    refused = await made.refusal()
    expected = Outcome.DENIED_BY_DEFAULT if network is None else Outcome.NETWORK_NOT_PERMITTED
    assert refused.outcome is expected
    assert detect.NotMesh.SILENT in refused.message


async def test_the_beginning_of_a_hello_has_so_long_to_go_on_where_plaintext_is_let_in_too() -> None:
    worker = Worker(OPEN)
    begun = asyncio.get_running_loop().time()
    made = set_up(worker, STRANGER_IP)
    made.leg.keep(client(PKI.svid("web")).outgoing()[:50])
    async with asyncio.timeout(10):
        await worker.dialled.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    (deadline,) = worker.deadlines._waiters.values()
    assert begun + detect.HANDSHAKE_SECONDS <= deadline < begun + detect.HANDSHAKE_SECONDS + 5
    made.leg.eof_received()
    assert not isinstance(await made.relay(), TlsLeg), "policy lets it in as it is"


@pytest.mark.parametrize("known", [True, False])
async def test_a_client_has_so_long_for_its_hello_and_again_for_its_handshake(*, known: bool) -> None:
    worker = Worker(API, WEB) if known else Worker(API)
    begun = asyncio.get_running_loop().time()
    made = set_up(worker)
    for given in (b"", client(PKI.svid("web")).outgoing()):
        if given:
            made.leg.keep(given)
        for _ in range(5):
            await asyncio.sleep(0)
        (deadline,) = worker.deadlines._waiters.values()
        assert begun + detect.HANDSHAKE_SECONDS <= deadline < begun + detect.HANDSHAKE_SECONDS + 5
    made.leg.eof_received()
    assert (await made.refusal()).outcome is Outcome.HANDSHAKE_FAILED


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


@pytest.mark.parametrize("tls", [True, False])
async def test_who_waits_for_an_application_is_refused_with_what_the_next_try_needs(*, tls: bool) -> None:
    """A ticket: whoever tries until the application listens need not shake hands each time."""
    worker = Worker(OPEN, WEB)
    with_sessions(worker, OPEN)

    def fail() -> None:
        raise Refusal(Outcome.UNREACHABLE, "nobody listens")

    worker.while_dialling = fail
    made = set_up(worker)
    far = client(PKI.svid("web"))
    if tls:
        await shake(far, made.leg)
    else:
        made.leg.keep(b"GET / HTTP/1.1\r\n")
    refused = await made.refusal()
    assert (refused.outcome, refused.message) == (Outcome.UNREACHABLE, "nobody listens")
    if tls:
        far.receive(refused.alert)
        assert far.session is not None
    else:
        assert refused.alert == b""


async def test_who_is_let_in_no_more_when_its_application_answers_is_refused_by_what_decides_then() -> None:
    worker = Worker(API, WEB)
    made = set_up(worker)
    worker.while_dialling = lambda: worker.change(pod("api", API_IP, policy="deny"))
    await shake(client(PKI.svid("web")), made.leg)
    refused = await made.refusal()
    assert refused.outcome is Outcome.DENIED_BY_DEFAULT
    decision = made.connection.decision
    assert isinstance(decision, Denial)
    assert (decision.decided_by, decision.message) == ("default:deny", refused.message)


async def test_a_client_that_left_while_its_application_was_dialled_gets_no_relay() -> None:
    worker = Worker(API, WEB)
    made = set_up(worker)
    worker.while_dialling = lambda: made.leg.connection_lost(ConnectionResetError())
    await shake(client(PKI.svid("web")), made.leg)
    refused = await made.refusal()
    assert refused.outcome is Outcome.RESET_BY_PEER
    assert refused.message == "the client left while its connection was set up"


async def test_the_name_of_the_pod_is_taken_in_either_case_and_no_other_name_is() -> None:
    made = set_up(Worker(API))
    await shake(client(PKI.svid("web"), name=API_NAME.upper()), made.leg)
    assert isinstance(await made.relay(), TlsLeg)
    made = set_up(Worker(API))
    made.leg.keep(client(PKI.svid("web"), name=account("web").dns_name or "").outgoing())
    assert detect.NotMesh.OTHER_NAME in (await made.refusal()).message
