"""The `nft` applier: tables of our own, `ip quietwire` and `ip6 quietwire`, both written in one transaction.

For kernels without the legacy tables. Every rule carries a comment with a digest of itself, by which `check`
finds it again whatever form nft gives to it.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from init.constants import AGENT_MARK, MARK_MASK, REPLY_MARK, STAND_IN_MARK
from init.model import ALL_TCP, Family, Hook, Listener, Options, Rule, Verdict, chains

TABLE = "quietwire"
NFT_SECONDS = 20.0
LIST_SECONDS = 2.0
"""How long our own table may take to be listed: milliseconds, unless its pod's administrator has filled it. That holds
up no other pod: a table that takes longer is not ours any more, and is replaced without having been read."""
NO_SUCH_TABLE = "No such file or directory"
"""What nft says of a table that is not there; we have it speak English."""

_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}
FIRST_NAT = -199
"""The kernel lets no nat chain have a lower priority (NF_IP_PRI_CONNTRACK): ours comes before all that do not ask for
this very one, so before iptables' own (-100), by whichever backend and whenever they were written."""
_BASE = {
    # One step before iptables' own priorities: our rules come first.
    Hook.RAW_OUTPUT: ("filter", "output", -301),
    Hook.NAT_OUTPUT: ("nat", "output", FIRST_NAT),
    Hook.NAT_PREROUTING: ("nat", "prerouting", FIRST_NAT),
    Hook.MANGLE_PREROUTING: ("filter", "prerouting", -151),
    Hook.MANGLE_RETURNING: ("filter", "prerouting", -151),
    Hook.MANGLE_INPUT: ("filter", "input", -151),
    Hook.MANGLE_FORWARD: ("filter", "forward", -151),
    Hook.MANGLE_OUTPUT: ("route", "output", -151),
    Hook.MANGLE_LEAVING: ("filter", "postrouting", -151),
    Hook.MANGLE_POSTROUTING: ("filter", "postrouting", -151),
    Hook.NAT_POSTROUTING: ("nat", "postrouting", 99),
}


class NftError(Exception):
    """nft refused; `str` has its words."""


class NftSlow(NftError):
    """nft did not answer in time."""


@dataclass(frozen=True)
class Line:
    """A rule as it stands in one of the table's chains: its text, and the same for people (the mark is not told)."""

    text: str
    shown: str

    @property
    def comment(self) -> str:
        """What identifies it: a digest of its text."""
        return "qw-" + hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Laid:
    """A chain of the table: where it hangs, None for one that another leads to, and its lines in order."""

    name: str
    base: tuple[str, str, int] | None
    lines: tuple[Line, ...]


def layout(family: Family, options: Options) -> tuple[Laid, ...]:
    """Our table of one family.

    Where a single rule is behind a chain's entry both are one, in the base chain itself.
    """
    bases: dict[str, list[Line]] = {}
    others = []
    hooks = {}
    for chain in chains(family, options):
        name = f"{chain.hook.table}_{chain.hook.builtin.lower()}"
        hooks[name] = _BASE[chain.hook]
        lines = bases.setdefault(name, [])
        if chain.enter == ALL_TCP or len(chain.rules) <= 1:
            lines += [_line(_folded(chain.enter, rule), family) for rule in chain.rules]
        else:
            inner = f"{name}_{'opens' if chain.enter.opens else 'marked'}"
            others.append(Laid(inner, None, tuple(_line(rule, family) for rule in chain.rules)))
            lines.append(_line(chain.enter, family, inner))
    return (*others, *(Laid(name, hooks[name], tuple(lines)) for name, lines in bases.items()))


def _folded(enter: Rule, rule: Rule) -> Rule:
    """One rule for two that follow each other and match different things."""
    wanted = {each.name: getattr(enter, each.name) for each in fields(Rule) if each.name != "verdict"}
    return replace(rule, **{name: value for name, value in wanted.items() if value != getattr(ALL_TCP, name)})


def _line(rule: Rule, family: Family, leads_to: str = "") -> Line:
    written = shown = text(rule, family, leads_to)
    for mark in (rule.mark, rule.other_mark):
        if mark is not None:
            shown = shown.replace(f"{mark:#x}", AGENT_MARK)
    return Line(written, shown)


