"""Wrong certificates, each refused with its own reason, by a real TLS client from a real namespace."""

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from agent.identity.memfd import load_cert_chain
from agent.identity.svid import Svid
from agent.lab.stage import Player
from tests.netns.world import Echo, World
from tests.tls.pki import Pki
from tests.tls.wrong import RIGHT, WRONG

PORT = 7000
SNI = "server.demo.serviceaccount.identity.example.test"


class Place(NamedTuple):
    world: World
    server: Player
    outside: Player
    pki: Pki
    echo: Echo


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    server, outside = world.pod("server"), world.stranger("outside")
    echo = Echo(world, server, PORT)
    world.start()
    yield Place(world, server, outside, Pki.from_state(world.mesh.directory / "state" / "authority"), echo)
    echo.close()


def context(
    svid: Svid | None, *, alpn: tuple[str, ...] = ("quietwire/1",), anchors: str | None = None
) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE if anchors is None else ssl.CERT_REQUIRED
    if anchors is not None:
        made.load_verify_locations(cadata=anchors)
    if alpn:
        made.set_alpn_protocols(list(alpn))
    if svid is not None:
        load_cert_chain(made, svid.chain_pem, svid.key_pem)
    return made


def talk(
    place: Place, tls: ssl.SSLContext, *, session: ssl.SSLSession | None = None, sni: str = SNI
) -> tuple[bytes, ssl.SSLSession | None, bool]:
    """One exchange with the echo server; what came back, the session, and whether one was resumed."""
    with (
        place.world.connect(place.outside, place.server.ipv4, PORT) as raw,
        tls.wrap_socket(raw, server_hostname=sni, session=session) as sock,
    ):
        sock.sendall(b"hello")
        answer = sock.recv(100)
        if not answer:
            raise ConnectionError("ended without an answer")
        return answer, sock.session, bool(sock.session_reused)


def refused(place: Place, tls: ssl.SSLContext, outcome: str, *, session: ssl.SSLSession | None = None) -> None:
    before = place.world.count("quietwire_denials_total", reason=outcome)
    peers = len(place.echo.peers)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk(place, tls, session=session)
    place.world.denial(outcome=outcome, pod="demo/server", direction="inbound")
    assert place.world.count("quietwire_denials_total", reason=outcome) == before + 1
    assert len(place.echo.peers) == peers


def test_a_proper_svid_without_an_agent_is_served(place: Place) -> None:
    answer, _, _ = talk(place, context(place.pki.svid("visitor")))
    assert answer == b"hello"
    record = place.world.mesh.wait_for_log(
        lambda line: line.get("client_id") == "spiffe://example.test/ns/demo/sa/visitor"
    )
    assert record is not None
    assert record["security"] == "mtls"


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2", "spdy/3"), ("foreign", "quietwire/1")])
def test_a_client_without_alpn_or_with_one_of_ours_is_served(place: Place, alpn: tuple[str, ...]) -> None:
    assert talk(place, context(place.pki.svid("visitor"), alpn=alpn))[0] == b"hello"


def test_another_ca_is_refused(place: Place) -> None:
    refused(place, context(Pki().svid("visitor")), "certificate_untrusted")


def test_an_expired_certificate_is_refused(place: Place) -> None:
    refused(place, context(place.pki.svid("visitor", begins=-7200, ends=-3600)), "certificate_expired")


def test_a_certificate_that_is_not_valid_yet_is_refused(place: Place) -> None:
    refused(place, context(place.pki.svid("visitor", begins=3600, ends=7200)), "certificate_expired")


@pytest.mark.parametrize("name", WRONG)
def test_a_client_whose_certificate_breaks_a_rule_of_x509_svid_is_refused(place: Place, name: str) -> None:
    refused(place, context(WRONG[name].make(place.pki)), WRONG[name].outcome)


@pytest.mark.parametrize("name", RIGHT)
def test_a_client_with_all_that_x509_svid_allows_is_served(place: Place, name: str) -> None:
    assert talk(place, context(RIGHT[name](place.pki)))[0] == b"hello"


