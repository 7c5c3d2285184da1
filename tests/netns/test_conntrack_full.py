"""A pod's conntrack table filled up: nothing new gets in or out, past the agent neither, and somebody hears of it."""

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, ItemsView
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from init.netfilter import (
    DATAGRAM_BYTES,
    ERROR,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    message,
    messages,
)
from tests.netns.policies import reaches
from tests.netns.world import MARKER, SOON, Echo, World, alive

PORT = 7000
NESTED = 0x8000
CT_NEW, CT_DELETE = 0x0100, 0x0102
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_DELETE (linux/netfilter/nfnetlink_conntrack.h)."""
CREATE, EXCLUSIVE = 0x400, 0x200
STATUS = struct.pack("!I", 0x2 | 0x4 | 0x8)
"""IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED: what the kernel does not throw away to make room."""
SECONDS = struct.pack("!I", 600)
ESTABLISHED = b"\x03"
HERE = socket.inet_aton("198.18.0.1")
SOURCE = b"addr"
"""Stands in a template for the address that differs."""
FIRST_SOURCE = 0xF0000000
"""240.0.0.0, which nobody has."""
AT_ONCE = 256
FREED = 4096


def _tuple(source: bytes, destination: bytes) -> bytes:
    ports = attribute(2, b"\0\x09") + attribute(3, b"\0\x09")
    return attribute(1 | NESTED, attribute(1, source) + attribute(2, destination)) + attribute(
        2 | NESTED, attribute(1, b"\x06") + ports
    )


_NAMED = attribute(1 | NESTED, _tuple(SOURCE, HERE))
_STATE = attribute(4 | NESTED, attribute(1 | NESTED, attribute(1, ESTABLISHED)))
_ENTRY = message(
    CT_NEW,
    REQUEST | CREATE | EXCLUSIVE,
    socket.AF_INET,
    _NAMED + attribute(2 | NESTED, _tuple(HERE, SOURCE)) + attribute(3, STATUS) + attribute(7, SECONDS) + _STATE,
)
_DELETION = message(CT_DELETE, REQUEST, socket.AF_INET, _NAMED)


def numbered(template: bytes, number: int) -> bytes:
    """What is about one of many connections."""
    return template.replace(SOURCE, (FIRST_SOURCE + number).to_bytes(4, "big"))


def fill(limit: int) -> None:
    """Connections that nobody has, until the kernel takes no more; in the calling thread's namespace."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        for first in range(0, limit + AT_ONCE, AT_ONCE):
            sock.send(b"".join(numbered(_ENTRY, number) for number in range(first, first + AT_ONCE)))
            try:
                while True:
                    if any(kind == ERROR for kind, _ in messages(sock.recv(DATAGRAM_BYTES))):
                        return
            except BlockingIOError:
                continue
    pytest.fail(f"{limit} entries, and it takes more")


def _has(wanted: ItemsView[str, str], line: dict[str, Any]) -> bool:
    return wanted <= line.items()


def free() -> None:
    """Takes some of them away."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        for number in range(FREED):
            sock.send(numbered(_DELETION, number))


def test_in_a_full_table_nothing_new_gets_through_and_what_is_open_goes_on(make_world: Callable[..., World]) -> None:
    world = make_world("--egress-mode=meshed-only", workers=1)
    client, server, outside = world.pod("client"), world.pod("server"), world.stranger("outside")
    echoes = [Echo(world, player, PORT) for player in (server, outside)]
    world.start()
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    with world.wire() as wire, world.connect(client, server.ipv4, PORT) as held, contextlib.ExitStack() as trying:
        assert alive(held)
        for player in (client, server):
            world.inside(player, lambda: fill(limit))
        for who, address in ((client, server.ipv4), (client, outside.ipv4), (outside, server.ipv4)):
            sock = trying.enter_context(world.open_socket(who))
            sock.setblocking(False)
            assert sock.connect_ex((address, PORT)) == errno.EINPROGRESS
        for player in (client, server):
            wanted = {"event": "conntrack", "pod": f"demo/{player.name}"}.items()
            said = world.mesh.wait_for_log(partial(_has, wanted), SOON)
            assert said is not None, world.mesh.last_words()
            assert "Raise the sysctl net.netfilter.nf_conntrack_max" in said["msg"]
        world.until(lambda: world.count("quietwire_conntrack_used_ratio") > 0.9, "and the metric says so")
        assert alive(held), "all the while"
        trying.close()
        assert [len(echo.peers) for echo in echoes] == [1, 0]
        for player in (client, server):
            world.inside(player, free)
        assert reaches(world, client, server.ipv4, PORT), "there is room"
        assert not reaches(world, client, outside.ipv4, PORT)
        assert alive(held)
    for echo in echoes:
        echo.close()
    assert not wire.contains(MARKER)
    assert echoes[1].peers == []
