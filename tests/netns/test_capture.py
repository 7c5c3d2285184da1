"""What the rules capture: both backends, both families, one behaviour. No agent runs here; the tests listen."""

import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from agent.capture.address import Source
from agent.capture.netns import open_home
from agent.capture.sockets import dial, ends, listeners
from agent.lab.stage import Player
from init import agent_mark
from init.netns import open_netns
from tests.netns.test_init import OPTIONS, init, inside
from tests.netns.world import RESET_ON_CLOSE, SOON, World

PORT = 8080


class Captured(NamedTuple):
    """A pod with rules, a peer and a second peer whose address is skipped; the agent's ports are listened on."""

    world: World
    pod: Player
    peer: Player
    skipped: Player
    listening: dict[str, socket.socket]

    def mark(self) -> int:
        """The agent's, in the pod."""
        mark: int = self.world.inside(self.pod, lambda: agent_mark.mark_of_namespace(agent_mark.draw()))
        return mark

    def goes_to(
        self, version: int, address: str, port: int, mark: int = 0, *, source_port: int = 0
    ) -> tuple[str, int] | None:
        """Dials from the pod; the original destination that the outbound listener saw, None where it saw nothing."""
        listener = self.listening[f"outbound{version}"]
        with self.world.open_socket(self.pod, version) as sock:
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
            sock.bind(("", source_port))
            sock.settimeout(0.5)  # in blackholes nobody answers, which is what "left alone" looks like there
            try:
                sock.connect((address, port))
            except (TimeoutError, OSError):
                return None
            return _accepted(listener)

    def comes_from(self, player: Player, version: int, port: int, *, source_port: int = 0) -> tuple[str, int] | None:
        """Dials the pod; the original destination that the inbound listener saw, None where it saw nothing."""
        with self.world.open_socket(player, version) as sock:
            sock.bind(("", source_port))
            sock.settimeout(SOON)
            try:
                sock.connect((self.pod.address(version), port))
            except ConnectionRefusedError:
                return None
            return _accepted(self.listening[f"inbound{version}"])


def _accepted(listener: socket.socket) -> tuple[str, int] | None:
    listener.setblocking(False)
    try:
        sock, _ = listener.accept()
    except BlockingIOError:
        return None
    with sock:
        return ends(sock.fileno())[2]


def agents_leg(captured: Captured, address: str, client: Source | None = None) -> socket.socket:
    """What the agent itself dials from inside the pod."""
    netns_fd, home_fd = open_netns(captured.pod.netns), open_home()
    try:
        leg, connected = dial(netns_fd, home_fd, captured.mark(), address, PORT, client)
    finally:
        os.close(netns_fd)
        os.close(home_fd)
    leg.settimeout(SOON)
    if not connected:
        leg.close()
        raise AssertionError(f"{address} did not answer at once")
    return leg


def transparent_leg(captured: Captured, version: int, port: int) -> socket.socket:
    """The agent's connection to the pod's application from the peer's own address and a port."""
    return agents_leg(captured, captured.pod.address(version), Source(captured.peer.address(version), port))