def text(rule: Rule, family: Family, leads_to: str = "") -> str:
    """A rule in nft's language; `leads_to` is the chain that an ENTER goes through."""
    parts = ["meta l4proto tcp"]
    ip = _FAMILY[family]
    if rule.mark is not None:
        parts.append(f"meta mark {rule.mark:#x}")
    if rule.in_loopback:
        parts.append('iifname "lo"')
    if rule.out_loopback:
        parts.append('oifname "lo"')
    if rule.leaves:
        parts.append('oifname != "lo"')
    if rule.spare_resets:
        parts.append("tcp flags & rst == 0")
    if rule.opens:
        parts.append("tcp flags & (fin | syn | rst | ack) == syn")
    if rule.other_mark is not None:
        parts.append(f"meta mark != {rule.other_mark:#x}")
    if rule.leaves:
        parts.append(f"meta skuid 0-{0xFFFFFFFF}")  # anybody's: a packet that is forwarded is of no socket here
    if rule.connmark is not None:
        parts.append(f"ct mark & {MARK_MASK:#x} == {rule.connmark:#x}")
    if rule.invalid:
        parts.append("ct state invalid,untracked")
    if rule.ports:
        ranges = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in rule.ports)
        parts.append(f"{'ct original proto-dst' if rule.dialled else 'tcp dport'} {{ {ranges} }}")
    if rule.listener is not None:
        parts.append(f"socket transparent {int(rule.listener is Listener.AGENT)}")
    if rule.source_is_local is not None:
        parts.append(f"fib saddr type {'' if rule.source_is_local else '!= '}local")
    if rule.source is not None:
        parts.append(f"{ip} saddr {rule.source}")
    if rule.destination is not None:
        parts.append(f"{'ct original ' if rule.dialled else ''}{ip} daddr {rule.destination}")
    keep = 0xFFFFFFFF ^ MARK_MASK
    address = f"{ip} saddr"
    parts.append(
        {
            Verdict.ENTER: f"jump {leads_to}",
            Verdict.LEAVE: "return",
            Verdict.REDIRECT: f"redirect to :{rule.port}",
            Verdict.REMEMBER: f"ct mark set ct mark & {keep:#x} | {REPLY_MARK:#x}",
            Verdict.STAND_IN: f"ct mark set ct mark & {keep:#x} | {STAND_IN_MARK:#x}",
            Verdict.AS_DIALLED: f"dnat to {ip} daddr",
            Verdict.OWN_ADDRESS: f"snat {_FAMILY[family]} prefix to {address} map {{ {rule.source} : {rule.own} }}",
            Verdict.ONLY_ADDRESS: "masquerade",
            Verdict.DROP: "drop",
            Verdict.OWN_ZONE: f"ct original zone set {rule.zone}",
            Verdict.MARK_REPLY: f"meta mark set {REPLY_MARK:#x}",
            Verdict.UNMARK: "meta mark set 0",
        }[rule.verdict]
    )
    return " ".join(parts)


def show(options: Options) -> str:
    """All rules, as `nft -f` reads them but for the agent's mark."""
    return "\n".join(_table(family, options, lambda line: line.shown) for family in options.families)


def _commented(line: Line) -> str:
    return f'{line.text} comment "{line.comment}"'


def apply(options: Options, families: tuple[Family, ...]) -> bool:
    """Replaces our tables in the current namespace, in one transaction; whether anything changed."""
    unwanted = [family for family in Family if family not in families and _exists(family)]
    if not unwanted and not missing(options, families):
        return False
    lines = []
    for family in Family:
        lines += _deleted(family)
    lines += [_table(family, options, _commented) for family in families]
    _nft(["-f", "-"], "\n".join(lines))
    return True


def remove() -> bool:
    """Deletes our tables from the current namespace; whether there were any."""
    present = [family for family in Family if _exists(family)]
    if present:
        _nft(["-f", "-"], "\n".join(line for family in present for line in _deleted(family)))
    return bool(present)


def present() -> bool:
    """Whether the current namespace has a table of ours. False where there is no nft to ask."""
    try:
        return any(_exists(family) for family in Family)
    except NftError:
        return False


