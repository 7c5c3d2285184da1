"""The rules in iptables' language: as python-iptables takes them, and as iptables-save prints them. Pure."""

import ipaddress
from typing import Any

from init.constants import AGENT_MARK, MARK_MASK, REPLY_MARK, STAND_IN_MARK
from init.model import Chain, Family, Listener, Options, Ports, Rule, Verdict, chains

Spec = dict[str, Any]
OPENS = ["FIN,SYN,RST,ACK", "SYN"]
"""The flags of a packet that opens a connection: of these only that one."""


class LegacyError(Exception):
    """The tables cannot be read or written; `str` says which."""


def spec(rule: Rule) -> Spec:
    """A rule as python-iptables writes it, but for the chain that an ENTER leads to."""
    found: Spec = {}
    if rule.opens or rule.dialled or rule.verdict is Verdict.ENTER:
        found["protocol"] = "tcp"
    if rule.in_loopback:
        found["in-interface"] = "lo"
    if rule.out_loopback:
        found["out-interface"] = "lo"
    if rule.leaves:
        found["out-interface"] = "!lo"
    if rule.spare_resets:
        found["tcp"] = {"tcp-flags": ["RST", "NONE"]}
    if rule.opens:
        found["tcp"] = {"tcp-flags": OPENS}
    if rule.mark is not None:
        found["mark"] = {"mark": f"{rule.mark:#x}"}
    if rule.other_mark is not None:
        found["mark"] = {"mark": ["!", f"{rule.other_mark:#x}"]}
    if rule.leaves:
        found["owner"] = {"socket-exists": ""}
    if rule.connmark is not None:
        found["connmark"] = {"mark": _masked(rule.connmark)}
    if rule.invalid:
        found["protocol"] = "tcp"
        found["conntrack"] = {"ctstate": "INVALID,UNTRACKED"}
    if rule.ports and rule.dialled:
        (ports,) = rule.ports
        found["conntrack"] = {"ctorigdstport": _port_range(ports)}
    elif rule.ports:
        found["protocol"] = "tcp"
        found["multiport"] = {"dports": ",".join(_port_range(ports) for ports in rule.ports)}
    if rule.listener is not None:
        transparent = {"transparent": ""} if rule.listener is Listener.AGENT else {}
        found["socket"] = {**transparent, "nowildcard": ""}
    if rule.source_is_local is not None:
        found["addrtype"] = {"src-type": "LOCAL" if rule.source_is_local else ["!", "LOCAL"]}
    if rule.source is not None:
        found["src"] = rule.source
    if rule.destination is not None and rule.dialled:
        found["conntrack"] = {"ctorigdst": _host_or_network(rule.destination)}
    elif rule.destination is not None:
        found["dst"] = rule.destination
    match rule.verdict:
        case Verdict.LEAVE:
            found["target"] = "RETURN"
        case Verdict.REDIRECT:
            found["protocol"] = "tcp"
            found["target"] = {"REDIRECT": {"to-ports": str(rule.port)}}
        case Verdict.REMEMBER:
            found["target"] = {"CONNMARK": {"set-xmark": _masked(REPLY_MARK)}}
        case Verdict.STAND_IN:
            found["target"] = {"CONNMARK": {"set-xmark": _masked(STAND_IN_MARK)}}
        case Verdict.AS_DIALLED | Verdict.OWN_ADDRESS:
            found["target"] = {"NETMAP": {"to": rule.own}}
        case Verdict.ONLY_ADDRESS:
            found["target"] = "MASQUERADE"
        case Verdict.MARK_REPLY:
            found["target"] = {"MARK": {"set-xmark": f"{REPLY_MARK:#x}/0xffffffff"}}
        case Verdict.UNMARK:
            found["target"] = {"MARK": {"set-xmark": "0x0/0xffffffff"}}
        case Verdict.DROP:
            found["target"] = "DROP"
        case Verdict.OWN_ZONE:
            found["target"] = {"CT": {"zone-orig": str(rule.zone)}}
    return found


def jump(chain: Chain) -> Spec:
    """The rule in the kernel's chain that leads to ours."""
    return {**spec(chain.enter), "target": chain.hook.chain}


