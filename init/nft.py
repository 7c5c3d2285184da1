"""The `nft` applier: tables of our own, `ip quietwire` and `ip6 quietwire`, both written in one transaction.

For kernels without the legacy tables. Every rule carries a comment with a digest of itself, by which `check`
finds it again whatever form nft gives to it.
"""

import hashlib
import json
import subprocess
from collections.abc import Callable
from typing import Any

from init.constants import AGENT_MARK, MARK_MASK, REPLY_MARK
from init.model import Chain, Family, Hook, Listener, Options, Rule, Verdict, chains

TABLE = "quietwire"
NFT_SECONDS = 20.0

_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_BASE = {
    # One step before iptables' own priorities: our rules come first.
    Hook.RAW_OUTPUT: ("filter", "output", -301),
    Hook.NAT_OUTPUT: ("nat", "output", -101),
    Hook.NAT_PREROUTING: ("nat", "prerouting", -101),
    Hook.MANGLE_PREROUTING: ("filter", "prerouting", -151),
    Hook.MANGLE_INPUT: ("filter", "input", -151),
    Hook.MANGLE_OUTPUT: ("route", "output", -151),
    Hook.MANGLE_POSTROUTING: ("filter", "postrouting", -151),
}


class NftError(Exception):
    """nft refused; `str` has its words."""


def text(rule: Rule, family: Family) -> str:
    """A rule in nft's language."""
    parts = ["meta l4proto tcp"]
    if rule.mark is not None:
        parts.append(f"meta mark {rule.mark:#x}")
    if rule.connmark is not None:
        parts.append(f"ct mark & {MARK_MASK:#x} == {rule.connmark:#x}")
    if rule.out_loopback:
        parts.append('oifname "lo"')
    if rule.spare_resets:
        parts.append("tcp flags & rst == 0")
    if rule.opens:
        parts.append("tcp flags & (fin | syn | rst | ack) == syn")
    if rule.invalid:
        parts.append("ct state invalid")
    if rule.ports:
        ranges = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in rule.ports)
        parts.append(f"tcp dport {{ {ranges} }}")
    if rule.listener is not None:
        parts.append(f"socket transparent {int(rule.listener is Listener.AGENT)}")
    if rule.source is not None:
        parts.append(f"{_FAMILY[family]} saddr {rule.source}")
    if rule.destination is not None:
        parts.append(f"{_FAMILY[family]} daddr {rule.destination}")
    keep = 0xFFFFFFFF ^ MARK_MASK
    parts.append(
        {
            Verdict.LEAVE: "return",
            Verdict.REDIRECT: f"redirect to :{rule.port}",
            Verdict.REMEMBER: f"ct mark set ct mark & {keep:#x} | {REPLY_MARK:#x}",
            Verdict.DROP: "drop",
            Verdict.OWN_ZONE: f"ct original zone set {rule.zone}",
            Verdict.MARK_REPLY: f"meta mark set {REPLY_MARK:#x}",
            Verdict.UNMARK: "meta mark set 0",
        }[rule.verdict]
    )
    return " ".join(parts)


def shown(rule: Rule, family: Family) -> str:
    """A rule for people to read: the agent's mark is not told."""
    written = text(rule, family)
    return written if rule.mark is None else written.replace(f"meta mark {rule.mark:#x}", f"meta mark {AGENT_MARK}")


def comment(rule: Rule, family: Family) -> str:
    """What identifies a rule: a digest of its text."""
    return "qw-" + hashlib.sha256(text(rule, family).encode()).hexdigest()[:16]


def _commented(rule: Rule, family: Family) -> str:
    return f'{text(rule, family)} comment "{comment(rule, family)}"'


def show(options: Options) -> str:
    """All rules, as `nft -f` reads them but for the agent's mark."""
    return "\n".join(_table(family, chains(family, options), shown) for family in options.families)


def apply(options: Options, families: tuple[Family, ...]) -> bool:
    """Replaces our tables in the current namespace, in one transaction; whether anything changed."""
    unwanted = [family for family in Family if family not in families and _exists(family)]
    if not unwanted and not missing(options, families):
        return False
    lines = []
    for family in Family:
        # `table` makes it where it is not there, so that `delete` never fails.
        lines += [f"table {_FAMILY[family]} {TABLE}", f"delete table {_FAMILY[family]} {TABLE}"]
    lines += [_table(family, chains(family, options), _commented) for family in families]
    _nft(["-f", "-"], "\n".join(lines))
    return True


