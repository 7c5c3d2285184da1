"""Nat rules of a pod's own that come before ours, and divert TCP: they are named, because what they divert is refused.

Rules of iptables' own tables never come before ours: where ours are there too, ours are first, and our nft chains come
before all of iptables'. So nft's tables are looked at, to which those of iptables-nft belong: by netlink
(linux/netfilter/nf_tables.h), a fraction of a millisecond where there are none; nft(8) is asked for words only.

Advice, and no guard: what cannot be looked at is not named, and is refused all the same.
"""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from init.netfilter import (
    DATAGRAM_BYTES,
    DONE,
    DUMP,
    ERROR,
    GENERAL_BYTES,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    attributes,
    message,
    messages,
    pairs,
)
from init.nft import TABLE

GET_CHAIN, GET_RULE = 0x0A04, 0x0A07
"""NFNL_SUBSYS_NFTABLES with NFT_MSG_GETCHAIN, NFT_MSG_GETRULE."""
CHAIN_TABLE, CHAIN_HOOK, CHAIN_TYPE = 1, 4, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS = 1, 2, 3, 4
EXPRESSION_NAME, EXPRESSION_DATA = 1, 2
DIVERTS_AT = (0, 3)
"""NF_INET_PRE_ROUTING and NF_INET_LOCAL_OUT: where nat decides about destinations."""
DIVERTING_TARGETS = {b"DNAT", b"REDIRECT", b"NETMAP"}
"""Of iptables' own, which iptables-nft uses by their names (xt)."""
FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
MESSAGES = 4096
"""What is read of one namespace's tables."""
NAMED = 4
"""How many rules are named of one pod."""
SHOWN_CHARACTERS = 160
ANSWER_SECONDS = 1.0


class Diversion(NamedTuple):
    """A rule that diverts: where it is, and its number there."""

    family: str
    table: str
    chain: str
    handle: int


def diverting(before: int | None) -> list[str]:
    """In words, the rules of others in the current namespace that divert TCP before ours do.

    Nat chains with a priority above `before` come after ours; None: any may come first.
    """
    try:
        found = _found(before)
    except OSError:  # a kernel without nf_tables has none; else they are not named, and refused all the same
        return []
    words = [f"{each.family} {each.table} {each.chain}: {_words(each)}" for each in found[:NAMED]]
    return [*words, f"{len(found) - NAMED} more"] if len(found) > NAMED else words


def _found(before: int | None) -> list[Diversion]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.bind((0, 0))
        tables = {}
        for family, body in _dump(sock, GET_CHAIN, socket.AF_UNSPEC, b""):
            if (table := table_of_nat(body, before)) not in {None, TABLE} and family in FAMILIES:
                tables[family, table] = True
        found = []
        for family, table in tables:
            name = attribute(RULE_TABLE, table.encode() + b"\0")
            for of, body in _dump(sock, GET_RULE, family, name):
                found += [] if of != family else diversions(FAMILIES[family], body)
    return found


def _dump(sock: socket.socket, kind: int, family: int, which: bytes) -> Iterator[tuple[int, bytes]]:
    """Family and attributes of each object. Raises OSError."""
    sock.send(message(kind, REQUEST | DUMP, family, which))
    left = MESSAGES
    while True:
        for answer, body in messages(sock.recv(DATAGRAM_BYTES)):
            if answer == DONE:
                return
            if answer == ERROR:
                raise OSError("nf_tables does not answer")
            left -= 1
            if left > 0:
                yield body[0], body[GENERAL_BYTES:]


def table_of_nat(chain: bytes, before: int | None) -> str | None:
    """The table of a chain that may translate a destination before we do; None of any other chain. Pure."""
    found = attributes(chain)
    hook = attributes(found.get(CHAIN_HOOK, b""))
    if _text(found.get(CHAIN_TYPE, b"")) != "nat" or _number(hook.get(HOOK_NUMBER, b"")) not in DIVERTS_AT:
        return None
    priority = int.from_bytes(hook.get(HOOK_PRIORITY, b""), "big", signed=True)
    return _text(found.get(CHAIN_TABLE, b"")) if before is None or priority <= before else None


def diversions(family: str, rule: bytes) -> list[Diversion]:
    """The rule, if it changes the destination of TCP. Pure."""
    found = attributes(rule)
    expressions = [attributes(body) for _, body in pairs(found.get(RULE_EXPRESSIONS, b""))]
    named = [
        (_text(each.get(EXPRESSION_NAME, b"")), attributes(each.get(EXPRESSION_DATA, b""))) for each in expressions
    ]
    if not any(_diverts(name, data) for name, data in named) or _is_of_another_protocol(named):
        return []
    table, chain = (_text(found.get(kind, b"")) for kind in (RULE_TABLE, RULE_CHAIN))
    return [] if table == TABLE else [Diversion(family, table, chain, _number(found.get(RULE_HANDLE, b"")))]


def _diverts(name: str, data: dict[int, bytes]) -> bool:
    match name:
        case "redir":
            return True
        case "nat":
            return _number(data.get(1, b"")) == 1  # NFTA_NAT_TYPE: NFT_NAT_DNAT
        case "target":
            return data.get(1, b"").rstrip(b"\0") in DIVERTING_TARGETS  # NFTA_TARGET_NAME
    return False


def _is_of_another_protocol(named: list[tuple[str, dict[int, bytes]]]) -> bool:
    """Whether the protocol is asked for, and is not TCP: the load of it is followed by the comparison."""
    for (name, data), (then, compared) in pairwise(named):
        if name == "meta" and _number(data.get(2, b"")) == 16 and then == "cmp":  # NFT_META_L4PROTO
            value = attributes(compared.get(3, b"")).get(1, b"")  # NFTA_CMP_DATA, NFTA_DATA_VALUE
            if _number(compared.get(2, b"")) == 0 and value[:1] != bytes([socket.IPPROTO_TCP]):  # NFT_CMP_EQ
                return True
    return False


def _words(each: Diversion) -> str:
    try:
        listed = subprocess.run(
            ["nft", "-a", "list", "chain", each.family, each.table, each.chain],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        listed = ""
    line = re.search(rf"^\s*(.*) # handle {each.handle}$", listed, re.MULTILINE)
    return line[1][:SHOWN_CHARACTERS] if line else f"rule with handle {each.handle}"


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
