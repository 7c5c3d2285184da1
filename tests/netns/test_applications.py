"""Unmodified applications from Debian, through the mesh, over IPv4 and IPv6."""

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pytest

from agent.lab.stage import Player
from tests.netns.apps import MARIADB, NATS, NGINX, POSTGRES, REDIS, SSHD, Apps
from tests.netns.world import World

MARKER = "a-marker-that-nobody-else-writes"
OPEN_PORT = 2200
"""A second door to sshd's pod, on a pod where policy permits the unmeshed."""

pytestmark = pytest.mark.parametrize("version", [4, 6])


class Place(NamedTuple):
    """The world of this module."""

    world: World
    apps: Apps
    client: Player
    server: Player
    stranger: Player
    open_server: Player
    access_log: Path
    ssh_key: Path


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Iterator[Place]:
    world = make_shared_world()
    client, server = world.pod("client"), world.pod("server")
    open_server = world.pod("open", annotations={"config.linkerd.io/default-inbound-policy": "all-unauthenticated"})
    stranger = world.stranger("stranger")
    apps, open_apps = Apps(world, server), Apps(world, open_server)
    access_log = apps.nginx()
    apps.redis()
    apps.postgres()
    apps.mariadb()
    apps.nats()
    ssh_key = apps.sshd()
    open_apps.sshd()
    open_apps.mariadb()
    world.start()
    yield Place(world, apps, client, server, stranger, open_server, access_log, ssh_key)
    apps.close()
    open_apps.close()


def url(player: Player, version: int, path: str = "/") -> str:
    host = player.ipv4 if version == 4 else f"[{player.ipv6}]"
    return f"http://{host}:{NGINX}{path}"


def test_curl_reaches_nginx_and_the_wire_carries_tls_on_the_original_port(place: Place, version: int) -> None:
    with place.world.wire() as wire:
        status, http, body = place.world.curl(place.client, url(place.server, version, f"/?{MARKER}"))
    assert (status, http, body) == (0, 200, "hello from nginx\n")
    assert wire.segments()
    assert not wire.contains(MARKER.encode())
    assert not wire.contains(b"hello from nginx")
    seen = {hello.flow[2:] for hello in wire.client_hellos() if hello.hello.offers_tls13}
    assert seen == {(place.server.address(version), NGINX)}


def test_nginx_sees_the_clients_own_address_and_curl_the_servers(place: Place, version: int) -> None:
    done = place.world.run(
        place.client,
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{remote_ip}",
        url(place.server, version, f"/?who{version}"),
    )
    assert done.stdout == place.server.address(version)
    lines = place.world.until(
        lambda: [line for line in place.access_log.read_text().splitlines() if f"?who{version} " in line], "logged"
    )
    assert [line.split()[0] for line in lines] == [place.client.address(version)]


def test_keep_alive_carries_many_requests_over_one_connection(place: Place, version: int) -> None:
    done = place.world.run(
        place.client,
        *("curl", "-sS", "-w", "%{num_connects} %{http_code}\n", "-o", "/dev/null"),
        url(place.server, version, "/?[1-20]"),
    )
    lines = [line for line in done.stdout.splitlines() if line[-3:] == "200"]
    assert len(lines) == 20
    assert sum(int(line.split()[0]) for line in lines) == 1


def test_two_hundred_connections_at_once(place: Place, version: int) -> None:
    world, server = place.world, place.server
    opened = [world.connect(place.client, server.address(version), NGINX) for _ in range(200)]

    def ask(sock: socket.socket) -> bytes:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(ask, opened))
    for sock in opened:
        sock.close()
    assert [answer.endswith(b"hello from nginx\n") for answer in answers] == [True] * 200


def test_a_large_answer_arrives_whole(place: Place, version: int) -> None:
    done = place.world.run(
        place.client, "curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", url(place.server, version, "/large")
    )
    assert int(done.stdout) == 8 << 20


def test_redis_cli_sets_and_gets(place: Place, version: int) -> None:
    cli = ("redis-cli", "-h", place.server.address(version), "-p", str(REDIS))
    with place.world.wire() as wire:
        assert place.world.run(place.client, *cli, "SET", f"key{version}", MARKER).stdout == "OK\n"
        assert place.world.run(place.client, *cli, "GET", f"key{version}").stdout == f"{MARKER}\n"
    assert wire.segments()
    assert not wire.contains(MARKER.encode())


