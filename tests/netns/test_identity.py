"""Identity through the years, in minutes: renewal, rotation, revocation, outages, other issuers."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.authority.ledger import Book, Kind
from agent.lab.mesh import Mesh
from agent.lab.stage import Player
from tests.authority import by_openssl
from tests.netns.test_certificates import context
from tests.netns.world import MARKER, Echo, Load, World, alive
from tests.tls.pki import Pki

PORT = 7000
RENEWALS = 10
"""Of each SVID under steady traffic; each lives for ten seconds."""


def serials(mesh: Mesh, service_account: str) -> list[str]:
    """Of its SVIDs, one after the other, as its agent names them."""
    return [
        str(line["serial"])
        for line in mesh.lines()
        if line.get("event") == "svid" and str(line.get("spiffe_id")).endswith(f"/sa/{service_account}")
    ]


def renewals(mesh: Mesh, service_account: str) -> int:
    return len(serials(mesh, service_account))


def renewed_often(mesh: Mesh, service_account: str) -> bool:
    return renewals(mesh, service_account) > RENEWALS


def stage_of(world: World) -> str:
    return str(json.loads(world.authority("status", "--json"))["stage"])


@pytest.mark.timeout(400)
def test_short_lives_and_a_new_root_under_steady_traffic_cost_no_connection(make_world: Callable[..., World]) -> None:
    world = make_world("--svid-ttl", "10s", workers=1)
    client, server = world.pod("client"), world.pod("server", node="node-b")
    echo = Echo(world, server, PORT)
    world.start()
    second = world.join("node-b")
    old = Pki.from_state(world.mesh.directory / "state" / "authority")
    held = world.connect(client, server.ipv4, PORT)
    assert alive(held)
    load = Load(world, client, server.ipv4, PORT)

    for mesh, name in ((world.mesh, "client"), (second, "server")):
        world.until(partial(renewed_often, mesh, name), f"the SVID of {name} is renewed {RENEWALS} times", 200)
    assert load.bad == [], load.report()
    assert alive(held), "renewal breaks no connection"

    world.authority("rotate-root", "start", "--auto")
    world.until(lambda: stage_of(world) == "none", "the rotation has walked through by itself", 90)
    after = load.good
    world.until(lambda: load.good > after + 50, "traffic under the new root")
    load.stop()
    assert load.bad == [], load.report()
    assert alive(held), "a root that leaves in order takes no connection with it"
    held.close()
    assert json.loads(world.authority("status", "--json"))["roots"] == [2]

    # What the old root signs from now on is worth nothing, though nothing was restarted.
    outside = world.stranger("outside")
    sni = "server.demo.serviceaccount.identity.example.test"
    with pytest.raises((OSError, AssertionError)):
        exchange(world, outside, server.ipv4, context(old.svid("visitor")), sni)
    denied = second.wait_for_log(lambda line: line.get("event") == "denied" and line.get("pod") == "demo/server")
    assert denied is not None
    assert denied["outcome"] == "certificate_untrusted"
    echo.close()


def exchange(world: World, player: Player, address: str, tls: ssl.SSLContext, sni: str) -> None:
    """One exchange over TLS of a client's own; raises where there is none."""
    with world.connect(player, address, PORT) as raw, tls.wrap_socket(raw, server_hostname=sni) as sock:
        sock.sendall(MARKER)
        assert sock.recv(100) == MARKER


