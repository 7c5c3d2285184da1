"""The rules of one pod, as data: what is left alone, what is captured, per table and chain. Pure.

Two appliers write this one model, `legacy` (iptables through libxtables) and `nft`; the order of rules in a chain
is the order here, and the first rule that matches decides.
"""

import ipaddress
from dataclasses import dataclass, field
from enum import Enum

from init.constants import CONNTRACK_ZONE, INBOUND_PORT, MARK_MASK, OUTBOUND_PORT, REPLY_MARK, STAND_IN_MARK
from init.stand_in import OF_THE_ONLY_ADDRESS, STAND_INS

ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
"""By IP version."""
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
    probe_ports: tuple[Ports, ...] = ()
    """Not captured where they are dialled from `probe_sources`: a probe is to see the application's own answer."""
    probe_sources: tuple[str, ...] = ()
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT
    ipv6: bool = True
    mark: int | None = None
    """By which the agent's own traffic is known (init.agent_mark). None: as long as no agent is, all is captured."""
    stand_ins: bool = True
    """What the agent dials may come from a stand-in's address (init.stand_in)."""

    def __post_init__(self) -> None:
        for name in ("skip_inbound_ports", "skip_outbound_ports", "probe_ports"):
            for first, last in getattr(self, name):
                if not 1 <= first <= last <= 65535:
                    raise OptionError(f"{name.replace('_', '-')}: {first}-{last} is no range of ports from 1 to 65535")
        for name in ("outbound_port", "inbound_port"):
            if not 1 <= getattr(self, name) <= 65535:
                raise OptionError(f"{name.replace('_', '-')}: {getattr(self, name)} is no port from 1 to 65535")
        if self.outbound_port == self.inbound_port:
            raise OptionError(f"outbound-port and inbound-port are both {self.inbound_port}: the agent needs two")
        for name in ("skip_inbound_subnets", "skip_outbound_subnets", "probe_sources"):
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
    """Where a chain hangs: (table, built-in chain), and what ours is named for where that chain has two of them."""

    RAW_OUTPUT = ("raw", "OUTPUT")
    NAT_OUTPUT = ("nat", "OUTPUT")
    NAT_PREROUTING = ("nat", "PREROUTING")
    MANGLE_PREROUTING = ("mangle", "PREROUTING")
    MANGLE_RETURNING = ("mangle", "PREROUTING", "RETURNING")
    MANGLE_INPUT = ("mangle", "INPUT")
    MANGLE_FORWARD = ("mangle", "FORWARD")
    MANGLE_OUTPUT = ("mangle", "OUTPUT")
    MANGLE_LEAVING = ("mangle", "POSTROUTING", "LEAVING")
    """Before the next, which takes off the mark that this one looks at."""
    MANGLE_POSTROUTING = ("mangle", "POSTROUTING")
    NAT_POSTROUTING = ("nat", "POSTROUTING")

    @property
    def table(self) -> str:
        """`raw`, `nat` or `mangle`."""
        return str(self.value[0])

    @property
    def builtin(self) -> str:
        """The kernel's chain."""
        return str(self.value[1])

    @property
    def chain(self) -> str:
        """Our chain, that is jumped to from there."""
        return f"QUIETWIRE_{self.value[-1]}"


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

    ENTER = "enter"
    """Goes through one of our chains: `Chain.enter`."""
    LEAVE = "leave"
    """Nothing: the packet goes on, uncaptured."""
    REDIRECT = "redirect"
    """To a local port: `Rule.port`."""
    REMEMBER = "remember"
    """Sets the connection's mark to REPLY_MARK."""
    STAND_IN = "stand_in"
    """Sets the connection's mark to STAND_IN_MARK."""
    AS_DIALLED = "as_dialled"
    """Goes where it was dialled: nat has decided that, and rules of others that come later are not asked. Iptables has
    no word for it but that the destination is of `Rule.own`, a network of all addresses."""
    OWN_ADDRESS = "own_address"
    """Has the connection come from `Rule.own`, a network as large as `Rule.source`: the rest of the address stays."""
    ONLY_ADDRESS = "only_address"
    """Has the connection come from the address of the device that it leaves by, of which the pod has one."""
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
    in_loopback: bool = False
    out_loopback: bool = False
    invalid: bool = False
    reset: bool = False
    opens: bool = True
    listener: Listener = Listener.NONE
    forwarded: bool = False
    source_is_local: bool = False
    dialled: tuple[str, int] | None = None
    """The destination before nat, where that changed it."""