def text(rule: Rule) -> str:
    """A rule as iptables-save prints it, without its chain, for people to read: the agent's mark is not told."""
    parts = []
    if rule.source is not None:
        parts.append(f"-s {rule.source}")
    if rule.destination is not None and not rule.dialled:
        parts.append(f"-d {rule.destination}")
    if rule.in_loopback:
        parts.append("-i lo")
    if rule.out_loopback:
        parts.append("-o lo")
    if rule.leaves:
        parts.append("! -o lo")
    if rule.ports or rule.invalid or rule.opens or rule.dialled or rule.verdict in {Verdict.REDIRECT, Verdict.ENTER}:
        parts.append("-p tcp")
    if rule.spare_resets:
        parts.append("-m tcp --tcp-flags RST NONE")
    if rule.opens:
        parts.append(f"-m tcp --tcp-flags {' '.join(OPENS)}")
    if rule.mark is not None:
        parts.append(f"-m mark --mark {AGENT_MARK}")
    if rule.other_mark is not None:
        parts.append(f"-m mark ! --mark {AGENT_MARK}")
    if rule.leaves:
        parts.append("-m owner --socket-exists")
    if rule.connmark is not None:
        parts.append(f"-m connmark --mark {_masked(rule.connmark)}")
    if rule.invalid:
        parts.append("-m conntrack --ctstate INVALID,UNTRACKED")
    if rule.ports and rule.dialled:
        parts.append(f"-m conntrack --ctorigdstport {_port_range(rule.ports[0])}")
    elif rule.ports:
        parts.append(f"-m multiport --dports {','.join(_port_range(ports) for ports in rule.ports)}")
    if rule.listener is not None:
        parts.append(
            "-m socket --transparent --nowildcard" if rule.listener is Listener.AGENT else "-m socket --nowildcard"
        )
    if rule.source_is_local is not None:
        parts.append(f"-m addrtype {'' if rule.source_is_local else '! '}--src-type LOCAL")
    if rule.destination is not None and rule.dialled:
        parts.append(f"-m conntrack --ctorigdst {_host_or_network(rule.destination)}")
    if rule.verdict is not Verdict.ENTER:
        parts.append(
            {
                Verdict.LEAVE: "-j RETURN",
                Verdict.REDIRECT: f"-j REDIRECT --to-ports {rule.port}",
                Verdict.REMEMBER: f"-j CONNMARK --set-xmark {_masked(REPLY_MARK)}",
                Verdict.STAND_IN: f"-j CONNMARK --set-xmark {_masked(STAND_IN_MARK)}",
                Verdict.AS_DIALLED: f"-j NETMAP --to {rule.own}",
                Verdict.OWN_ADDRESS: f"-j NETMAP --to {rule.own}",
                Verdict.ONLY_ADDRESS: "-j MASQUERADE",
                Verdict.DROP: "-j DROP",
                Verdict.OWN_ZONE: f"-j CT --zone-orig {rule.zone}",
                Verdict.MARK_REPLY: f"-j MARK --set-xmark {REPLY_MARK:#x}/0xffffffff",
                Verdict.UNMARK: "-j MARK --set-xmark 0x0/0xffffffff",
            }[rule.verdict]
        )
    return " ".join(parts)


def show(options: Options) -> str:
    """All rules, in the format that iptables-restore reads."""
    lines = []
    for family in options.families:
        lines.append(f"# {family}: {'iptables' if family is Family.IPV4 else 'ip6tables'}-restore --noflush")
        wanted = chains(family, options)
        for table in dict.fromkeys(chain.hook.table for chain in wanted):
            here = [chain for chain in wanted if chain.hook.table == table]
            lines.append(f"*{table}")
            lines += [f":{chain.hook.chain} - [0:0]" for chain in here]
            for chain in reversed(here):  # the last to be inserted is the first
                lines.append(f"-I {chain.hook.builtin} 1 {text(chain.enter)} -j {chain.hook.chain}")
            for chain in here:
                lines += [f"-A {chain.hook.chain} {text(rule)}" for rule in chain.rules]
            lines.append("COMMIT")
    return "\n".join(lines)


def _masked(mark: int) -> str:
    return f"{mark:#x}/{MARK_MASK:#x}"


def _port_range(ports: Ports) -> str:
    first, last = ports
    return str(first) if first == last else f"{first}:{last}"


def _host_or_network(subnet: str) -> str:
    """As xt_conntrack shows it: without a prefix where that is whole."""
    network = ipaddress.ip_network(subnet)
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else subnet