class Pair:
    """A client on one node and a server on the other, with an open connection between them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client, self.server = world.pod("client"), world.pod("server", node="node-b")
        self.echo = Echo(world, self.server, PORT)
        world.start()
        self.second = world.join("node-b")
        self.agents = (world.mesh, self.second)
        self.hold()

    def hold(self) -> None:
        """Opens the connection."""
        self.held = self.world.connect(self.client, self.server.ipv4, PORT)
        assert alive(self.held), self.world.mesh.last_words()

    def said(self, since: tuple[int, int] = (0, 0)) -> list[dict[str, Any]]:
        """What both agents have said since they had said so many lines."""
        return [line for mesh, known in zip(self.agents, since, strict=True) for line in mesh.lines()[known:]]

    def reaches(self) -> bool:
        """Whether a new connection works."""
        try:
            with self.world.connect(self.client, self.server.ipv4, PORT) as sock:
                return alive(sock)
        except OSError:
            return False

    def close(self) -> None:
        self.held.close()
        self.echo.close()


@pytest.fixture
def pair(make_world: Callable[..., World]) -> Iterator[Pair]:
    made = Pair(make_world(workers=1))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_pair(make_shared_world: Callable[..., World]) -> Iterator[Pair]:
    made = Pair(make_shared_world(workers=1))
    yield made
    made.close()


@pytest.fixture
def same_pair(shared_pair: Pair) -> Iterator[Pair]:
    """For those who take back what they revoke; for whoever fails before, it is taken back here."""
    shared_pair.held.close()
    shared_pair.hold()
    yield shared_pair
    book = Book(shared_pair.world.mesh.directory / "state" / "authority" / "ledger.sqlite")
    for each in book.revocations():
        if each.kind is not Kind.SERIAL:
            shared_pair.world.authority("unrevoke", f"--{each.kind.replace('_', '-')}", each.value)
    book.close()
    shared_pair.world.until(shared_pair.reaches, "nobody is revoked any more", 30)


def ends(sock: socket.socket) -> bool:
    """Waits for a connection's end; whether it was a reset (which OpenSSL calls an end in violation of protocol)."""
    try:
        while sock.recv(100):
            pass
    except (ConnectionResetError, ssl.SSLEOFError):
        return True
    return False


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_revoked_identity_loses_its_connections_and_gets_no_new_ones_until_it_is_taken_back(
    same_pair: Pair, who: str
) -> None:
    pair, world = same_pair, same_pair.world
    name = f"spiffe://example.test/ns/demo/sa/{who}"
    world.authority("revoke", "--spiffe-id", name, "--reason", "its key leaked")
    assert ends(pair.held)
    assert not pair.reaches()
    own = world.mesh if who == "client" else pair.second
    ready = json.loads(own.ask("/ready"))
    assert any("is revoked" in each["reason"] for each in ready["waiting"]), ready
    world.authority("unrevoke", "--spiffe-id", name)
    world.until(pair.reaches, "it works again", 20)


WITHIN_SECONDS = 2.0
"""What is promised of every change."""


def said_at(mesh: Mesh, words: str) -> float:
    """When an agent said so, by its own clock, which is everybody's here."""
    line = mesh.wait_for_log(lambda line: words in str(line.get("msg")), 10)
    assert line is not None, mesh.last_words()
    return datetime.fromisoformat(str(line["ts"])).timestamp()


def test_a_revocation_and_a_new_root_reach_every_agent_within_two_seconds(pair: Pair) -> None:
    world, agents = pair.world, pair.agents
    ledger = world.mesh.directory / "state" / "authority" / "ledger.sqlite"
    world.authority("revoke", "--spiffe-id", "spiffe://example.test/ns/demo/sa/client")
    assert ends(pair.held)
    ended = time.time()
    book = Book(ledger)
    (revoked,) = [each.created for each in book.revocations()]
    for mesh in agents:
        assert 0 <= said_at(mesh, "1 anchors, 1 revoked") - revoked < WITHIN_SECONDS
    assert ended - revoked < WITHIN_SECONDS + 1, "and a second later its connections are closed"
    world.authority("rotate-root", "start")
    began = book.rotation().since
    book.close()
    for mesh in agents:
        assert 0 <= said_at(mesh, "2 anchors, 1 revoked") - began < WITHIN_SECONDS


@pytest.mark.parametrize("named", [("--agent", "node-b"), ("--spiffe-id", "spiffe://example.test/agent/node-b")])
def test_a_revoked_agent_takes_all_that_its_node_was_given_with_it(same_pair: Pair, named: tuple[str, str]) -> None:
    pair = same_pair
    one, other = (len(mesh.lines()) for mesh in pair.agents)
    pair.world.authority("revoke", *named, "--reason", "the machine was sold")
    assert ends(pair.held)
    assert not pair.reaches()

    def told() -> bool:
        """Both sides judge; whoever does so first ends the connection for the other, which then sees a reset."""
        said = pair.said(since=(one, other))
        return any(each.get("outcome") == "terminated" and "is revoked" in str(each.get("reason")) for each in said)

    pair.world.until(told, "one of both agents says why")
    pair.world.authority("unrevoke", *named)
    pair.world.until(pair.reaches, "both agents hear that it may come back, and none was started again", 30)