@pytest.fixture(scope="module", params=["legacy", "nft"])
def captured(request: pytest.FixtureRequest, make_shared_world: Callable[..., World]) -> Iterator[Captured]:
    world = make_shared_world()
    pod, peer, skipped = (world.stranger(name) for name in ("pod", "peer", "skipped"))
    # The strictest that an operator may have set.
    inside(pod, "sysctl", "-w", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.lo.rp_filter=1")
    agent_mark.draw()
    done = init(pod, "apply", "--backend", request.param, *OPTIONS)
    assert done.returncode == 0, done.stderr
    listening = world.inside(pod, lambda: listeners(ipv6=True))
    for sock in listening.values():
        sock.listen(16)
    yield Captured(world, pod, peer, skipped, listening)
    for sock in listening.values():
        sock.close()


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def test_what_the_pod_dials_is_captured_with_its_original_destination(captured: Captured, version: int) -> None:
    for address in (captured.peer.address(version), {4: "198.51.100.7", 6: "2001:db8::7"}[version]):
        assert captured.goes_to(version, address, PORT) == (address, PORT)


def test_what_dials_the_pod_is_captured_with_its_original_destination(captured: Captured, version: int) -> None:
    assert captured.comes_from(captured.peer, version, PORT) == (captured.pod.address(version), PORT)


def test_a_pod_may_call_itself(captured: Captured, version: int) -> None:
    with captured.world.listen(captured.pod, PORT, version):
        for address in (captured.pod.address(version), {4: "127.0.0.1", 6: "::1"}[version]):
            assert captured.goes_to(version, address, PORT) is None


@pytest.mark.parametrize("port", [9, 7000, 7010])
def test_skipped_ports_are_left_alone_each_way(captured: Captured, version: int, port: int) -> None:
    with captured.world.listen(captured.peer, port, version), captured.world.listen(captured.pod, port, version):
        assert captured.goes_to(version, captured.peer.address(version), port) is None
        assert captured.comes_from(captured.peer, version, port) is None


@pytest.mark.parametrize("port", [8, 10, 6999, 7011])
def test_the_ports_beside_them_are_captured(captured: Captured, version: int, port: int) -> None:
    assert captured.goes_to(version, captured.peer.address(version), port) is not None
    assert captured.comes_from(captured.peer, version, port) is not None


def test_skipped_subnets_are_left_alone(captured: Captured, version: int) -> None:
    assert captured.goes_to(version, {4: "203.0.113.9", 6: "2001:db8:113::9"}[version], PORT) is None
    assert captured.comes_from(captured.skipped, version, PORT) is None


def test_what_the_agent_itself_dials_is_left_alone(captured: Captured, version: int) -> None:
    with captured.world.listen(captured.peer, PORT, version):
        assert captured.goes_to(version, captured.peer.address(version), PORT, captured.mark()) is None


WITH_NET_RAW = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw", "--no-new-privs")
DIAL_WITH_MARK = """
import socket, struct, sys
address, port, mark, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.settimeout(0.5)
    try:
        sock.connect((address, port))
    except OSError as error:
        print(error.strerror or error)
    else:
        print("connected")
"""


@pytest.mark.parametrize("device", ["", "eth0"])
@pytest.mark.parametrize("guess", ["0x539", "0x1539", "0x111", "0x1111", "the agent's but for a bit", "its last bits"])
def test_a_process_with_net_raw_alone_gets_out_by_no_mark_that_it_can_think_of(
    captured: Captured, version: int, guess: str, device: str
) -> None:
    mark = {"the agent's but for a bit": captured.mark() ^ 0x10000000, "its last bits": captured.mark() & 0xFFF}.get(
        guess
    )
    given = int(guess, 16) if mark is None else mark
    address = captured.peer.address(version)
    with captured.world.listen(captured.peer, PORT, version) as outside:
        words = (sys.executable, "-c", DIAL_WITH_MARK, address, str(PORT), str(given), device)
        done = captured.world.run(captured.pod, *WITH_NET_RAW, *words)
        assert done.returncode == 0, done.stderr
        outside.settimeout(0)
        with pytest.raises(BlockingIOError):
            outside.accept()
        if device or given & 0xFFF == 0x111:
            assert done.stdout != "connected\n", "what is kept from loopback, or routed like a reply, gets nowhere"
        else:
            assert done.stdout == "connected\n"
            assert _accepted(captured.listening[f"outbound{version}"]) == (address, PORT)


def test_two_pods_have_two_marks(captured: Captured) -> None:
    key = agent_mark.draw()
    there = captured.world.inside(captured.peer, lambda: agent_mark.mark_of_namespace(key))
    assert there not in {captured.mark(), 0}
    with captured.world.listen(captured.peer, PORT):
        assert captured.goes_to(4, captured.peer.ipv4, PORT, there) == (captured.peer.ipv4, PORT)


def drops(mark: int) -> bytes:
    """A classic BPF program that lets nothing pass with this mark (SKF_AD_MARK of linux/filter.h)."""
    load, jump, give = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 0xFFFFF000 + 20), (jump, 0, 1, mark), (give, 0, 0, 0), (give, 0, 0, 0xFFFFFFFF)]
    return b"".join(struct.pack("HBBI", *each) for each in program)


