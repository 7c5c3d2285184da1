"""The rule model against what the rules are for, told again as naively as possible."""

import dataclasses
import ipaddress
import itertools
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from init import legacy, nft
from init.constants import CONNTRACK_ZONE, REPLY_MARK, STAND_IN_MARK
from init.model import (
    MULTIPORT_LIMIT,
    Family,
    Hook,
    Listener,
    OptionError,
    Options,
    Packet,
    Ports,
    Verdict,
    chains,
    multiport,
    parse_ports,
)

MARK = 0x9E3779B9
"""An agent's."""
marks = st.sampled_from([0, MARK, REPLY_MARK, 0x539, MARK & 0xFFF, MARK ^ 0x80000000, MARK + 1, 0x1000 | REPLY_MARK])

ports = st.integers(1, 65535)
ranges = st.tuples(ports, ports).map(lambda pair: (min(pair), max(pair)))
few_ports = st.lists(st.one_of(ranges, ports.map(lambda port: (port, port))), max_size=40).map(tuple)
addresses = {
    Family.IPV4: st.ip_addresses(v=4).map(str),
    Family.IPV6: st.ip_addresses(v=6).map(str),
}


@st.composite
def subnets(draw: st.DrawFn) -> str:
    address = draw(st.ip_addresses())
    return str(ipaddress.ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False))


options = st.builds(
    Options,
    skip_inbound_ports=few_ports,
    skip_outbound_ports=few_ports,
    skip_inbound_subnets=st.lists(subnets(), max_size=5).map(tuple),
    skip_outbound_subnets=st.lists(subnets(), max_size=5).map(tuple),
    probe_ports=few_ports,
    probe_sources=st.lists(subnets(), max_size=3).map(tuple),
    mark=st.sampled_from([None, MARK]),
)


def edges(given_ports: tuple[Ports, ...]) -> list[int]:
    """Ports at which something could change."""
    return [port for first, last in given_ports for port in (first - 1, first, last, last + 1) if 1 <= port <= 65535]


def in_any(port: int, skipped: tuple[Ports, ...]) -> bool:
    return any(port in range(first, last + 1) for first, last in skipped)


def in_any_subnet(address: str, skipped: tuple[str, ...]) -> bool:
    parsed = ipaddress.ip_address(address)
    for text in skipped:
        network = ipaddress.ip_network(text)
        if network.version == parsed.version and int(network.network_address) <= int(parsed) <= int(
            network.broadcast_address
        ):
            return True
    return False


def naive_outbound(packet: Packet, given_options: Options) -> bool:
    """Whether a packet that leaves the pod must be captured."""
    if packet.mark == given_options.mark or packet.out_loopback:
        return False
    return not in_any(packet.port, given_options.skip_outbound_ports) and not in_any_subnet(
        packet.destination, given_options.skip_outbound_subnets
    )


def naive_inbound(packet: Packet, given_options: Options) -> bool:
    """Whether a packet that comes into the pod must be captured."""
    return not naive_probe(packet, given_options) and naive_stranger(packet, given_options)


def naive_probe(packet: Packet, given_options: Options) -> bool:
    """Whether it is one of the kubelet's."""
    return in_any(packet.port, given_options.probe_ports) and in_any_subnet(packet.source, given_options.probe_sources)


def naive_stranger(packet: Packet, given_options: Options) -> bool:
    """Whether what is no probe must be captured."""
    return not in_any(packet.port, given_options.skip_inbound_ports) and not in_any_subnet(
        packet.source, given_options.skip_inbound_subnets
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Options, Family, Packet]:
    chosen = draw(options)
    family = draw(st.sampled_from(Family))
    interesting = edges(chosen.skip_inbound_ports + chosen.skip_outbound_ports + chosen.probe_ports)
    inside = [
        str(ipaddress.ip_network(text)[0])
        for text in chosen.skip_inbound_subnets + chosen.skip_outbound_subnets + chosen.probe_sources
        if ipaddress.ip_network(text).version == family.value
    ]
    anywhere = st.one_of(addresses[family], st.sampled_from(inside)) if inside else addresses[family]
    packet = Packet(
        source=draw(anywhere),
        destination=draw(anywhere),
        port=draw(st.one_of(ports, st.sampled_from(interesting)) if interesting else ports),
        mark=draw(marks),
        out_loopback=draw(st.booleans()),
    )
    return chosen, family, packet


