"""What TCP means is kept: bytes, backpressure, half-closes, resets, truncation; and what it costs in memory."""

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.lab.stage import Player
from tests.capture.test_sockets import TCP_RTO_MAX_MS, option_of
from tests.netns.test_certificates import context
from tests.netns.world import RESET_ON_CLOSE, Echo, World
from tests.tls.pki import Pki

GIB = 1 << 30
PORT = 7000
BULK_GROWTH_LIMIT = 48 << 20
"""Bytes that the agent's workers may grow by while 1 GiB goes each way through one connection."""
IDLE_LIMIT = 96 << 10
"""Bytes that one idle meshed connection may cost the agent, both its ends together (they are on one node here)."""

FORGETS = 48
"""Seconds after which conntrack forgets half-closed connections in a test (60 by default), and the agent's silence ends
after 45. Left alone, the seconds between two probes of a full window are 25.6, and 51.2 the next time, and 102.4."""
STALL = 105
"""Seconds in which a probe that comes after 51.2 seconds would find the connection forgotten."""
POURED = 128 << 20
"""Bytes that all buffers on the way do not hold."""


class Place(NamedTuple):
    world: World
    client: Player
    server: Player
    stranger: Player


@pytest.fixture(scope="module")
def place(make_shared_world: Callable[..., World]) -> Place:
    world = make_shared_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    stranger = world.stranger("stranger")
    world.start()
    return Place(world, client, server, stranger)


def pair(place: Place, version: int = 4) -> tuple[socket.socket, socket.socket]:
    """A connection through the mesh: the client's end and the server's."""
    listener = place.world.listen(place.server, PORT, version)
    client = place.world.connect(place.client, place.server.address(version), PORT)
    served, _ = listener.accept()
    served.settimeout(30)
    client.settimeout(30)
    listener.close()
    return client, served