def test_who_shows_a_revoked_certificate_is_refused_by_every_pod(same_pair: Pair, tmp_path: Path) -> None:
    """A thief does not ask the authority: the pods' agents must know by themselves."""
    pair, world, outside = same_pair, same_pair.world, same_pair.world.stranger("outside")
    serial = minted(world, "visitor", tmp_path / "minted")
    tls = ssl.create_default_context(cafile=str(tmp_path / "minted/bundle.pem"))
    tls.load_cert_chain(tmp_path / "minted/svid.pem", tmp_path / "minted/key.pem")
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    name = "server.demo.serviceaccount.identity.example.test"
    exchange(world, outside, pair.server.ipv4, tls, name)
    with (
        world.connect(outside, pair.server.ipv4, PORT) as raw,
        tls.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False) as stolen,
    ):
        stolen.sendall(MARKER)
        assert stolen.recv(100) == MARKER
        world.authority("revoke", "--serial", serial)
        assert ends(stolen)
    with pytest.raises((OSError, AssertionError)):
        exchange(world, outside, pair.server.ipv4, tls, name)
    words = f"certificate {serial} of spiffe://example.test/ns/demo/sa/visitor is revoked"
    assert pair.second.wait_for_log(
        lambda line: line.get("outcome") == "identity_revoked" and words in str(line.get("reason"))
    ), pair.second.last_words()
    assert alive(pair.held), "nobody else notices"


def test_one_revoked_certificate_is_replaced_at_once(same_pair: Pair) -> None:
    pair = same_pair
    serial = serials(pair.world.mesh, "client")[-1]
    issued = json.loads(pair.world.authority("issued", "--live", "--json"))
    assert [each["spiffe_id"] for each in issued if each["serial"] == serial] == [
        "spiffe://example.test/ns/demo/sa/client"
    ]
    pair.world.authority("revoke", "--serial", serial)
    assert ends(pair.held)
    pair.world.until(pair.reaches, "the identity has another certificate")


def test_a_root_that_is_thrown_out_takes_its_connections_with_it(pair: Pair) -> None:
    """Agents have come along, each for itself: a straggler would be left behind, to join again by hand."""
    world = pair.world

    def svids_of_the_agent() -> int:
        issued = json.loads(world.authority("issued", "--json"))
        return sum(each["spiffe_id"] == "spiffe://example.test/agent/node-b" for each in issued)

    world.authority("rotate-root", "start")
    said_at(pair.second, "2 anchors")
    known = svids_of_the_agent()
    world.authority("rotate-root", "advance", "--force")
    world.until(lambda: svids_of_the_agent() > known, "the agent has its own SVID from the new root")
    world.authority("rotate-root", "advance", "--force")
    assert ends(pair.held)
    world.until(pair.reaches, "everybody has come under the new root", 30)


def test_an_authority_that_dies_is_replaced_and_nobody_notices(pair: Pair) -> None:
    world = pair.world

    def authority() -> int | None:
        for directory in Path("/proc").iterdir():
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                title = (directory / "cmdline").read_bytes().rstrip(b"\0")
            except (OSError, IndexError, ValueError):
                continue
            if parent == world.mesh.pid and title == b"quietwire authority":
                return int(directory.name)
        return None

    died = authority()
    assert died is not None
    os.kill(died, signal.SIGKILL)
    assert alive(pair.held)
    world.until(lambda: authority() not in {None, died}, "another authority")
    world.pod("late")
    world.until(lambda: "demo/late" not in json.dumps(world.ready()["waiting"]), "a new pod gets its SVID", 20)
    assert world.count("quietwire_authority_restarts_total") == 1
    assert alive(pair.held)