@given(cases())
def test_the_chains_capture_what_must_be_captured_and_nothing_else(case: tuple[Options, Family, Packet]) -> None:
    chosen, family, packet = case
    by_hook = {chain.hook: chain for chain in chains(family, chosen)}
    for hook, naive, port in (
        (Hook.NAT_OUTPUT, naive_outbound, chosen.outbound_port),
        (Hook.NAT_PREROUTING, naive_inbound, chosen.inbound_port),
    ):
        *_, rule = by_hook[hook].evaluate(packet)
        assert (rule.verdict is Verdict.REDIRECT) == naive(packet, chosen)
        if rule.verdict is Verdict.REDIRECT:
            assert rule.port == port


AGENTS = Options(mark=MARK)


def verdicts(
    hook: Hook, packet: Packet, given_options: Options = AGENTS, family: Family = Family.IPV4
) -> list[Verdict]:
    """What a chain does with a packet."""
    (chain,) = (chain for chain in chains(family, given_options) if chain.hook is hook)
    return [rule.verdict for rule in chain.evaluate(packet)]


@given(marks, st.sampled_from([0, REPLY_MARK, 0x1111, 0x539]), st.booleans())
def test_replies_to_what_the_agent_alone_dialled_over_loopback_are_marked(
    mark: int,
    connmark: int,
    out_loopback: bool,
) -> None:
    packet = Packet("192.0.2.1", "192.0.2.2", 80, mark=mark, connmark=connmark, out_loopback=out_loopback)
    assert (Verdict.REMEMBER in verdicts(Hook.NAT_OUTPUT, packet)) == (mark == MARK and out_loopback)
    assert (verdicts(Hook.MANGLE_OUTPUT, packet) == [Verdict.MARK_REPLY]) == (connmark % 4096 == REPLY_MARK)


@pytest.mark.parametrize(
    ("source", "foreign", "out_loopback", "done"),
    [
        ("250.1.0.2", True, False, [Verdict.STAND_IN, Verdict.LEAVE]),
        ("250.1.0.2", False, False, [Verdict.LEAVE]),
        ("250.1.0.2", True, True, [Verdict.STAND_IN, Verdict.REMEMBER, Verdict.AS_DIALLED]),
        ("192.0.2.2", True, True, [Verdict.STAND_IN, Verdict.REMEMBER, Verdict.AS_DIALLED]),
        ("10.1.0.2", False, False, [Verdict.LEAVE]),
    ],
    ids=[
        "a stand-in",
        "a pod that has such an address",
        "a client that has such an address",
        "a client",
        "the pod's own",
    ],
)
def test_a_leg_at_a_stand_ins_address_is_noted_and_no_other(
    source: str, done: list[Verdict], *, foreign: bool, out_loopback: bool
) -> None:
    """The last note of a connection is the one that holds."""
    packet = Packet(source, "10.1.0.1", 80, mark=MARK, source_is_local=not foreign, out_loopback=out_loopback)
    assert verdicts(Hook.NAT_OUTPUT, packet) == done
    assert Verdict.STAND_IN not in verdicts(Hook.NAT_OUTPUT, dataclasses.replace(packet, mark=0))
    assert Verdict.STAND_IN not in verdicts(Hook.NAT_OUTPUT, packet, dataclasses.replace(AGENTS, stand_ins=False))


@given(st.sampled_from([0, REPLY_MARK, STAND_IN_MARK]), st.sampled_from(["250.1.0.2", "10.1.0.2"]))
def test_only_what_was_noted_leaves_from_another_address_and_is_led_back(connmark: int, source: str) -> None:
    noted = connmark == STAND_IN_MARK
    leaves = Packet(source, "10.1.0.1", 80, connmark=connmark)
    assert (verdicts(Hook.NAT_POSTROUTING, leaves) == [Verdict.OWN_ADDRESS]) == (noted and source == "250.1.0.2")
    comes = Packet("10.1.0.1", "10.1.0.2", 40000, connmark=connmark, opens=False)
    assert (verdicts(Hook.MANGLE_RETURNING, comes) == [Verdict.MARK_REPLY]) == noted


@given(marks)
def test_the_agents_mark_is_taken_off_before_anybody_sees_it_and_nobody_elses_is(mark: int) -> None:
    packet = Packet("192.0.2.1", "192.0.2.2", 80, mark=mark)
    assert (verdicts(Hook.MANGLE_POSTROUTING, packet) == [Verdict.UNMARK]) == (mark == MARK)


@given(cases())
def test_without_an_agent_no_mark_excepts_from_anything(case: tuple[Options, Family, Packet]) -> None:
    chosen, family, packet = case
    nobody = dataclasses.replace(chosen, mark=None)
    unmarked = dataclasses.replace(packet, mark=0)
    for hook in Hook:
        assert verdicts(hook, packet, nobody, family) == verdicts(hook, unmarked, nobody, family)
    assert {rule.mark for chain in chains(family, nobody) for rule in (*chain.rules, chain.enter)} == {None}