def attach(sock: socket.socket, program: bytes) -> None:
    """A filter on a socket, for which nobody needs a privilege (SO_ATTACH_FILTER, socket(7))."""
    kept = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", len(program) // 8, ctypes.addressof(kept)))


@pytest.mark.parametrize("seen_by", ["filter", "accepted socket"])
def test_the_application_is_not_shown_the_mark_of_a_transparent_leg(
    captured: Captured, version: int, seen_by: str
) -> None:
    # A socket filter tells its owner any packet's mark; tcp_fwmark_accept gives it to what is accepted (ip-sysctl).
    inside(captured.pod, "sysctl", "-qw", f"net.ipv4.tcp_fwmark_accept={int(seen_by != 'filter')}")
    with captured.world.listen(captured.pod, PORT, version) as application:
        if seen_by == "filter":
            attach(application, drops(captured.mark()))
        with transparent_leg(captured, version, 45679) as leg:
            served, _ = application.accept()
            with served:
                assert served.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0
                leg.sendall(b"question")
                served.settimeout(SOON)
                assert served.recv(100) == b"question"
    inside(captured.pod, "sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=0")


def test_whoever_looks_at_the_device_is_not_shown_the_mark(captured: Captured, version: int) -> None:
    ethernet_all = 3
    for device in ("eth0", "lo"):
        tap = captured.world.inside(captured.pod, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        with (
            tap,
            captured.world.listen(captured.peer, PORT, version),
            captured.world.listen(captured.pod, PORT, version),
        ):
            attach(tap, drops(captured.mark()))
            tap.bind((device, ethernet_all))
            tap.settimeout(SOON)
            leg = (
                agents_leg(captured, captured.peer.address(version))
                if device == "eth0"
                else transparent_leg(captured, version, 45680)
            )
            with leg:
                leg.sendall(b"a question with the agent's mark")
                while b"a question with the agent's mark" not in tap.recv(2000):
                    continue


def test_another_mark_hides_nothing(captured: Captured, version: int) -> None:
    assert captured.goes_to(version, captured.peer.address(version), PORT, 0x53A) is not None


def test_udp_passes(captured: Captured, version: int) -> None:
    with (
        captured.world.open_socket(captured.peer, version, socket.SOCK_DGRAM) as server,
        captured.world.open_socket(captured.pod, version, socket.SOCK_DGRAM) as client,
    ):
        server.bind((captured.peer.address(version), PORT))
        client.sendto(b"datagram", (captured.peer.address(version), PORT))
        data, source = server.recvfrom(100)
        assert data == b"datagram"
        assert source[0] == captured.pod.address(version)


def test_a_leg_from_the_clients_own_address_reaches_the_application_and_its_replies_come_back(
    captured: Captured, version: int
) -> None:
    client = captured.peer.address(version)
    with (
        captured.world.listen(captured.pod, PORT, version) as application,
        transparent_leg(captured, version, 45678) as leg,
    ):
        served, seen = application.accept()
        with served:
            assert seen[:2] == (client, 45678)
            leg.sendall(b"question")
            assert served.recv(100) == b"question"
            served.sendall(b"answer")
            assert leg.recv(100) == b"answer"


@pytest.mark.parametrize("ended_by", ["peer", "agent"])
def test_what_the_pod_dials_from_the_port_of_a_leg_that_was_reset_is_captured(
    captured: Captured, version: int, ended_by: str
) -> None:
    # The kernel lets the port be used again at once, while conntrack still knows the leg's four numbers, uncaptured.
    address = captured.peer.address(version)
    with captured.world.listen(captured.peer, PORT, version) as listener:
        leg = agents_leg(captured, address)
        port = leg.getsockname()[1]
        served, _ = listener.accept()
        served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        if ended_by == "peer":
            served.close()
            with pytest.raises(ConnectionResetError):
                leg.recv(1)
        leg.close()
        served.close()
        assert captured.goes_to(version, address, PORT, source_port=port) == (address, PORT)


@pytest.mark.parametrize("leg_is", ["open", "reset by the application", "reset by the agent"])
def test_what_dials_the_pod_from_the_port_of_a_transparent_leg_is_captured(
    captured: Captured, version: int, leg_is: str
) -> None:
    # A client chooses its port: none may carry it past the agent.
    with (
        captured.world.listen(captured.pod, PORT, version) as application,
        transparent_leg(captured, version, 45678) as leg,
    ):
        served, _ = application.accept()
        with served:
            if leg_is == "reset by the application":
                served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                served.close()
                with pytest.raises(ConnectionResetError):
                    leg.recv(1)
            elif leg_is == "reset by the agent":
                leg.close()
            address = captured.pod.address(version)
            assert captured.comes_from(captured.peer, version, PORT, source_port=45678) == (address, PORT)
            if leg_is == "open":
                leg.sendall(b"still")
                assert served.recv(100) == b"still", "and the leg does not notice"


def test_what_conntrack_cannot_place_passes_uncaptured_neither_way(captured: Captured, version: int) -> None:
    # A server that resets the agent's leg, and dials from its own port where an application now has the leg's.
    with captured.world.listen(captured.peer, PORT, version) as listener:
        leg = agents_leg(captured, captured.peer.address(version))
        port = leg.getsockname()[1]
        served, _ = listener.accept()
        served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        served.close()
        with pytest.raises(ConnectionResetError):
            leg.recv(1)
        leg.close()
    with (
        captured.world.listen(captured.pod, port, version) as application,
        captured.world.open_socket(captured.peer, version) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", PORT))
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.connect((captured.pod.address(version), port))
        application.settimeout(0)
        with pytest.raises(BlockingIOError):
            application.accept()


def sequence_numbers(sock: socket.socket) -> tuple[int, int]:
    """The next that a socket sends, and the next that it expects (tcp(7) has no word of TCP_REPAIR; linux/tcp.h)."""
    repair, repair_queue, queue_seq, off = 19, 20, 21, -1
    sock.setsockopt(socket.IPPROTO_TCP, repair, 1)
    found = []
    for queue in (2, 1):  # send, receive
        sock.setsockopt(socket.IPPROTO_TCP, repair_queue, queue)
        found.append(sock.getsockopt(socket.IPPROTO_TCP, queue_seq) & 0xFFFFFFFF)
    sock.setsockopt(socket.IPPROTO_TCP, repair, off)
    return found[0], found[1]


def forged(source: tuple[str, int], destination: tuple[str, int], seq: int, ack: int, payload: bytes) -> bytes:
    """An IPv4 packet with data (PSH, ACK) that nobody's TCP made."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])

    def tcp(checksum: int) -> bytes:
        return struct.pack("!HHIIBBHHH", source[1], destination[1], seq, ack, 5 << 4, 0x18, 500, checksum, 0) + payload

    data = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20 + len(payload)) + tcp(0)
    total = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(payload), 1, 0, 64, socket.IPPROTO_TCP, 0)  # the kernel sums it
    return head + addresses + tcp(~total & 0xFFFF)


def test_nobody_on_the_wire_can_put_bytes_into_a_transparent_leg(captured: Captured) -> None:
    # Whoever knows the leg's sequence numbers sends what conntrack takes for a strange part of the captured connection.
    peer, pod = captured.peer.ipv4, captured.pod.ipv4
    with (
        captured.world.open_socket(captured.peer) as client,
        captured.world.listen(captured.pod, PORT) as application,
    ):
        client.connect((pod, PORT))
        captured.listening["inbound4"].setblocking(True)
        held, (_, port) = captured.listening["inbound4"].accept()
        time.sleep(0.05)  # initial numbers grow with time (RFC 6528): now the leg's are outside of the client's window
        with held, transparent_leg(captured, 4, port) as leg:
            served, seen = application.accept()
            assert seen == (peer, port), "the leg has the client's own port"
            packet = forged((peer, port), (pod, PORT), *sequence_numbers(leg), b"injected")
            raw = captured.world.inside(
                captured.peer, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            )
            with served, raw:
                served.settimeout(SOON)
                raw.sendto(packet, (pod, 0))
                client.sendall(b"after")  # the same way, and later: so the forged one is over when this is there
                assert held.recv(100) == b"after"
                leg.sendall(b"the leg's own")
                assert served.recv(100) == b"the leg's own"