def missing(options: Options, families: tuple[Family, ...]) -> list[str]:
    """What the current namespace lacks; empty where all is in force."""
    found: list[str] = []
    for family in families:
        try:
            entries = _list(family)
        except NftSlow:
            return [*found, f"{family}: table {_FAMILY[family]} {TABLE} is too large to be read in {LIST_SECONDS:g} s"]
        if entries is None:
            found.append(f"{family}: table {_FAMILY[family]} {TABLE} is missing")
            continue
        for chain in layout(family, options):
            found += [f"{family} {TABLE}: {what}" for what in _differences(entries, chain)]
    return found


def mark_in_force(families: tuple[Family, ...]) -> int | None:
    """The agent's mark in the rules that are there; None where they have none. Raises NftError."""
    for family in families:
        for entry in _list(family) or []:
            for expression in _expressions(entry, "raw_output"):
                match expression:
                    case {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": int(mark)}}:
                        return mark
    return None


def _expressions(entry: dict[str, Any], chain: str) -> list[Any]:
    rule = entry.get("rule", {})
    return rule.get("expr", []) if rule.get("chain") == chain else []


def usable() -> None:
    """Raises NftError unless nft works in the current namespace, nat chains included."""
    _nft(["-c", "-f", "-"], _table(Family.IPV4, Options(), _commented))


def _differences(entries: list[dict[str, dict[str, Any]]], wanted: Laid) -> list[str]:
    name = wanted.name
    there = next((entry["chain"] for entry in entries if "chain" in entry and entry["chain"]["name"] == name), None)
    if there is None:
        return [f"chain {name} is missing"]
    if wanted.base is not None and (there.get("type"), there.get("hook"), there.get("prio")) != wanted.base:
        _, hook, priority = wanted.base
        return [f"chain {name} does not hang at {hook} with priority {priority}"]
    here = [entry["rule"].get("comment") for entry in entries if "rule" in entry and entry["rule"]["chain"] == name]
    found = [f"rule '{line.shown}' of chain {name} is missing" for line in wanted.lines if line.comment not in here]
    if not found and here != [line.comment for line in wanted.lines]:
        found.append(f"chain {name} has other rules, or another order, than ours")
    return found


def _table(family: Family, options: Options, words: Callable[[Line], str]) -> str:
    lines = [f"table {_FAMILY[family]} {TABLE} {{"]
    for chain in layout(family, options):
        lines.append(f"  chain {chain.name} {{")
        if chain.base is not None:
            kind, hook, priority = chain.base
            lines.append(f"    type {kind} hook {hook} priority {priority}; policy accept;")
        lines += [f"    {words(line)}" for line in chain.lines]
        lines.append("  }")
    lines.append("}")
    return "\n".join(lines)


def _deleted(family: Family) -> list[str]:
    """`table` makes it where it is not there, so that `delete` never fails."""
    return [f"table {_FAMILY[family]} {TABLE}", f"delete table {_FAMILY[family]} {TABLE}"]


def _exists(family: Family) -> bool:
    try:
        return _list(family) is not None
    except NftSlow:
        return True  # whoever asks takes it away, which needs no table to be there


def _list(family: Family) -> list[dict[str, dict[str, Any]]] | None:
    """What is in our table; None where there is none. Other tables are not read. Raises NftSlow, NftError."""
    listed = _run(["-j", "list", "table", _FAMILY[family], TABLE], "", LIST_SECONDS)
    if listed.returncode != 0:
        if NO_SUCH_TABLE in listed.stderr:
            return None
        raise NftError(f"nft cannot list table {_FAMILY[family]} {TABLE}: {listed.stderr.strip()}")
    found: list[dict[str, dict[str, Any]]] = json.loads(listed.stdout)["nftables"]
    return found


def _nft(arguments: list[str], given: str) -> None:
    done = _run(arguments, given, NFT_SECONDS)
    if done.returncode != 0:
        raise NftError(f"nft {' '.join(arguments)}: {done.stderr.strip()}")


def _run(arguments: list[str], given: str, seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise NftError("nft is not installed: apt-get install nftables") from None
    except subprocess.TimeoutExpired:
        raise NftSlow(f"nft did not answer in {seconds:g} s") from None