def test_packets_that_a_chain_is_not_about_are_spared_it() -> None:
    entered = {chain.hook: legacy.jump(chain) for chain in chains(Family.IPV4, AGENTS)}
    for hook in (Hook.RAW_OUTPUT, Hook.MANGLE_POSTROUTING):
        assert entered[hook]["mark"] == {"mark": "0x9e3779b9"}
    for hook in (Hook.MANGLE_INPUT, Hook.MANGLE_FORWARD, Hook.MANGLE_LEAVING):
        assert entered[hook]["tcp"] == {"tcp-flags": ["FIN,SYN,RST,ACK", "SYN"]}
    assert entered[Hook.MANGLE_LEAVING]["out-interface"] == "!lo"
    assert "conntrack" in entered[Hook.MANGLE_PREROUTING]


def translated(draw: st.DrawFn, family: Family) -> Packet:
    """A packet behind nat: where it leads is not where its client dialled."""
    return Packet(
        source=draw(addresses[family]),
        destination=draw(addresses[family]),
        port=draw(st.one_of(ports, st.sampled_from([4140, 4143]))),
        mark=draw(marks),
        connmark=draw(st.sampled_from([0, REPLY_MARK])),
        in_loopback=draw(st.booleans()),
        out_loopback=draw(st.booleans()),
        opens=draw(st.booleans()),
        listener=draw(st.sampled_from(Listener)),
        forwarded=draw(st.booleans()),
        source_is_local=draw(st.booleans()),
    )


@st.composite
def cases_behind_nat(draw: st.DrawFn) -> tuple[Options, Family, Packet]:
    chosen, family, dialled = draw(cases())
    packet = dataclasses.replace(translated(draw, family), source=dialled.source)
    return chosen, family, dataclasses.replace(packet, dialled=(dialled.destination, dialled.port))


@given(cases_behind_nat())
def test_what_opens_a_connection_past_the_agent_is_dropped_whatever_nat_did(
    case: tuple[Options, Family, Packet],
) -> None:
    chosen, family, packet = case
    by_hook = {chain.hook: chain.evaluate(packet) for chain in chains(family, chosen)}
    dropped = {hook: Verdict.DROP in [rule.verdict for rule in acting] for hook, acting in by_hook.items()}
    assert packet.dialled is not None
    as_dialled = dataclasses.replace(packet, destination=packet.dialled[0], port=packet.dialled[1], out_loopback=False)
    skipped = not naive_stranger(as_dialled, chosen)
    assert dropped[Hook.MANGLE_FORWARD] == (packet.opens and not skipped)
    reaches_agent_or_nobody = packet.port in {4140, 4143} and packet.listener is not Listener.OTHER
    reaches_other = packet.port in {4140, 4143} and packet.listener is Listener.OTHER
    own = packet.in_loopback and (packet.source_is_local or packet.connmark == REPLY_MARK)
    passes = reaches_agent_or_nobody or (not reaches_other and (own or skipped or naive_probe(packet, chosen)))
    assert dropped[Hook.MANGLE_INPUT] == (packet.opens and not passes)
    past_capture = naive_outbound(as_dialled, chosen) and not packet.out_loopback and not packet.forwarded
    assert dropped[Hook.MANGLE_LEAVING] == (packet.opens and past_capture)


@pytest.mark.parametrize("words", [legacy.show, nft.show])
def test_the_mark_is_not_told(words: Callable[[Options], str]) -> None:
    shown = words(AGENTS)
    assert "AGENT_MARK" in shown
    assert f"{MARK:x}" not in shown
    assert str(MARK) not in shown


@pytest.mark.parametrize("hook", [Hook.MANGLE_PREROUTING, Hook.MANGLE_OUTPUT])
@pytest.mark.parametrize("mark", [0, MARK, REPLY_MARK])
@pytest.mark.parametrize("reset", [False, True])
def test_what_no_nat_rule_would_see_is_dropped_whoever_sent_it(hook: Hook, mark: int, *, reset: bool) -> None:
    by_hook = {chain.hook: chain for chain in chains(Family.IPV4, Options())}
    acting = by_hook[hook].evaluate(Packet("192.0.2.1", "192.0.2.2", 80, mark=mark, invalid=True, reset=reset))
    dropped = [rule.verdict for rule in acting] == [Verdict.DROP]
    assert dropped == (not reset or hook is Hook.MANGLE_PREROUTING), "resets go out"


