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

MAX_DIGITS = 5
"""Of a port, and more than a prefix has."""
MAX_SHOWN = 64
"""Characters of a part that a message repeats; no network is written with more."""

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
    MANGLE_INPUT = ("mangle", "INPUT")
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


class Listener(Enum):
    """Whose socket a packet would reach, as far as rules can tell."""

    AGENT = "agent"
    """One that may be dialled by foreign addresses (IP_TRANSPARENT), which takes NET_ADMIN or NET_RAW to make."""
    OTHER = "other"
    """Any other."""
    NONE = "none"
    """There is none: the kernel refuses."""


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
    opens: bool = True
    listener: Listener = Listener.NONE


@dataclass(frozen=True)
class Rule:
    """One rule. A match that is None or empty matches everything."""

    verdict: Verdict
    mark: int | None = None
    """The agent's, all 32 bits of it."""
    connmark: int | None = None
    out_loopback: bool = False
    invalid: bool = False
    """Conntrack holds it for invalid, or was told not to follow it (notrack), and so translates nothing."""
    spare_resets: bool = False
    opens: bool = False
    """The packet is to open a connection: a SYN, and no answer to one."""
    listener: Listener | None = None
    """A socket for the packet is there, and it is one of these. OTHER only behind a rule for AGENT."""
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
            and (not self.opens or packet.opens)
            and (self.listener is None or packet.listener is self.listener)
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

    @property
    def opens(self) -> bool:
        """Whether all of its rules are about what opens a connection: nothing else need go through them."""
        return bool(self.rules) and all(rule.opens for rule in self.rules)

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

    What conntrack holds for invalid, or does not follow, meets no nat rule, and would pass untranslated: a SYN that
    looks like a reply reaches an application past the agent, and so does data outside of the window of a captured
    connection, whose four numbers the transparent leg has too. It is dropped. Resets that leave by the wire are spared:
    the kernel says with them that a connection is gone, and conntrack may have forgotten it first.

    The agent's mark excepts from capture, so whoever knew it could except itself. It is on a packet from the agent's
    socket to the last hook before the device: no socket, filter or capture in the pod is shown it, on loopback neither.
    So that a leg comes over loopback is noted while its first packet leaves, where nat looks at it. The reply mark
    excepts from nothing: what may carry it is the answer in a connection that nat has decided about long ago.

    What is captured goes to a port, and whoever listens there gets it. That is the agent, or else nobody: not an
    application that was there first, nor one that takes the port while there is no agent, nor one that shares it.
    """
    agents_ports = tuple((port, port) for port in sorted((options.outbound_port, options.inbound_port)))
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
            Hook.MANGLE_INPUT,
            (
                Rule(Verdict.LEAVE, opens=True, ports=agents_ports, listener=Listener.AGENT),
                Rule(Verdict.DROP, opens=True, ports=agents_ports, listener=Listener.OTHER),
            ),
        ),
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
    """`22, 8000-8100` as ranges from 1 to 65535: sorted, and joined where they touch or overlap. Empty means none.

    The same for flags and for annotations. Spaces around a number and empty parts (a comma at the end) mean nothing.
    Raises OptionError, naming the part at fault: 0 is no TCP port, and a range does not end before it begins.
    """
    found = []
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        first, dash, last = item.partition("-")
        ports = _port(first), _port(last if dash else first)
        if ports[0] is None or ports[1] is None:
            raise OptionError(f"{_shown(item)} is no port and no range; write 22 or 8000-8100")
        if not (1 <= ports[0] <= 65535 and 1 <= ports[1] <= 65535):
            raise OptionError(f"{_shown(item)} is not within the ports from 1 to 65535")
        if ports[1] < ports[0]:
            raise OptionError(f"range {_shown(item)} ends before it begins; write {ports[1]}-{ports[0]}")
        found.append((ports[0], ports[1]))
    return tuple(_joined(tuple(found)))


def _port(text: str) -> int | None:
    """A number that may be one of a port; None where the text is none, or one of more digits than any port has."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS else None


def _shown(item: str) -> str:
    return repr(item[:MAX_SHOWN])


@dataclass(frozen=True)
class Subnets:
    """Networks in canonical CIDR form, sorted, each once; and what is to be said about how they were written."""

    networks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_subnets(text: str) -> Subnets:
    """`192.0.2.0/24, 2001:db8::1` as networks. Empty means none. The same for flags and for annotations.

    An address alone is that address. Host bits are cut off, as Linkerd does, with a note that says what is used.
    Raises OptionError where a part is no network, and where it would surely mean more, or less, than is meant: 0.0.0.0
    and :: without a prefix, or host bits in front of /0.
    """
    found: dict[Network, None] = {}
    notes = []
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        base, slash, prefix = item.partition("/")
        try:
            if len(item) > MAX_SHOWN or "%" in item or (slash and _port(prefix) is None):
                raise ValueError
            address, network = ipaddress.ip_address(base), ipaddress.ip_network(item, strict=False)
        except ValueError:
            raise OptionError(
                f"{_shown(item)} is no address and no network; write 192.0.2.0/24 or 2001:db8::/32"
            ) from None
        if not slash and int(address) == 0:
            raise OptionError(f"{item} has no prefix: write {item}/0 if every address is meant")
        if network.prefixlen == 0 and int(address) != 0:
            raise OptionError(f"{item} is every address: write {network} if that is meant, or another prefix")
        if address != network.network_address:
            notes.append(f"{item} has host bits set: {network} is what counts")
        found[network] = None
    ordered = sorted(found, key=lambda each: (each.version, int(each.network_address), each.prefixlen))
    return Subnets(tuple(str(network) for network in ordered), tuple(notes))