@dataclass(frozen=True)
class Rule:
    """One rule. A match that is None or empty matches everything."""

    verdict: Verdict
    mark: int | None = None
    """The agent's, all 32 bits of it."""
    other_mark: int | None = None
    """Any but this one."""
    connmark: int | None = None
    in_loopback: bool = False
    out_loopback: bool = False
    leaves: bool = False
    """By another device than loopback, and a socket in this namespace has made it: it is not forwarded."""
    invalid: bool = False
    """Conntrack holds it for invalid, or was told not to follow it (notrack), and so translates nothing."""
    spare_resets: bool = False
    opens: bool = False
    """The packet is to open a connection: a SYN, and no answer to one."""
    listener: Listener | None = None
    """A socket for the packet is there, and it is one of these. OTHER only behind a rule for AGENT."""
    source_is_local: bool | None = None
    """The source is an address of this namespace, or is none."""
    ports: tuple[Ports, ...] = ()
    source: str | None = None
    destination: str | None = None
    dialled: bool = False
    """`ports`, one range of them, and `destination` are those from before nat: what the client has dialled."""
    own: str = ""
    port: int = 0
    zone: int = 0

    def matches(self, packet: Packet) -> bool:
        """Whether the packet meets every match."""
        here = (packet.destination, packet.port)
        destination, port = (packet.dialled or here) if self.dialled else here
        return (
            (self.mark is None or packet.mark == self.mark)
            and (self.other_mark is None or packet.mark != self.other_mark)
            and (self.connmark is None or packet.connmark & MARK_MASK == self.connmark)
            and (not self.in_loopback or packet.in_loopback)
            and (not self.out_loopback or packet.out_loopback)
            and not (self.leaves and (packet.out_loopback or packet.forwarded))
            and (not self.invalid or packet.invalid)
            and not (self.spare_resets and packet.reset)
            and (not self.opens or packet.opens)
            and (self.listener is None or packet.listener is self.listener)
            and (self.source_is_local is None or packet.source_is_local is self.source_is_local)
            and (not self.ports or any(first <= port <= last for first, last in self.ports))
            and (self.source is None or _inside(packet.source, self.source))
            and (self.destination is None or _inside(destination, self.destination))
        )


ALL_TCP = Rule(Verdict.ENTER)
DECIDES = {Verdict.LEAVE, Verdict.REDIRECT, Verdict.AS_DIALLED, Verdict.OWN_ADDRESS, Verdict.ONLY_ADDRESS, Verdict.DROP}
"""What ends a chain."""


