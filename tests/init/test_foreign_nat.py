"""What nf_tables says of chains and rules, taken apart; with a kernel: tests/netns/test_foreign_nat.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from init.foreign_nat import Diversion, diversions, table_of_nat
from init.netfilter import attribute


def chain(table: str, kind: str, hook: int, priority: int) -> bytes:
    where = attribute(1, hook.to_bytes(4, "big")) + attribute(2, priority.to_bytes(4, "big", signed=True))
    return attribute(1, table.encode() + b"\0") + attribute(4, where) + attribute(7, kind.encode() + b"\0")


def expression(name: str, *data: tuple[int, bytes]) -> bytes:
    inside = b"".join(attribute(kind, value) for kind, value in data)
    return attribute(1, attribute(1, name.encode() + b"\0") + attribute(2, inside))


def protocol(number: int) -> bytes:
    loaded = expression("meta", (2, (16).to_bytes(4, "big")))
    return loaded + expression("cmp", (2, bytes(4)), (3, attribute(1, bytes([number]))))


def rule(*expressions: bytes, table: str = "vpn") -> bytes:
    names = attribute(1, table.encode() + b"\0") + attribute(2, b"out\0") + attribute(3, (7).to_bytes(8, "big"))
    return names + attribute(4, b"".join(expressions))


REDIRECT = expression("redir")


@pytest.mark.parametrize(
    ("expressions", "diverts"),
    [
        ((REDIRECT,), True),
        ((protocol(6), REDIRECT), True),
        ((protocol(17), REDIRECT), False),
        ((expression("nat", (1, (1).to_bytes(4, "big"))),), True),
        ((expression("nat", (1, bytes(4))),), False),
        ((expression("masq"),), False),
        ((expression("target", (1, b"DNAT\0")),), True),
        ((expression("target", (1, b"MASQUERADE\0")),), False),
        ((), False),
    ],
)
def test_what_changes_the_destination_of_tcp_diverts(expressions: tuple[bytes, ...], *, diverts: bool) -> None:
    wanted = [Diversion("ip", "vpn", "out", 7)] if diverts else []
    assert diversions("ip", rule(*expressions)) == wanted


def test_our_own_rules_are_nobodys_else() -> None:
    assert diversions("ip", rule(REDIRECT, table="quietwire")) == []


@pytest.mark.parametrize(
    ("given_chain", "before", "table"),
    [
        (("vpn", "nat", 3, -100), None, "vpn"),
        (("vpn", "nat", 0, -199), -199, "vpn"),
        (("vpn", "nat", 0, -198), -199, None),
        (("vpn", "nat", 4, -199), None, None),
        (("vpn", "filter", 0, -199), None, None),
    ],
)
def test_nat_chains_count_where_destinations_are_decided_and_ours_come_later(
    given_chain: tuple[str, str, int, int], before: int | None, table: str | None
) -> None:
    assert table_of_nat(chain(*given_chain), before) == table


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    assert diversions("ip", data) == []
    assert table_of_nat(data, None) is None
