"""A mesh's manifests are such as an agent reads, and what it says is heard; the agent here is a script."""

import itertools
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agent.catalog.join import Assembly
from agent.catalog.sources.files.directory import load
from agent.lab.mesh import Mesh, MeshError
from agent.lab.stage import Player

WEB = Player("web", "x-web", "192.0.2.2", "2001:db8::2", "port2")
READY = 'print("ready", flush=True)'
ADMIN = 'say(event="admin", address="127.0.0.1:4191")'

Played = Callable[..., Mesh]


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    """Makes a mesh whose agent does what some lines of Python say, and then waits for its end."""
    made: list[Mesh] = []

    def play(*lines: str, access_log: bool = True, ends: bool = False) -> Mesh:
        prelude = "import json, signal, sys\ndef say(**line): print(json.dumps(line), file=sys.stderr, flush=True)\n"
        code = prelude + "\n".join(lines) + ("" if ends else "\nsignal.pause()")
        mesh = Mesh(tmp_path, node="node-a", trust_domain="example.test", access_log=access_log, program=("-c", code))
        made.append(mesh)
        return mesh

    yield play
    for mesh in made:
        mesh.kill()


def test_manifests_of_pods_and_services_are_read_without_a_fault(played: Played) -> None:
    mesh = played()
    mesh.pod(WEB, **{"config.linkerd.io/default-inbound-policy": "deny"})
    mesh.service("web", "10.96.0.9", 8080)
    loaded = load([mesh.manifests])
    assert (loaded.faults, loaded.remarks) == ((), ())
    change = Assembly().apply(loaded.objects)
    assert change is not None
    (pod,), (service,) = change.pods, change.services
    assert (str(pod.key), pod.node, pod.netns) == ("demo/web", "node-a", "x-web")
    assert {str(each) for each in pod.ips} == {WEB.ipv4, WEB.ipv6}
    assert str(service.key) == "demo/web"


def test_a_manifest_is_replaced_whole_and_nothing_else_lies_beside_it(played: Played) -> None:
    mesh = played()
    mesh.write("a.yaml", {"kind": "one"})
    mesh.write("a.yaml", {"kind": "two"})
    assert [(path.name, json.loads(path.read_text())) for path in mesh.manifests.iterdir()] == [
        ("a.yaml", {"kind": "two"})
    ]


@pytest.mark.parametrize("access_log", [True, False])
def test_the_agent_is_told_everything_by_flags(played: Played, tmp_path: Path, access_log: bool) -> None:
    mesh = played("say(event='told', words=sys.argv[1:])", ADMIN, READY, access_log=access_log)
    mesh.start()
    told = mesh.wait_for_log(lambda line: line.get("event") == "told")
    assert told is not None
    words = told["words"]
    assert words[0] == "up"
    flags = dict(itertools.pairwise(words))
    assert flags["--manifests"] == str(tmp_path / "manifests")
    assert (flags["--node"], flags["--trust-domain"], flags["--admin"]) == ("node-a", "example.test", "127.0.0.1:0")
    assert ("--access-log" in words) is access_log


def test_where_the_admin_server_is_comes_from_what_the_agent_says(played: Played) -> None:
    mesh = played(ADMIN, READY)
    mesh.start()
    assert mesh.admin == "127.0.0.1:4191"
    pid = mesh.pid
    mesh.stop()
    assert (pid is None, mesh.pid) == (False, None)
    assert json.loads(mesh.log_path.read_text()) == {"event": "admin", "address": "127.0.0.1:4191"}


@pytest.mark.parametrize("said", ["", 'print("almost")'])
def test_an_agent_that_ends_before_it_is_ready_is_an_error_with_its_last_words(played: Played, said: str) -> None:
    mesh = played("say(msg='the port is taken')", "print('no JSON', file=sys.stderr)", said, ends=True)
    with pytest.raises(MeshError, match=r"did not become ready; its last words:\nthe port is taken\nno JSON$"):
        mesh.start()
    assert mesh.pid is None


def test_what_was_said_before_and_what_is_said_later_is_heard_alike(played: Played) -> None:
    mesh = played("signal.signal(signal.SIGUSR1, lambda *_: say(event='later'))", "say(event='before')", ADMIN, READY)
    mesh.start()
    assert mesh.wait_for_log(lambda line: line.get("event") == "before") == {"event": "before"}
    assert mesh.wait_for_log(lambda line: line.get("event") == "later", 0) is None
    mesh.signal(10)
    assert mesh.wait_for_log(lambda line: line.get("event") == "later", 30) == {"event": "later"}
    assert [line.get("event") for line in mesh.lines()] == ["before", "admin", "later"]


def test_an_agent_that_heeds_no_sigterm_is_killed(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.lab.mesh.STOP_SECONDS", 0.2)
    mesh = played("signal.signal(signal.SIGTERM, signal.SIG_IGN)", ADMIN, READY, "while True: signal.pause()")
    mesh.start()
    mesh.stop()
    assert mesh.pid is None


class Page(BaseHTTPRequestHandler):
    """A metrics page, and a refusal of all else."""

    def do_GET(self) -> None:
        found = self.path == "/metrics"
        name = "quietwire_certificate_expiry_timestamp_seconds"
        body = f'{name}{{spiffe_id="spiffe://a/b"}} 1.5e9\nother 3\n{name}{{spiffe_id="spiffe://a/c"}} 7\n'
        self.send_response(200 if found else 503)
        self.end_headers()
        self.wfile.write(body.encode() if found else b"not ready: web")

    def log_message(self, *_: object) -> None:
        return


def test_the_admin_servers_answers_are_read_whatever_their_status(played: Played) -> None:
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    mesh = played()
    mesh.admin = f"127.0.0.1:{server.server_address[1]}"
    assert mesh.expiries() == {"spiffe://a/b": 1.5e9, "spiffe://a/c": 7.0}
    assert mesh.ask("/ready") == "not ready: web"
    server.shutdown()
    thread.join()
    server.server_close()