class Standalone:
    """`quietwire authority run`, by itself."""

    def __init__(self, world: World, *flags: str) -> None:
        self.state = world.directory / "authority-state"
        self._command = [
            *(sys.executable, "-m", "agent.cli", "authority", "run", "--state", str(self.state)),
            *("--manifests", str(world.mesh.manifests), "--trust-domain", "example.test", *flags),
        ]
        self._listen = "127.0.0.1:0"
        self.address = ""
        self.start()

    def start(self) -> None:
        """Starts it, where it was."""
        self._process = subprocess.Popen([*self._command, "--listen", self._listen], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            said = json.loads(line)
            if said.get("event") == "authority":
                self._listen = self.address = said["address"]
                break
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def cli(self, *words: str) -> str:
        """`quietwire authority …`."""
        return subprocess.run(
            [sys.executable, "-m", "agent.cli", "authority", *words, "--state", str(self.state)],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip


LIFETIME = 12.0
"""Seconds that an SVID lives in the scenarios of outages."""


@pytest.fixture
def remote(make_world: Callable[..., World]) -> Iterator[tuple[World, Standalone]]:
    """A world whose agent has its authority elsewhere, under SVIDs that live for twelve seconds."""
    world = make_world()
    authority = Standalone(world, "--svid-ttl", f"{LIFETIME:g}s")
    (world.directory / "bundle.pem").write_text(authority.cli("bundle", "--pem"))
    (world.directory / "token").write_text(authority.cli("token", "create", "--node", "node-a"))
    nobody = "127.0.0.1:1"  # tried in turn
    world.mesh = Mesh(
        world.mesh.directory,
        node="node-a",
        trust_domain="example.test",
        verb=(
            *("agent", "--authority", nobody, "--authority", authority.address),
            *("--bundle", str(world.directory / "bundle.pem")),
            *("--join-token-file", str(world.directory / "token")),
        ),
        flags=("--workers=1", "--drain-timeout=1"),
        manifests=world.mesh.manifests,
    )
    yield world, authority
    authority.kill()


@pytest.mark.timeout(300)
def test_an_authority_that_is_away_for_five_lifetimes_costs_nothing_while_svids_live_and_then_fails_closed(
    remote: tuple[World, Standalone],
) -> None:
    world, authority = remote
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    held = world.connect(client, server.ipv4, PORT)
    assert alive(held)
    load = Load(world, client, server.ipv4, PORT)
    world.until(lambda: renewals(world.mesh, "server") >= 2, "a renewal", 20)
    authority.kill()
    died = time.time()
    known = load.good
    world.until(lambda: load.good > known + 50, "what has an SVID keeps working")
    assert load.bad == [], load.report()
    late = world.pod("late")
    world.until(
        lambda: any(
            each["pod"] == "demo/late" and "cannot be reached" in each["reason"] for each in world.ready()["waiting"]
        ),
        "a new pod waits, and says for what",
    )
    assert not world.ready()["ready"]
    loud = world.mesh.wait_for_log(lambda line: "could not be renewed and has" in line["msg"], 20)
    assert loud is not None
    assert loud["level"] == "error"
    assert load.bad == [], "the last tenth of a life is loud, and works"
    denied = world.mesh.wait_for_log(lambda line: line.get("outcome") == "no_identity", 20)
    assert denied is not None, "an SVID that has truly expired is used no more"
    assert "has no valid SVID now" in denied["reason"]
    load.stop()
    assert alive(held), "a connection that is open lives on"
    world.until(lambda: len(world.ready()["waiting"]) == 3, "the other one has expired, too", LIFETIME)
    with world.wire() as wire:
        while time.time() < died + 5 * LIFETIME:
            for source in (client, late):
                with contextlib.suppress(OSError), world.connect(source, server.ipv4, PORT) as sock:
                    assert not alive(sock)
            reasons = {each["pod"]: each["reason"] for each in world.ready()["waiting"]}
            assert "has expired" in reasons["demo/client"]
            assert "has expired" in reasons["demo/server"]
            assert "cannot be reached" in reasons["demo/late"]
            assert not world.ready()["ready"]
            assert alive(held)
            time.sleep(2)  # the duration is the scenario
    assert not wire.contains(MARKER)
    authority.start()
    world.until(lambda: world.ready()["ready"], "everything is certified again by itself", 40)
    again, new = world.connect(client, server.ipv4, PORT), world.connect(late, server.ipv4, PORT)
    assert alive(again)
    assert alive(new)
    for sock in (held, again, new):
        sock.close()
    echo.close()


def test_a_pod_that_was_announced_has_its_svid_when_it_comes_though_the_authority_is_away(
    remote: tuple[World, Standalone],
) -> None:
    """Announced: it has a node and a service account, and neither an address nor a namespace yet."""
    world, authority = remote
    world.pod("one")
    world.start()
    early = world.stranger("early")
    announced = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "early", "namespace": "demo"},
        "spec": {"nodeName": "node-a", "serviceAccountName": "early"},
    }
    world.mesh.write("pod-early.yaml", announced)
    world.until(lambda: renewals(world.mesh, "early") == 1, "it is certified ahead")
    world.until(lambda: "no network namespace is known for it" in json.dumps(world.ready()["waiting"]), "it says why")
    authority.kill()
    world.declare(early)
    world.until(lambda: world.ready()["ready"], "it is captured and certified")
    assert renewals(world.mesh, "early") == 1


