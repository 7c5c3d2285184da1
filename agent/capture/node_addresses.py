"""The addresses of the node itself: from there its kubelet probes the pods."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable

from pyroute2 import IPRoute

log = logging.getLogger("quietwire.node")

SETTLE_SECONDS = 0.1
"""Addresses come in bursts, with every pod that another agent makes: how long one is left to end."""
RETRY_SECONDS = 1.0
"""After addresses could not be read."""

_GROUPS = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR, rtnetlink(7)."""
_MESSAGE_BYTES = 65536


def node_addresses() -> tuple[str, ...]:
    """Every address on an interface of the calling thread's namespace, but for loopback and link-local ones."""
    found = set()
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            if text is None:
                continue
            address = ipaddress.ip_address(text)
            if not address.is_loopback and not address.is_link_local:
                found.add(str(address))
    return tuple(sorted(found))


async def follow(known: tuple[str, ...], changed: Callable[[tuple[str, ...]], None]) -> None:
    """Calls `changed` each time that the addresses are others than before, within moments. Runs until cancelled.

    What the kernel says on its netlink socket only rings a bell, and so may be lost (ENOBUFS) without harm: all are
    read anew, on a thread, because pyroute2 cannot be used on uvloop's.
    """
    loop = asyncio.get_running_loop()
    bell = asyncio.Event()
    bell.set()  # something may have changed before anybody listened
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as events:
        events.bind((0, _GROUPS))
        loop.add_reader(events, _drain, events, bell)
        try:
            while True:
                await bell.wait()
                await asyncio.sleep(SETTLE_SECONDS)
                bell.clear()
                try:
                    found = await asyncio.to_thread(node_addresses)
                except OSError as error:
                    log.error("this node's addresses cannot be read (%s): those that were known stay", error)
                    await asyncio.sleep(RETRY_SECONDS)
                    bell.set()
                    continue
                if found != known:
                    known = found
                    changed(found)
        finally:
            loop.remove_reader(events)


def _drain(events: socket.socket, bell: asyncio.Event) -> None:
    bell.set()
    try:
        while events.recv(_MESSAGE_BYTES):
            continue
    except OSError:
        return  # nothing more, or ENOBUFS: some were lost, and the bell has rung