@given(marks, st.sampled_from(Family))
def test_what_the_agent_dials_and_nothing_else_is_tracked_in_a_zone_of_its_own(mark: int, family: Family) -> None:
    by_hook = {chain.hook: chain for chain in chains(family, AGENTS)}
    acting = by_hook[Hook.RAW_OUTPUT].evaluate(Packet("192.0.2.1", "192.0.2.2", 80, mark=mark))
    tracked = [(rule.verdict, rule.zone) for rule in acting]
    assert tracked == ([(Verdict.OWN_ZONE, CONNTRACK_ZONE)] if mark == MARK else [])


@given(few_ports)
@example(tuple((port, port) for port in range(2, 100, 2)))
@example(tuple((port, port + 1) for port in range(10, 400, 7)))
def test_multiport_groups_fit_and_hold_the_same_ports(given_ports: tuple[Ports, ...]) -> None:
    groups = multiport(given_ports)
    for group in groups:
        assert sum(1 if first == last else 2 for first, last in group) <= MULTIPORT_LIMIT
    together = [ports for group in groups for ports in group]
    assert together == sorted(together)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(together)), "no port is in two ranges"
    for port in edges(given_ports) + edges(tuple(together)):
        assert in_any(port, tuple(together)) == in_any(port, given_ports)


@given(options, st.sampled_from(Family))
def test_no_subnet_of_one_family_reaches_the_rules_of_the_other(chosen: Options, family: Family) -> None:
    for chain in chains(family, chosen):
        for rule in chain.rules:
            for written in (legacy.text(rule), nft.text(rule, family), str(legacy.spec(rule))):
                for text in chosen.skip_inbound_subnets + chosen.skip_outbound_subnets:
                    if ipaddress.ip_network(text).version != family.value:
                        assert not re.search(rf"(?<![0-9a-f:.]){re.escape(text)}(?!\d)", written)


@given(options, st.sampled_from(Family))
def test_each_rule_of_a_chain_can_be_told_from_every_other(chosen: Options, family: Family) -> None:
    for chain in chains(family, chosen):
        texts = [legacy.text(rule) for rule in chain.rules]
        distinct = {(rule.ports, rule.source, rule.destination, rule.mark, rule.verdict) for rule in chain.rules}
        assert len(set(texts)) >= len(distinct)
    for laid in nft.layout(family, chosen):
        assert len({line.comment for line in laid.lines}) == len({line.text for line in laid.lines})


@given(st.lists(ranges, max_size=8))
def test_ports_that_are_written_are_read_again(given_ports: list[Ports]) -> None:
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in given_ports)
    read = parse_ports(text)
    assert ports_in(read) == ports_in(tuple(given_ports))
    assert all(first > last + 1 for (_, last), (first, _) in pairwise(read)), "sorted, and joined where they touch"


def ports_in(given_ports: tuple[Ports, ...]) -> set[int]:
    return {port for first, last in given_ports for port in range(first, last + 1)}


@pytest.mark.parametrize("text", ["ssh", "22,x", "1-", "-1", "1-2-3", "٢", "22;23", "+5", "1.5"])
def test_ports_that_are_none_are_named(text: str) -> None:
    at_fault = next(part for part in text.split(",") if not part.isascii() or not part.isdigit())
    with pytest.raises(OptionError, match=re.escape(repr(at_fault))):
        parse_ports(text)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"skip_inbound_ports": ((0, 5),)}, "skip-inbound-ports: 0-5"),
        ({"skip_outbound_ports": ((9, 5),)}, "skip-outbound-ports: 9-5"),
        ({"skip_outbound_ports": ((9, 65536),)}, "9-65536"),
        ({"outbound_port": 0}, "outbound-port: 0"),
        ({"inbound_port": 70000}, "inbound-port: 70000"),
        ({"inbound_port": 4140}, "both 4140"),
        ({"skip_inbound_subnets": ("192.0.2.1/24",)}, "skip-inbound-subnets: 192.0.2.1/24 has host bits set"),
        ({"skip_outbound_subnets": ("everywhere",)}, "skip-outbound-subnets: 'everywhere'"),
    ],
)
def test_options_that_cannot_be_used_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        Options(**wrong)


def test_without_ipv6_there_is_one_family() -> None:
    assert Options(ipv6=False).families == (Family.IPV4,)
    assert "ip6" not in nft.show(Options(ipv6=False))
    assert "IPv6" not in legacy.show(Options(ipv6=False))