def remove() -> bool:
    """Deletes our tables from the current namespace; whether there were any."""
    present = [family for family in Family if _exists(family)]
    if present:
        _nft(["-f", "-"], "\n".join(f"delete table {_FAMILY[family]} {TABLE}" for family in present))
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
        entries = _list(family)
        if entries is None:
            found.append(f"{family}: table {_FAMILY[family]} {TABLE} is missing")
            continue
        for chain in chains(family, options):
            found += [f"{family} {TABLE}: {what}" for what in _differences(entries, family, chain)]
    return found


def mark_in_force(families: tuple[Family, ...]) -> int | None:
    """The agent's mark in the rules that are there; None where they have none. Raises NftError."""
    name = _chain_name(Hook.RAW_OUTPUT)
    for family in families:
        for entry in _list(family) or []:
            for expression in _expressions(entry, name):
                match expression:
                    case {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": int(mark)}}:
                        return mark
    return None


def _expressions(entry: dict[str, Any], chain: str) -> list[Any]:
    rule = entry.get("rule", {})
    return rule.get("expr", []) if rule.get("chain") == chain else []


def usable() -> None:
    """Raises NftError unless nft works in the current namespace, nat chains included."""
    _nft(["-c", "-f", "-"], _table(Family.IPV4, chains(Family.IPV4, Options()), _commented))


def _differences(entries: list[dict[str, dict[str, Any]]], family: Family, chain: Chain) -> list[str]:
    kind, hook, priority = _BASE[chain.hook]
    name = _chain_name(chain.hook)
    base = next((entry["chain"] for entry in entries if "chain" in entry and entry["chain"]["name"] == name), None)
    if base is None:
        return [f"chain {name} is missing"]
    if (base.get("type"), base.get("hook"), base.get("prio")) != (kind, hook, priority):
        return [f"chain {name} does not hang at {hook} with priority {priority}"]
    here = [entry["rule"].get("comment") for entry in entries if "rule" in entry and entry["rule"]["chain"] == name]
    wanted = [comment(rule, family) for rule in chain.rules]
    found = [
        f"rule '{shown(rule, family)}' of chain {name} is missing"
        for rule, each in zip(chain.rules, wanted, strict=True)
        if each not in here
    ]
    if not found and here != wanted:
        found.append(f"chain {name} has other rules, or another order, than ours")
    return found


def _table(family: Family, wanted: tuple[Chain, ...], words: Callable[[Rule, Family], str]) -> str:
    lines = [f"table {_FAMILY[family]} {TABLE} {{"]
    for chain in wanted:
        kind, hook, priority = _BASE[chain.hook]
        lines += [
            f"  chain {_chain_name(chain.hook)} {{",
            f"    type {kind} hook {hook} priority {priority}; policy accept;",
        ]
        lines += [f"    {words(rule, family)}" for rule in chain.rules]
        lines.append("  }")
    lines.append("}")
    return "\n".join(lines)


def _chain_name(hook: Hook) -> str:
    return f"{hook.table}_{hook.builtin.lower()}"


def _exists(family: Family) -> bool:
    return _list(family) is not None


def _list(family: Family) -> list[dict[str, dict[str, Any]]] | None:
    listed = _run(["-j", "list", "tables"], "")
    if listed.returncode != 0:
        raise NftError(f"nft cannot list tables: {listed.stderr.strip()}")
    tables = [entry["table"] for entry in json.loads(listed.stdout)["nftables"] if "table" in entry]
    if not any(table["family"] == _FAMILY[family] and table["name"] == TABLE for table in tables):
        return None
    found: list[dict[str, dict[str, Any]]] = json.loads(_nft(["-j", "list", "table", _FAMILY[family], TABLE], ""))[
        "nftables"
    ]
    return found


def _nft(arguments: list[str], given: str) -> str:
    done = _run(arguments, given)
    if done.returncode != 0:
        raise NftError(f"nft {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _run(arguments: list[str], given: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", *arguments], input=given, capture_output=True, text=True, timeout=NFT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise NftError("nft is not installed: apt-get install nftables") from None
    except subprocess.TimeoutExpired:
        raise NftError(f"nft did not answer in {NFT_SECONDS:g} s") from None