def test_an_agent_that_is_restarted_needs_no_new_token(remote: tuple[World, Standalone]) -> None:
    world, authority = remote
    world.pod("one")
    world.start()
    assert world.ready()["ready"]
    world.mesh.kill()
    (world.directory / "token").write_text("used up")
    (world.directory / "bundle.pem").unlink()
    world.start()
    assert world.ready()["ready"]
    kept = world.mesh.directory / "state" / "agent"
    assert {path.name: path.stat().st_mode & 0o777 for path in kept.iterdir()}["svid.pem"] == 0o600
    nodes = [each["node"] for each in json.loads(authority.cli("agents", "--json"))]
    assert nodes == ["node-a"]


def minted(world: World, name: str, out: Path, ttl: str = "10m") -> str:
    """An SVID by hand; its serial."""
    spiffe_id = f"spiffe://example.test/ns/demo/sa/{name}"
    said = world.authority("mint", "--spiffe-id", spiffe_id, "--ttl", ttl, "--out", str(out), "--json")
    return str(json.loads(said)["serial"])


def test_curl_with_a_minted_svid_reaches_a_pod_and_openssl_alone_verifies_it(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(workers=1)
    server, outside = world.pod("server"), world.stranger("outside")
    world.start()
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("hello from the pod\n")
    serve = (sys.executable, "-m", "http.server", "8080", "--bind", "0.0.0.0", "--directory", str(site))
    web = world.spawn(server, *serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    world.wait_until_listening(server, 8080, web)
    out = tmp_path / "minted"
    minted(world, "debug", out)
    assert (out / "key.pem").stat().st_mode & 0o777 == 0o600
    leaf, marker, rest = (out / "svid.pem").read_text().partition("-----END CERTIFICATE-----\n")
    (out / "leaf.pem").write_text(leaf + marker)
    (out / "issuer.pem").write_text(rest)
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", "bundle.pem", "-untrusted", "issuer.pem", "leaf.pem"],
        cwd=out, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr
    name = "server.demo.serviceaccount.identity.example.test"
    with world.wire() as wire:
        status, code, body = world.curl(
            outside, f"https://{name}:8080/", "--http1.1", "--resolve", f"{name}:8080:{server.ipv4}",
            "--cacert", str(out / "bundle.pem"), "--cert", str(out / "svid.pem"), "--key", str(out / "key.pem"),
        )  # fmt: skip
    assert (status, code, body) == (0, 200, "hello from the pod\n"), world.mesh.last_words()
    assert not wire.contains(b"hello from the pod")
    status, code, _ = world.curl(
        outside, f"https://{name}:8080/", "--resolve", f"{name}:8080:{server.ipv4}", "--cacert", str(out / "bundle.pem")
    )
    assert (status != 0, code) == (True, 0), "without the certificate it is an unauthenticated client"


def lay(world: World, source: Path, name: str, *, rename: bool = False) -> str:
    """Puts an SVID where the files source looks; its serial."""
    made = world.directory / f"made-{name}"
    shutil.rmtree(made, ignore_errors=True)
    serial = minted(world, name, made)
    directory = source / "demo" / name
    directory.mkdir(parents=True, exist_ok=True)
    for theirs, ours in (("key.pem", "tls.key"), ("svid.pem", "tls.crt")):
        if rename:
            shutil.copy(made / theirs, directory / f".{ours}")
            (directory / f".{ours}").rename(directory / ours)
        else:
            shutil.copy(made / theirs, directory / ours)
    shutil.copy(made / "bundle.pem", source / "bundle.pem")
    return serial


def test_svids_from_files_serve_and_are_followed_live(make_world: Callable[..., World]) -> None:
    issuing = make_world()  # only its authority is of interest here
    issuing.start()
    world = make_world()
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    source = world.directory / "svids"
    source.mkdir()
    world.mesh = Mesh(
        world.mesh.directory,
        node="node-a",
        trust_domain="example.test",
        verb=("up", "--svid-source", f"files:{source}"),
        flags=("--workers=1", "--drain-timeout=1"),
        manifests=world.mesh.manifests,
    )
    lay(issuing, source, "client")
    later = threading.Timer(1.0, lay, (issuing, source, "server"))
    later.start()  # it comes while the agent waits for it
    world.start()
    later.join()
    held = world.connect(client, server.ipv4, PORT)
    assert alive(held)
    newer = lay(issuing, source, "server", rename=True)
    assert world.mesh.wait_for_log(lambda line: line.get("event") == "svid" and line.get("serial") == newer)
    assert alive(held)
    again = world.connect(client, server.ipv4, PORT)
    assert alive(again)

    # What no peer would take replaces nothing: the pods go on, and the operator is told.
    bad = Pki().svid("server")
    for file, data in (("tls.key", bad.key_pem), ("tls.crt", bad.chain_pem)):
        (source / "demo" / "server" / file).write_bytes(data)
    world.until(lambda: world.count("quietwire_identity_faults") == 1, "the fault is counted")
    ready = json.loads(world.mesh.ask("/ready"))
    assert ready["ready"] is True
    (fault,) = ready["faults"]
    assert f"no peer would take what lies in {source}/demo/server (serial {bad.serial})" in fault
    assert f"The one in force, serial {newer}, stays until " in fault
    warned = world.mesh.wait_for_log(lambda line: line.get("event") == "svid_refused" and line["level"] == "warning")
    assert warned is not None
    fresh = world.connect(client, server.ipv4, PORT)
    assert alive(fresh)
    mended = lay(issuing, source, "server", rename=True)
    assert world.mesh.wait_for_log(lambda line: line.get("event") == "svid" and line.get("serial") == mended)
    world.until(lambda: world.count("quietwire_identity_faults") == 0, "the fault is mended")
    for sock in (held, again, fresh):
        assert alive(sock)
        sock.close()
    echo.close()


def is_refused(words: str, line: dict[str, Any]) -> bool:
    said = str(line.get("msg"))
    return "cannot be put in force" in said and re.search(words, said) is not None


def test_an_issuer_that_is_given_is_used_and_its_replacement_is_followed(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    one, two = Pki("example.test"), Pki("example.test")
    given = tmp_path / "given"
    given.mkdir()
    one.write_issuer(given)
    world = make_world(
        *("--issuer-cert", str(given / "tls.crt"), "--issuer-key", str(given / "tls.key")),
        *("--roots", str(given / "ca.crt")),
        workers=1,
    )
    client, server = world.pod("client"), world.pod("server")
    echo = Echo(world, server, PORT)
    world.start()
    assert world.authority("bundle", "--pem").encode() == one.bundle().anchors_pem
    load = Load(world, client, server.ipv4, PORT)

    (given / "tls.crt").write_text("not a certificate")
    refused = world.mesh.wait_for_log(lambda line: "cannot be put in force" in str(line.get("msg")), 10)
    assert refused is not None
    assert "holds no PEM certificates" in refused["msg"]
    for made, words in by_openssl.WRONG.values():
        by_openssl.lay(given, **made)
        assert world.mesh.wait_for_log(partial(is_refused, words), 10), words

    one.write_issuer(given, more_roots=two.bundle().anchors_pem)
    world.until(lambda: world.authority("bundle", "--pem").count("BEGIN") == 2, "both roots are trusted")
    assert world.mesh.wait_for_log(lambda line: "2 anchors" in str(line.get("msg")), 10)
    two.write_issuer(given, more_roots=one.bundle().anchors_pem)
    world.until(lambda: renewals(world.mesh, "client") >= 2 and renewals(world.mesh, "server") >= 2, "new SVIDs", 30)
    known = load.good
    world.until(lambda: load.good > known + 50, "traffic under the new issuer")
    load.stop()
    assert load.bad == [], load.report()
    echo.close()