@dataclass(frozen=True)
class Chain:
    """One of our chains, its rules in order, and what goes through them."""

    hook: Hook
    rules: tuple[Rule, ...] = field(default_factory=tuple)
    enter: Rule = ALL_TCP
    """The rule that leads to it: what it does not match need not go through the others."""

    def evaluate(self, packet: Packet) -> list[Rule]:
        """The rules that act on a packet, in order: the first that decides about it is the last."""
        acting: list[Rule] = []
        if not self.enter.matches(packet):
            return acting
        for rule in self.rules:
            if rule.matches(packet):
                acting.append(rule)
                if rule.verdict in DECIDES:
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

    A leg to where the application itself dialled comes from a stand-in's address, that its socket may differ from the
    application's (init.stand_in). Nat puts the pod's own back, behind the agent's mark, which is off by then: so the
    connection is marked before. Its replies are for an address that nobody has, and are led to the agent as others are.

    A leg to an application of the pod is made for whoever dials the pod, whose connection would be no matter of the
    pod's own rules in OUTPUT: those that come after ours do not see it. To what the pod dials they apply as they would
    without us: there they lead the leg.

    What is captured goes to a port, and whoever listens there gets it. That is the agent, or else nobody: not an
    application that was there first, nor one that takes the port while there is no agent, nor one that shares it.

    Others may translate before us: the other of iptables' backends, a table of nft's. So what opens a connection is
    looked at again behind all nat, by what its client has dialled. Unless it is to be left alone, it is dropped where
    it reaches another socket than the agent's, leads through the namespace (a container's in the pod), or leaves
    without the agent's mark. The pod's own connections come over loopback, from an address of its own. What comes from
    another one is a leg of the agent's, which its connection's mark says, or forged: the answer would go out.
    """
    agents_ports = tuple((port, port) for port in sorted((options.outbound_port, options.inbound_port)))
    stands_in = STAND_INS[family.value] if options.stand_ins and options.mark is not None else ()
    of_only_one = (
        (Rule(Verdict.ONLY_ADDRESS, source=f"{OF_THE_ONLY_ADDRESS}/32"),) if stands_in and family is Family.IPV4 else ()
    )
    noted = Rule(Verdict.STAND_IN, mark=options.mark, source_is_local=False)
    as_dialled = Rule(Verdict.AS_DIALLED, mark=options.mark, out_loopback=True, own=ANYWHERE[family.value])
    agents = (
        []
        if options.mark is None
        else [
            *([noted] if stands_in else []),
            Rule(Verdict.REMEMBER, mark=options.mark, out_loopback=True),
            *([as_dialled] if stands_in else []),
            Rule(Verdict.LEAVE, mark=options.mark),
        ]
    )
    skipped = _of_family(options.skip_outbound_subnets, family)
    outbound = [
        *agents,
        Rule(Verdict.LEAVE, out_loopback=True),
        *(Rule(Verdict.LEAVE, ports=ports) for ports in multiport(options.skip_outbound_ports)),
        *(Rule(Verdict.LEAVE, destination=subnet) for subnet in skipped),
        Rule(Verdict.REDIRECT, port=options.outbound_port),
    ]
    from_skipped = [Rule(Verdict.LEAVE, source=subnet) for subnet in _of_family(options.skip_inbound_subnets, family)]
    probes = [
        Rule(Verdict.LEAVE, source=source, ports=ports)
        for source in _of_family(options.probe_sources, family)
        for ports in multiport(options.probe_ports)
    ]
    inbound = [
        *(Rule(Verdict.LEAVE, ports=ports) for ports in multiport(options.skip_inbound_ports)),
        *from_skipped,
        *probes,
        Rule(Verdict.REDIRECT, port=options.inbound_port),
    ]
    not_inbound = (*_dialled(options.skip_inbound_ports), *from_skipped, Rule(Verdict.DROP))
    not_outbound = (
        *_dialled(options.skip_outbound_ports),
        *(Rule(Verdict.LEAVE, destination=subnet, dialled=True) for subnet in skipped),
        Rule(Verdict.DROP),
    )
    arriving = (
        Rule(Verdict.LEAVE, ports=agents_ports, listener=Listener.AGENT),
        Rule(Verdict.DROP, ports=agents_ports, listener=Listener.OTHER),
        Rule(Verdict.LEAVE, ports=agents_ports),  # nobody listens: the kernel refuses
        Rule(Verdict.LEAVE, in_loopback=True, source_is_local=True),
        Rule(Verdict.LEAVE, in_loopback=True, connmark=REPLY_MARK),
        *probes,
        *not_inbound,
    )
    opens = Rule(Verdict.ENTER, opens=True)
    of_agent = Rule(Verdict.ENTER, mark=options.mark)
    return (
        Chain(Hook.RAW_OUTPUT, _of_agent(Rule(Verdict.OWN_ZONE, zone=CONNTRACK_ZONE), options), of_agent),
        Chain(Hook.NAT_OUTPUT, tuple(outbound)),
        Chain(Hook.NAT_PREROUTING, tuple(inbound)),
        Chain(Hook.MANGLE_PREROUTING, (Rule(Verdict.DROP),), Rule(Verdict.ENTER, invalid=True)),
        Chain(
            Hook.MANGLE_RETURNING,
            (Rule(Verdict.MARK_REPLY),) if stands_in else (),
            Rule(Verdict.ENTER, connmark=STAND_IN_MARK),
        ),
        Chain(Hook.MANGLE_INPUT, arriving, opens),
        Chain(Hook.MANGLE_FORWARD, not_inbound, opens),
        Chain(
            Hook.MANGLE_OUTPUT,
            (Rule(Verdict.DROP, invalid=True, spare_resets=True), Rule(Verdict.MARK_REPLY, connmark=REPLY_MARK)),
        ),
        Chain(
            Hook.MANGLE_LEAVING,
            not_outbound,
            Rule(Verdict.ENTER, opens=True, leaves=True, other_mark=options.mark),
        ),
        Chain(Hook.MANGLE_POSTROUTING, _of_agent(Rule(Verdict.UNMARK), options), of_agent),
        Chain(
            Hook.NAT_POSTROUTING,
            (*(Rule(Verdict.OWN_ADDRESS, source=network, own=own) for network, own in stands_in), *of_only_one),
            Rule(Verdict.ENTER, connmark=STAND_IN_MARK),
        ),
    )


def _of_agent(rule: Rule, options: Options) -> tuple[Rule, ...]:
    """A rule about the agent's own packets, where there are any."""
    return () if options.mark is None else (rule,)


def _dialled(ports: tuple[Ports, ...]) -> list[Rule]:
    """What has dialled one of these ports is left alone; each range is a rule of its own (xt_conntrack has one)."""
    return [Rule(Verdict.LEAVE, ports=(each,), dialled=True) for each in _joined(ports)]


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