def test_psql_speaks_its_own_tls_inside_ours(place: Place, version: int) -> None:
    target = f"host={place.server.address(version)} port={POSTGRES} user=app dbname=postgres sslmode=require"
    query = f"SELECT '{MARKER}', inet_client_addr(), (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"  # noqa: S608 - a constant
    with place.world.wire() as wire:
        done = place.world.run(place.client, "psql", target, "-Atc", query)
    client = place.client.address(version)
    assert done.stdout.strip() == f"{MARKER}|{client}|t", done.stderr
    assert wire.segments()
    assert not wire.contains(MARKER.encode())


def mariadb(place: Place, who: Player, server: Player, version: int) -> str:
    done = place.world.run(
        who,
        *(
            "mariadb",
            "--no-defaults",
            "--protocol=tcp",
            "-h",
            server.address(version),
            "-P",
            str(MARIADB),
            "-uapp",
            "-psecret",
        ),
        *("-N", "-e", "SELECT 6 * 7", "shop"),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_mariadb_which_speaks_first_serves_a_meshed_client(place: Place, version: int) -> None:
    assert mariadb(place, place.client, place.server, version) == "42"


def test_mariadb_which_speaks_first_serves_an_unmeshed_client_where_policy_permits(place: Place, version: int) -> None:
    assert mariadb(place, place.stranger, place.open_server, version) == "42"


def test_a_message_goes_from_one_client_of_nats_to_another_and_its_server_speaks_first(
    place: Place, version: int
) -> None:
    def joined() -> BinaryIO:
        with place.world.connect(place.client, place.server.address(version), NATS) as sock:
            stream = sock.makefile("rwb", buffering=0)
        assert stream.readline().startswith(b"INFO {"), "before a word was said to it"
        stream.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert stream.readline() == b"PONG\r\n"
        return cast("BinaryIO", stream)

    with joined() as subscriber, joined() as publisher:
        subscriber.write(b"SUB news 1\r\nPING\r\n")
        assert subscriber.readline() == b"PONG\r\n"
        publisher.write(b"PUB news 5\r\nhello\r\n")
        assert subscriber.readline() == b"MSG news 1 5\r\n"
        assert subscriber.readline() == b"hello\r\n"


@pytest.mark.parametrize("who", ["client", "stranger"])
def test_sshds_greeting_comes_to_a_client_that_sends_nothing(place: Place, version: int, who: str) -> None:
    player: Player = getattr(place, who)
    with place.world.connect(player, place.open_server.address(version), SSHD) as sock:
        assert sock.recv(100).startswith(b"SSH-2.0-OpenSSH")


def test_ssh_logs_in_and_runs_a_command(place: Place, version: int) -> None:
    done = place.world.run(
        place.client,
        *("ssh", "-F", "none", "-i", str(place.ssh_key), "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"),
        *("-o", "UserKnownHostsFile=/dev/null", "-p", str(SSHD), f"root@{place.server.address(version)}"),
        "echo from-$SSH_CONNECTION",
    )
    assert done.stdout.startswith(f"from-{place.client.address(version)} "), done.stderr


def test_nc_half_closes_and_still_receives(place: Place, version: int) -> None:
    """The client ends its direction (nc -N), and the server answers only then."""
    world, port = place.world, 7100 + version
    listener = world.listen(place.server, port, version)
    client = world.spawn(
        place.client,
        *("nc", "-N", place.server.address(version), str(port)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdin is not None
    client.stdin.write(b"the whole question")
    client.stdin.close()
    client.stdin = None
    served, _ = listener.accept()
    served.settimeout(10)
    question = b""
    while chunk := served.recv(100):
        question += chunk
    assert question == b"the whole question"
    served.sendall(b"the answer, after the question's end")
    served.close()
    answer, _ = client.communicate(timeout=10)
    listener.close()
    assert answer == b"the answer, after the question's end"


def test_a_server_that_half_closes_first_still_receives(place: Place, version: int) -> None:
    world, port = place.world, 7200 + version
    listener = world.listen(place.server, port, version)
    with world.connect(place.client, place.server.address(version), port) as client:
        served, peer = listener.accept()
        served.settimeout(10)
        assert peer[0] == place.client.address(version)
        served.sendall(b"goodbye")
        served.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"goodbye"
        assert client.recv(100) == b""
        for _ in range(3):
            client.sendall(b"more")
            assert served.recv(100) == b"more"
        client.shutdown(socket.SHUT_WR)
        assert served.recv(100) == b""
        served.close()
    listener.close()


def test_every_meshed_connection_was_mutual_tls_with_both_identities(place: Place, version: int) -> None:
    place.world.curl(place.client, url(place.server, version))
    record = place.world.closed(direction="inbound", pod="demo/server", outcome="completed", security="mtls")
    assert record["client_id"] == "spiffe://example.test/ns/demo/sa/client", json.dumps(record)
    assert record["server_id"] == "spiffe://example.test/ns/demo/sa/server"
