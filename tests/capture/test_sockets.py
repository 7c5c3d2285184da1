"""The native calls on sockets, on loopback; in namespaces, with rules: tests/netns/test_capture.py."""

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from agent.capture._sockets import prepare
from agent.capture.sockets import at_end, cork, ends, finish_on_close, has_died, reset_on_close

TCP_RTO_MAX_MS = 44
"""linux/tcp.h, Linux 6.15."""


def option_of(sock: socket.socket, level: int, option: int) -> int | None:
    """A socket's option; None where the kernel does not know it."""
    try:
        return sock.getsockopt(level, option)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return None


@contextlib.contextmanager
def pair(address: str, listens_on: str | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection, and the accepted one."""
    family = socket.AF_INET6 if ":" in (listens_on or address) else socket.AF_INET
    with socket.create_server((listens_on or address, 0), family=family, dualstack_ipv6=listens_on == "::") as server:
        client = socket.create_connection((address, server.getsockname()[1]))
        accepted, _ = server.accept()
        with client, accepted:
            yield client, accepted


@pytest.mark.parametrize(
    ("dialled", "listens_on"), [("127.0.0.1", None), ("::1", None), ("127.0.0.1", "::"), ("127.0.0.2", "0.0.0.0")]
)
def test_the_ends_of_a_connection_that_was_not_redirected(dialled: str, listens_on: str | None) -> None:
    with pair(dialled, listens_on) as (client, accepted):
        peer, own, original = ends(accepted.fileno())
        assert peer == client.getsockname()[:2], "plain, also where it came mapped"
        assert own == client.getpeername()[:2]
        assert original == own, "conntrack knows of no other"


def test_a_connection_that_was_reset_before_it_was_accepted_has_no_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        accepted, _ = server.accept()
        with accepted, pytest.raises(OSError, match=rf"\[Errno {errno.ENOTCONN}\]"):
            ends(accepted.fileno())


def test_what_is_no_socket_is_an_error_with_its_number() -> None:
    reads, writes = os.pipe()
    try:
        for call in (ends, cork, finish_on_close, reset_on_close):
            with pytest.raises(OSError, match=rf"\[Errno {errno.ENOTSOCK}\]"):
                call(reads)
    finally:
        os.close(reads)
        os.close(writes)


def test_what_is_corked_comes_with_the_end_of_the_stream() -> None:
    with pair("127.0.0.1") as (client, accepted):
        cork(client.fileno())
        client.sendall(b"last words")
        accepted.setblocking(False)
        with pytest.raises(BlockingIOError):
            accepted.recv(100)
        client.close()
        accepted.settimeout(10)
        assert accepted.recv(100) == b"last words"
        assert accepted.recv(100) == b""


def test_an_accepted_socket_inherits_what_its_listener_was_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        prepare(server.fileno())
        with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
            options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.SOL_SOCKET, socket.SO_OOBINLINE)]
            tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_NODELAY, TCP_RTO_MAX_MS)
            options += [(socket.IPPROTO_TCP, option) for option in tcp]

            assert [option_of(accepted, *option) for option in options] == [
                option_of(server, *option) for option in options
            ]
            assert option_of(accepted, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert option_of(client, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_a_socket_that_would_reset_on_close_finishes_once_it_is_told_to() -> None:
    for finishes in (False, True):
        with pair("127.0.0.1") as (client, accepted):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if finishes:
                finish_on_close(client.fileno())
            client.close()
            accepted.settimeout(10)
            if finishes:
                assert accepted.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    accepted.recv(1)


def test_a_connection_that_its_peer_reset_has_died() -> None:
    with pair("127.0.0.1") as (client, accepted):
        assert not has_died(accepted.fileno())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert has_died(accepted.fileno())


def test_the_end_is_seen_once_all_has_been_read_and_not_before() -> None:
    with pair("127.0.0.1") as (client, accepted):
        accepted.settimeout(10)
        assert not at_end(accepted.fileno()), "nothing has come"
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1, socket.MSG_PEEK) == b"x"
        assert not at_end(accepted.fileno()), "something is there to read"
        assert accepted.recv(1) == b"x"
        assert accepted.recv(1, socket.MSG_PEEK) == b""
        assert at_end(accepted.fileno())
        assert accepted.recv(1) == b"", "and it is still to be read"


def test_a_reset_is_no_end_and_whoever_asks_does_not_hear_it_in_place_of_the_reader() -> None:
    with pair("127.0.0.1") as (client, accepted):
        accepted.settimeout(10)
        client.sendall(b"half an answer")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert accepted.recv(100) == b"half an answer"
        assert not at_end(accepted.fileno())
        assert has_died(accepted.fileno())
        with pytest.raises(ConnectionResetError):
            accepted.recv(100)


def test_a_connection_that_both_ends_have_closed_lives_as_long_as_there_is_something_to_read() -> None:
    with pair("127.0.0.1") as (client, accepted):
        accepted.settimeout(10)
        accepted.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        client.sendall(bytes(50_000))
        client.close()
        assert accepted.recv(1) == b"\0"
        assert not has_died(accepted.fileno()), "though its state is CLOSED"
        assert not at_end(accepted.fileno())
        assert len(accepted.recv(100_000, socket.MSG_WAITALL)) == 49_999
        assert at_end(accepted.fileno())


def test_what_lies_behind_urgent_data_is_no_end_and_is_not_lost() -> None:
    with pair("127.0.0.1") as (client, accepted):
        prepare(accepted.fileno())
        accepted.settimeout(10)
        client.sendall(b"A")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"CDE")
        client.shutdown(socket.SHUT_WR)
        arrived = select.poll()
        arrived.register(accepted, select.POLLRDHUP)
        assert arrived.poll(10_000)
        assert accepted.recv(1) == b"A"
        assert not at_end(accepted.fileno())
        assert accepted.recv(100) == b"!CDE"
        assert at_end(accepted.fileno())


def test_the_texts_of_one_address_are_one() -> None:
    shown = []
    for _ in range(2):
        with pair("127.0.0.1") as (_, accepted):
            shown.append(ends(accepted.fileno())[0][0])
    assert shown[0] is shown[1]