def memory(world: World) -> int:
    """Resident bytes of all workers (Rss in smaps_rollup)."""
    total = 0
    for pid in world.workers().values():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def pump(sock: socket.socket, seed: bytes, size: int = GIB) -> str:
    """Sends so many bytes, whole MiB, and ends the direction; returns their SHA-256."""
    block = hashlib.sha256(seed).digest() * 32768  # 1 MiB
    digest = hashlib.sha256()
    for number in range(size // len(block)):
        data = number.to_bytes(8, "big") + block[8:]
        digest.update(data)
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def drink(sock: socket.socket) -> tuple[int, str]:
    """Reads to the end; how much, and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(1 << 20)
    while count := sock.recv_into(buffer):
        digest.update(memoryview(buffer)[:count])
        size += count
    return size, digest.hexdigest()


@pytest.mark.timeout(300)
def test_a_gibibyte_each_way_at_once_is_the_same_and_memory_stays_bounded(
    place: Place, record_property: Callable[[str, object], None]
) -> None:
    client, served = pair(place)
    before = memory(place.world)
    peak = before
    with ThreadPoolExecutor(max_workers=4) as threads:
        sent_up, sent_down = threads.submit(pump, client, b"up"), threads.submit(pump, served, b"down")
        got_up, got_down = threads.submit(drink, served), threads.submit(drink, client)
        pending: set[Future[Any]] = {sent_up, sent_down, got_up, got_down}
        while pending:
            _, pending = wait(pending, timeout=0.25)
            peak = max(peak, memory(place.world))
    ends = [line for line in place.world.mesh.lines() if line.get("event") in {"closed", "denied"}]
    for name, future in (("sent_up", sent_up), ("sent_down", sent_down), ("got_up", got_up), ("got_down", got_down)):
        assert future.exception() is None, f"{name}: {future.exception()!r}; the agent said {ends}"
    client.close()
    served.close()
    record_property("growth_bytes", peak - before)
    assert got_up.result() == (GIB, sent_up.result())
    assert got_down.result() == (GIB, sent_down.result())
    assert peak - before < BULK_GROWTH_LIMIT


def test_a_reader_that_stops_reading_stops_the_writer(place: Place) -> None:
    client, served = pair(place)
    client.setblocking(False)
    sent, still = 0, 0
    while still < 20:  # nothing more has been taken for a second
        try:
            sent += client.send(b"x" * 65536)
            still = 0
        except BlockingIOError:
            still += 1
            time.sleep(0.05)
        assert sent < 256 << 20, "the writer was never stopped"
    # Read on, and everything comes.
    got = 0
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    while chunk := served.recv(1 << 20):
        got += len(chunk)
    client.close()
    served.close()
    assert got == sent


@pytest.mark.timeout(180)
def test_two_thousand_idle_connections_cost_a_bounded_memory_each(
    make_world: Callable[..., World], record_property: Callable[[str, object], None]
) -> None:
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    world.start()
    listener = world.listen(server, PORT, backlog=4096)

    def open_some(count: int) -> list[socket.socket]:
        made = []
        for _ in range(count):
            made.append(world.connect(client, server.ipv4, PORT))
            made.append(listener.accept()[0])
            made[-2].sendall(b"x")
            assert made[-1].recv(1) == b"x"
        return made

    warm = open_some(50)
    before = memory(world)
    idle = open_some(2000)
    each = (memory(world) - before) / 2000
    record_property("bytes_per_connection", each)
    print(f"\n{each / 1024:.1f} KiB for each idle connection, both ends of the mesh together")
    assert world.count("quietwire_connections_live", direction="inbound") == 2050
    for sock in (*warm, *idle):
        sock.close()
    listener.close()
    world.until(lambda: world.count("quietwire_connections_live") == 0, "all connections are gone", 30)
    assert each < IDLE_LIMIT


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_by_either_end_arrives_as_a_reset(place: Place, version: int, who: str) -> None:
    client, served = pair(place, version)
    client.sendall(b"hello")
    assert served.recv(100) == b"hello"
    dying, other = (client, served) if who == "client" else (served, client)
    dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    dying.close()
    with pytest.raises(ConnectionResetError):
        other.recv(100)
    other.close()


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_after_a_half_close_arrives_as_a_reset(place: Place, who: str) -> None:
    """Nobody polls a leg whose stream has ended; its reset must be found all the same."""
    client, served = pair(place)
    dying, other = (client, served) if who == "client" else (served, client)
    dying.sendall(b"bye")
    dying.shutdown(socket.SHUT_WR)
    assert other.recv(100) == b"bye"
    assert other.recv(100) == b""
    dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    dying.close()

    def broken() -> bool:
        try:
            other.send(b"x")
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    place.world.until(broken, "the other end learns of the reset")
    other.close()


def test_a_tls_stream_cut_without_close_notify_is_a_reset_for_the_application(place: Place) -> None:
    listener = place.world.listen(place.server, PORT)
    pki = Pki.from_state(place.world.mesh.directory / "state" / "authority")
    raw = place.world.connect(place.stranger, place.server.ipv4, PORT)
    sock = context(pki.svid("visitor")).wrap_socket(
        raw, server_hostname="server.demo.serviceaccount.identity.example.test"
    )
    sock.sendall(b"half of it")
    served, _ = listener.accept()
    served.settimeout(10)
    assert served.recv(100) == b"half of it"
    with socket.socket(fileno=sock.detach()) as bare:
        bare.shutdown(socket.SHUT_WR)  # a FIN, and no close_notify
        with pytest.raises(ConnectionResetError):
            served.recv(100)
    served.close()
    listener.close()
    place.world.closed(direction="inbound", outcome="truncated")


def test_a_tls_stream_that_ends_with_close_notify_is_a_clean_end(place: Place) -> None:
    listener = place.world.listen(place.server, PORT)
    pki = Pki.from_state(place.world.mesh.directory / "state" / "authority")
    raw = place.world.connect(place.stranger, place.server.ipv4, PORT)
    sock = context(pki.svid("visitor")).wrap_socket(
        raw, server_hostname="server.demo.serviceaccount.identity.example.test"
    )
    sock.sendall(b"all of it")
    served, _ = listener.accept()
    served.settimeout(10)
    assert served.recv(100) == b"all of it"
    closer = threading.Thread(target=sock.unwrap)
    closer.start()
    assert served.recv(100) == b""
    served.close()
    closer.join(10)
    sock.close()
    listener.close()


@pytest.mark.parametrize("version", [4, 6])
def test_an_answer_that_ends_its_stream_crosses_the_wire_with_the_end_in_one_segment(
    place: Place, version: int
) -> None:
    client, served = pair(place, version)
    flow = (*served.getsockname()[:2], *served.getpeername()[:2])
    client.sendall(b"question")
    assert served.recv(100) == b"question"
    (worker,) = place.world.workers().values()
    with place.world.wire() as wire:
        os.kill(worker, signal.SIGSTOP)  # so that it finds both at once when it goes on
        try:
            served.sendall(b"answer")
            served.shutdown(socket.SHUT_WR)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""
        client.sendall(b"the other direction goes on")
        assert served.recv(100) == b"the other direction goes on"
    client.close()
    served.close()
    # The capture sees a segment at each interface that it passes; another test's connection may be ending.
    back = {segment.payload for segment in wire.segments() if segment.flow == flow}
    overhead = 5 + 1 + 16
    assert len(back) == 1
    assert len(*back) == len(b"answer") + overhead + 2 + overhead, "the answer's record, and close_notify's"


def caps_its_silence(sock: socket.socket) -> bool:
    """Whether the kernel is new enough (Linux 6.15); before it a stalled reader is a limit that README names."""
    return option_of(sock, socket.IPPROTO_TCP, TCP_RTO_MAX_MS) is not None


@pytest.mark.timeout(300)
def test_half_closed_connections_may_be_silent_or_stalled_for_longer_than_conntrack_remembers_them(
    place: Place,
) -> None:
    for player in (place.client, place.server):
        said = place.world.run(player, "sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_timeout_close_wait={FORGETS}")
        assert said.returncode == 0, said.stderr
    silent, answers = pair(place)
    silent.sendall(b"question")
    silent.shutdown(socket.SHUT_WR)
    assert answers.recv(100) == b"question"
    assert answers.recv(100) == b""
    stalled = []
    with ThreadPoolExecutor(2) as pool:
        for turned in (False, True) if caps_its_silence(silent) else ():
            client, served = pair(place)
            reader, writer = (served, client) if turned else (client, served)
            reader.shutdown(socket.SHUT_WR)
            assert writer.recv(100) == b""
            writer.settimeout(STALL + 30)
            stalled.append((reader, writer, pool.submit(pump, writer, b"poured", POURED)))
        time.sleep(STALL)  # the duration is the scenario
        answers.sendall(b"answer")
        assert silent.recv(100) == b"answer"
        for reader, _, poured in stalled:
            assert not poured.done(), "the buffers on the way hold it all: nobody has stalled"
            assert drink(reader) == (POURED, poured.result())
    for sock in (silent, answers, *(end for reader, writer, _ in stalled for end in (reader, writer))):
        sock.close()


def test_an_agent_that_dies_is_never_a_clean_end(make_world: Callable[..., World]) -> None:
    world = make_world(workers=1)
    client, server = world.pod("client"), world.pod("server")
    world.start()
    listener = world.listen(server, PORT)
    sock = world.connect(client, server.ipv4, PORT)
    served, _ = listener.accept()
    served.settimeout(10)
    sock.sendall(b"half of it")
    assert served.recv(100) == b"half of it"
    os.kill(world.workers()[0], signal.SIGKILL)
    for end in (sock, served):
        with pytest.raises(ConnectionResetError):
            end.recv(100)
        end.close()
    listener.close()


def test_a_pod_reaches_itself_by_its_own_address_and_by_loopback(place: Place) -> None:
    echo = Echo(place.world, place.server, 7300)
    with place.world.wire() as wire:
        for address in (place.server.ipv4, "127.0.0.1"):
            with place.world.connect(place.server, address, 7300) as sock:
                sock.sendall(b"to myself")
                assert sock.recv(100) == b"to myself"
    echo.close()
    assert not wire.contains(b"to myself")
