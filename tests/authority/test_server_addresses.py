"""Where the authority listens: at one address, or at every one of both families."""

import socket

import pytest

from agent.authority import server


@pytest.mark.parametrize("dialled", ["127.0.0.1", "::1"])
def test_a_socket_for_every_address_takes_callers_of_both_families(dialled: str) -> None:
    with server._socket("") as sock:
        sock.bind(("::", 0))
        sock.listen()
        with socket.create_connection((dialled, sock.getsockname()[1]), timeout=5):
            accepted, _ = sock.accept()
            accepted.close()


def test_on_a_machine_without_ipv6_it_is_every_address_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with server._socket("") as sock:
        assert sock.family == socket.AF_INET
    with pytest.raises(OSError, match="not supported"):
        server._socket("::1")