def test_the_right_ca_but_another_trust_domain_is_refused(place: Place) -> None:
    refused(place, context(place.pki.certificate(["spiffe://other.test/ns/demo/sa/one"])), "foreign_trust_domain")


def test_no_certificate_is_refused_as_unauthenticated(place: Place) -> None:
    refused(place, context(None), "unauthenticated")


def test_tls_1_2_only_is_refused(place: Place) -> None:
    tls = context(place.pki.svid("visitor"))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(place, tls, "tls_version")


def test_only_foreign_alpn_names_are_refused_with_the_alert_that_rfc_7301_demands(place: Place) -> None:
    tls = context(place.pki.svid("visitor"), alpn=("spdy/3", "foreign"))
    # The alert, for which Ubuntu's Python 3.12 has no words.
    with pytest.raises(ssl.SSLError, match=r"no application protocol|unknown error"):
        talk(place, tls)
    refused(place, tls, "no_application_protocol")


def test_a_client_hello_for_another_name_is_an_unauthenticated_client(place: Place) -> None:
    before = place.world.count("quietwire_denials_total", reason="unauthenticated")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk(place, context(place.pki.svid("visitor")), sni="other.demo.serviceaccount.identity.example.test")
    assert place.world.count("quietwire_denials_total", reason="unauthenticated") == before + 1


def test_a_session_is_resumed_and_its_client_certificate_is_known(place: Place) -> None:
    tls = context(place.pki.svid("returning"))
    _, session, _ = talk(place, tls)
    for _ in range(4):  # the kernel spreads connections over the workers, and each has its own tickets
        answer, _, resumed = talk(place, tls, session=session)
        assert answer == b"hello"
        if resumed:
            break
    record = place.world.mesh.wait_for_log(
        lambda line: (
            line.get("client_id") == "spiffe://example.test/ns/demo/sa/returning" and bool(line.get("tls_resumed"))
        )
    )
    assert record is not None


