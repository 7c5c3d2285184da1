"""The `nft` applier: tables of our own, `ip quietwire` and `ip6 quietwire`, both written in one transaction.

For kernels without the legacy tables. Every rule carries a comment with a digest of itself, by which `check`
finds it again whatever form nft gives to it.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from init.constants import AGENT_MARK, MARK_MASK, REPLY_MARK
from init.model import Chain, Family, Hook, Listener, Options, Rule, Verdict, chains

TABLE = "quietwire"
NFT_SECONDS = 20.0
LIST_SECONDS = 2.0
"""How long our own table may take to be listed: milliseconds, unless its pod's administrator has filled it. That holds
up no other pod: a table that takes longer is not ours any more, and is replaced without having been read."""
NO_SUCH_TABLE = "No such file or directory"
"""What nft says of a table that is not there; we have it speak English."""

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


class NftSlow(NftError):
    """nft did not answer in time."""


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
        parts.append("ct state invalid,untracked")
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
        lines += _deleted(family)
    lines += [_table(family, chains(family, options), _commented) for family in families]
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
