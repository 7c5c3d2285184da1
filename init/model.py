"""The rules of one pod, as data: what is left alone, what is captured, per table and chain. Pure.

Two appliers write this one model, `legacy` (iptables through libxtables) and `nft`; the order of rules in a chain
is the order here, and the first rule that matches decides.
"""

import ipaddress
from dataclasses import dataclass, field
from enum import Enum

from init.constants import CONNTRACK_ZONE, INBOUND_PORT, MARK_MASK, OUTBOUND_PORT, REPLY_MARK

MULTIPORT_LIMIT = 15
"""Port references in one multiport match; a range counts as two (xt_multiport)."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Ports = tuple[int, int]


class OptionError(ValueError):
    """An option that cannot be used; `str` names it."""


class Family(Enum):
    """An address family, with the number of its version."""

    IPV4 = 4
    IPV6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"


@dataclass(frozen=True)
class Options:
    """What one pod's rules depend on. Ports are inclusive ranges, subnets are CIDR texts of either family."""

    skip_inbound_ports: tuple[Ports, ...] = ()
    skip_outbound_ports: tuple[Ports, ...] = ()
    skip_inbound_subnets: tuple[str, ...] = ()
    skip_outbound_subnets: tuple[str, ...] = ()
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT
    ipv6: bool = True
    mark: int | None = None
    """By which the agent's own traffic is known (init.agent_mark). None: as long as no agent is, all is captured."""

    def __post_init__(self) -> None:
        for name in ("skip_inbound_ports", "skip_outbound_ports"):
            for first, last in getattr(self, name):
                if not 1 <= first <= last <= 65535:
                    raise OptionError(f"{name.replace('_', '-')}: {first}-{last} is no range of ports from 1 to 65535")
        for name in ("outbound_port", "inbound_port"):
            if not 1 <= getattr(self, name) <= 65535:
                raise OptionError(f"{name.replace('_', '-')}: {getattr(self, name)} is no port from 1 to 65535")
        if self.outbound_port == self.inbound_port:
            raise OptionError(f"outbound-port and inbound-port are both {self.inbound_port}: the agent needs two")
        for name in ("skip_inbound_subnets", "skip_outbound_subnets"):
            for text in getattr(self, name):
                try:
                    ipaddress.ip_network(text)
                except ValueError as error:
                    raise OptionError(f"{name.replace('_', '-')}: {error}") from None

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are wanted."""
        return (Family.IPV4, Family.IPV6) if self.ipv6 else (Family.IPV4,)


class Hook(Enum):
    """Where a chain hangs: (table, built-in chain)."""

    RAW_OUTPUT = ("raw", "OUTPUT")
    NAT_OUTPUT = ("nat", "OUTPUT")
    NAT_PREROUTING = ("nat", "PREROUTING")
    MANGLE_PREROUTING = ("mangle", "PREROUTING")
    MANGLE_OUTPUT = ("mangle", "OUTPUT")
    MANGLE_POSTROUTING = ("mangle", "POSTROUTING")

    @property
    def table(self) -> str:
        """`raw`, `nat` or `mangle`."""
        return self.value[0]

    @property
    def builtin(self) -> str:
        """The kernel's chain."""
        return self.value[1]

    @property
    def chain(self) -> str:
        """Our chain, that is jumped to from there."""
        return f"QUIETWIRE_{self.builtin}"


class Verdict(Enum):
    """What a rule does with what it matches."""

    LEAVE = "leave"
    """Nothing: the packet goes on, uncaptured."""
    REDIRECT = "redirect"
    """To a local port: `Rule.port`."""
    REMEMBER = "remember"
    """Sets the connection's mark to REPLY_MARK."""
    MARK_REPLY = "mark_reply"
    """Sets the packet's mark to REPLY_MARK."""
    UNMARK = "unmark"
    """Takes the packet's mark off."""
    DROP = "drop"
    """Nothing comes through."""
    OWN_ZONE = "own_zone"
    """Looks for the connection, in the direction of the one who opened it, in `Rule.zone` only (conntrack zones)."""


@dataclass(frozen=True)
class Packet:
    """What rules can look at; for evaluation in tests and in `evaluate`. Only TCP is ever looked at."""

    source: str
    destination: str
    port: int
    mark: int = 0
    connmark: int = 0
    out_loopback: bool = False
    invalid: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Rule:
    """One rule. A match that is None or empty matches everything."""

    verdict: Verdict
    mark: int | None = None
    """The agent's, all 32 bits of it."""
    connmark: int | None = None
    out_loopback: bool = False
    invalid: bool = False
    """Conntrack holds it for invalid, and so translates nothing."""
    spare_resets: bool = False
    ports: tuple[Ports, ...] = ()
    source: str | None = None
    destination: str | None = None
    port: int = 0
    zone: int = 0

    def matches(self, packet: Packet) -> bool:
        """Whether the packet meets every match."""
        return (
            (self.mark is None or packet.mark == self.mark)
            and (self.connmark is None or packet.connmark & MARK_MASK == self.connmark)
            and (not self.out_loopback or packet.out_loopback)
            and (not self.invalid or packet.invalid)
            and not (self.spare_resets and packet.reset)
            and (not self.ports or any(first <= packet.port <= last for first, last in self.ports))
            and (self.source is None or _inside(packet.source, self.source))
            and (self.destination is None or _inside(packet.destination, self.destination))
        )