def test_a_resumed_session_whose_certificate_has_expired_meanwhile_is_refused(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    server, outside = world.pod("server"), world.stranger("outside")
    echo = Echo(world, server, PORT)
    world.start()
    pki = Pki.from_state(world.mesh.directory / "state" / "authority")
    place = Place(world, server, outside, pki, echo)
    svid = pki.svid("short", ends=3)
    tls = context(svid)
    answer, session, _ = talk(place, tls)
    assert answer == b"hello"
    assert talk(place, tls, session=session)[2], "the session can be resumed while the certificate is valid"
    time.sleep(max(svid.not_after - time.time() + 0.1, 0))  # what is waited for is the clock itself
    refused(place, tls, "certificate_expired", session=session)
    assert world.denial(outcome="certificate_expired")["tls_resumed"] is True
    echo.close()


def test_a_session_from_before_the_bundle_changed_is_not_resumed(make_world: Callable[..., World]) -> None:
    """The authority starts anew with another root: tickets and certificates of the old one are worth nothing."""
    world = make_world(workers=1)
    server, outside = world.pod("server"), world.stranger("outside")
    echo = Echo(world, server, PORT)
    world.start()
    authority = world.mesh.directory / "state" / "authority"
    place = Place(world, server, outside, Pki.from_state(authority), echo)
    tls = context(place.pki.svid("visitor"))
    answer, session, _ = talk(place, tls)
    assert answer == b"hello"
    world.mesh.stop()
    shutil.rmtree(authority)
    world.start()
    refused(place, tls, "certificate_untrusted", session=session)
    echo.close()


class Impostor:
    """A TLS server on a pod's address, with any certificate."""

    def __init__(self, world: World, player: Player, port: int, svid: Svid) -> None:
        self.show(svid)
        self._listener = world.listen(player, port)
        self._listener.settimeout(None)
        self.heard = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def show(self, svid: Svid) -> None:
        """From now on it shows this certificate, and keeps no session of a former one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["quietwire/1"])
        load_cert_chain(context, svid.chain_pem, svid.key_pem)
        self._context = context

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(raw, server_side=True) as sock:
                    self.heard += sock.recv(100)
            except OSError:
                raw.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def tell(sock: socket.socket, words: bytes) -> bytes:
    """Says something and hears the answer; a refusal resets whichever of both comes after it."""
    sock.sendall(words)
    return sock.recv(100)


def connect_and_tell(world: World, client: Player, address: str) -> None:
    """A refusal may come as early as connect(2)."""
    with world.connect(client, address, PORT) as sock:
        tell(sock, b"a secret for the victim")


class Stage(NamedTuple):
    """A pod, and a destination of the catalog at whose address somebody else answers."""

    world: World
    client: Player
    victim: Player
    pki: Pki
    impostor: Impostor


@pytest.fixture(scope="module")
def stage(make_shared_world: Callable[..., World]) -> Iterator[Stage]:
    world = make_shared_world()
    client, victim = world.pod("client"), world.stranger("victim")
    world.declare(victim, node="node-b")
    world.start()
    pki = Pki.from_state(world.mesh.directory / "state" / "authority")
    impostor = Impostor(world, victim, PORT, pki.svid("victim"))
    yield Stage(world, client, victim, pki, impostor)
    impostor.close()


@pytest.mark.parametrize("name", WRONG)
def test_a_server_whose_certificate_breaks_a_rule_of_x509_svid_hears_nothing(stage: Stage, name: str) -> None:
    outcome = str(WRONG[name].counts(server=True))
    before = stage.world.count("quietwire_denials_total", reason=outcome)
    stage.impostor.show(WRONG[name].make(stage.pki))
    with pytest.raises(ConnectionResetError):
        connect_and_tell(stage.world, stage.client, stage.victim.ipv4)
    assert stage.world.count("quietwire_denials_total", reason=outcome) == before + 1
    assert stage.impostor.heard == b""


@pytest.mark.parametrize("name", RIGHT)
def test_a_server_with_all_that_x509_svid_allows_is_spoken_to(stage: Stage, name: str) -> None:
    stage.impostor.show(RIGHT[name](stage.pki))
    with contextlib.suppress(ConnectionResetError):  # it hears, and ends without close_notify
        connect_and_tell(stage.world, stage.client, stage.victim.ipv4)
    stage.world.until(lambda: stage.impostor.heard == b"a secret for the victim", "it has heard")
    stage.impostor.heard = b""


@pytest.mark.parametrize(
    ("uri", "outcome"),
    [
        ("spiffe://example.test/ns/demo/sa/somebody-else", "wrong_server_identity"),
        ("spiffe://other.test/ns/demo/sa/victim", "foreign_trust_domain"),
    ],
)
def test_the_client_side_refuses_a_server_with_the_wrong_spiffe_id(
    make_world: Callable[..., World], uri: str, outcome: str
) -> None:
    world = make_world()
    client, victim = world.pod("client"), world.stranger("victim")
    # In the catalog, on another node: meshed, and so never dialled in plaintext. Its address is an impostor's.
    world.declare(victim, node="node-b")
    world.start()
    impostor = Impostor(
        world, victim, PORT, Pki.from_state(world.mesh.directory / "state" / "authority").certificate([uri])
    )
    with world.wire() as wire, pytest.raises(ConnectionResetError):
        connect_and_tell(world, client, victim.ipv4)
    world.denial(outcome=outcome, direction="outbound", pod="demo/client")
    impostor.close()
    assert impostor.heard == b""
    assert not wire.contains(b"a secret for the victim")


def test_a_meshed_destination_without_an_agent_is_never_dialled_in_plaintext(make_world: Callable[..., World]) -> None:
    world = make_world()
    client, victim = world.pod("client"), world.stranger("victim")
    world.declare(victim, node="node-b")
    echo = Echo(world, victim, PORT)
    world.start()
    with world.wire() as wire, pytest.raises(ConnectionResetError):
        connect_and_tell(world, client, victim.ipv4)
    echo.close()
    world.denial(direction="outbound", pod="demo/client")
    assert not wire.contains(b"a secret for the victim")