@dataclass(frozen=True)
class Chain:
    """One of our chains and its rules, in order."""

    hook: Hook
    rules: tuple[Rule, ...] = field(default_factory=tuple)

    @property
    def mark(self) -> int | None:
        """The mark that all of its rules want: what does not have it need not go through them."""
        marks = {rule.mark for rule in self.rules}
        return marks.pop() if len(marks) == 1 else None

    def evaluate(self, packet: Packet) -> list[Rule]:
        """The rules that act on a packet, in order: the first that decides about it is the last."""
        acting = []
        for rule in self.rules:
            if rule.matches(packet):
                acting.append(rule)
                if rule.verdict in {Verdict.LEAVE, Verdict.REDIRECT, Verdict.DROP}:
                    break
        return acting


def chains(family: Family, options: Options) -> tuple[Chain, ...]:
    """Every chain of one family.

    The zone is what makes capture certain. Conntrack decides once per connection whether it is translated, and keeps
    a reset connection for longer than the kernel keeps its port: an application that got the port of a leg would
    have its SYN taken for the leg's, and go out in plaintext; a client that dialled from the port of a transparent leg
    would get past the agent. Replies need no zone: those of captured connections come from the agent's port.

    What conntrack holds for invalid meets no nat rule, and would pass untranslated: a SYN that looks like a
    reply reaches an application past the agent, and so does data outside of the window of a captured connection, whose
    four numbers the transparent leg has too. It is dropped. Resets that leave by the wire are spared: the kernel
    says with them that a connection is gone, and conntrack may have forgotten it first.

    The agent's mark excepts from capture, so whoever knew it could except itself. It is on a packet from the agent's
    socket to the last hook before the device: no socket, filter or capture in the pod is shown it, on loopback neither.
    So that a leg comes over loopback is noted while its first packet leaves, where nat looks at it. The reply mark
    excepts from nothing: what may carry it is the answer in a connection that nat has decided about long ago.
    """
    agents = (
        []
        if options.mark is None
        else [
            Rule(Verdict.REMEMBER, mark=options.mark, out_loopback=True),
            Rule(Verdict.LEAVE, mark=options.mark),
        ]
    )
    outbound = [
        *agents,
        Rule(Verdict.LEAVE, out_loopback=True),
        *(Rule(Verdict.LEAVE, ports=ports) for ports in multiport(options.skip_outbound_ports)),
        *(Rule(Verdict.LEAVE, destination=subnet) for subnet in _of_family(options.skip_outbound_subnets, family)),
        Rule(Verdict.REDIRECT, port=options.outbound_port),
    ]
    inbound = [
        *(Rule(Verdict.LEAVE, ports=ports) for ports in multiport(options.skip_inbound_ports)),
        *(Rule(Verdict.LEAVE, source=subnet) for subnet in _of_family(options.skip_inbound_subnets, family)),
        Rule(Verdict.REDIRECT, port=options.inbound_port),
    ]
    return (
        Chain(Hook.RAW_OUTPUT, _of_agent(Rule(Verdict.OWN_ZONE, mark=options.mark, zone=CONNTRACK_ZONE))),
        Chain(Hook.NAT_OUTPUT, tuple(outbound)),
        Chain(Hook.NAT_PREROUTING, tuple(inbound)),
        Chain(Hook.MANGLE_PREROUTING, (Rule(Verdict.DROP, invalid=True),)),
        Chain(
            Hook.MANGLE_OUTPUT,
            (Rule(Verdict.DROP, invalid=True, spare_resets=True), Rule(Verdict.MARK_REPLY, connmark=REPLY_MARK)),
        ),
        Chain(Hook.MANGLE_POSTROUTING, _of_agent(Rule(Verdict.UNMARK, mark=options.mark))),
    )


def _of_agent(rule: Rule) -> tuple[Rule, ...]:
    """A rule about the agent's own packets, where there are any."""
    return () if rule.mark is None else (rule,)


def multiport(ports: tuple[Ports, ...]) -> tuple[tuple[Ports, ...], ...]:
    """Ports in groups that one multiport match can hold: sorted, overlaps joined."""
    groups: list[tuple[Ports, ...]] = []
    group: list[Ports] = []
    weight = 0
    for first, last in _joined(ports):
        cost = 1 if first == last else 2
        if weight + cost > MULTIPORT_LIMIT:
            groups.append(tuple(group))
            group, weight = [], 0
        group.append((first, last))
        weight += cost
    if group:
        groups.append(tuple(group))
    return tuple(groups)


def _joined(ports: tuple[Ports, ...]) -> list[Ports]:
    joined: list[Ports] = []
    for first, last in sorted(ports):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def _of_family(subnets: tuple[str, ...], family: Family) -> list[str]:
    networks = [ipaddress.ip_network(text) for text in subnets]
    return [str(network) for network in networks if network.version == family.value]


def _inside(address: str, subnet: str) -> bool:
    network = ipaddress.ip_network(subnet)
    parsed = ipaddress.ip_address(address)
    return parsed.version == network.version and parsed in network


def parse_ports(text: str) -> tuple[Ports, ...]:
    """`22,8000-8100` as ranges. Raises OptionError, naming the part at fault."""
    found = []
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        first, dash, last = item.partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise OptionError(f"{item!r} is no port and no range; write 22 or 8000-8100")
        found.append((int(first), int(last if dash else first)))
    return tuple(found)
