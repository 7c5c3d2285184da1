"""The `legacy` applier: iptables' own tables through python-iptables.

Only ever used in a short-lived, single-threaded process, one per family: libxtables registers REDIRECT for one
family per process, crashes with two threads, and ends the process on some errors. `init.engine` sees to it.
"""

import errno
from collections.abc import Callable
from typing import Any

from init.constants import MARK_MASK, REPLY_MARK
from init.model import Chain, Family, Hook, Options, Ports, Rule, Verdict, chains

COMMIT_TRIES = 8
"""A commit fails with EAGAIN where somebody else changed the table meanwhile: read again, build again."""

Spec = dict[str, Any]


class LegacyError(Exception):
    """The tables cannot be read or written; `str` says which."""


def spec(rule: Rule) -> Spec:
    """A rule as python-iptables writes it."""
    found: Spec = {}
    if rule.mark is not None:
        found["mark"] = {"mark": _masked(rule.mark)}
    if rule.connmark is not None:
        found["connmark"] = {"mark": _masked(rule.connmark)}
    if rule.out_loopback:
        found["out-interface"] = "lo"
    if rule.ports:
        found["protocol"] = "tcp"
        found["multiport"] = {"dports": ",".join(_port_range(ports) for ports in rule.ports)}
    if rule.source is not None:
        found["src"] = rule.source
    if rule.destination is not None:
        found["dst"] = rule.destination
    match rule.verdict:
        case Verdict.LEAVE:
            found["target"] = "RETURN"
        case Verdict.REDIRECT:
            found["protocol"] = "tcp"
            found["target"] = {"REDIRECT": {"to-ports": str(rule.port)}}
        case Verdict.REMEMBER:
            found["target"] = {"CONNMARK": {"set-xmark": _masked(REPLY_MARK)}}
        case Verdict.MARK_REPLY:
            found["target"] = {"MARK": {"set-xmark": _masked(REPLY_MARK)}}
    return found


def jump(hook: Hook) -> Spec:
    """The rule in the kernel's chain that leads to ours."""
    return {"protocol": "tcp", "target": hook.chain}


def text(rule: Rule) -> str:
    """A rule as iptables-save prints it, without its chain."""
    parts = []
    if rule.source is not None:
        parts.append(f"-s {rule.source}")
    if rule.destination is not None:
        parts.append(f"-d {rule.destination}")
    if rule.out_loopback:
        parts.append("-o lo")
    if rule.ports or rule.verdict is Verdict.REDIRECT:
        parts.append("-p tcp")
    if rule.mark is not None:
        parts.append(f"-m mark --mark {_masked(rule.mark)}")
    if rule.connmark is not None:
        parts.append(f"-m connmark --mark {_masked(rule.connmark)}")
    if rule.ports:
        parts.append(f"-m multiport --dports {','.join(_port_range(ports) for ports in rule.ports)}")
    parts.append(
        {
            Verdict.LEAVE: "-j RETURN",
            Verdict.REDIRECT: f"-j REDIRECT --to-ports {rule.port}",
            Verdict.REMEMBER: f"-j CONNMARK --set-xmark {_masked(REPLY_MARK)}",
            Verdict.MARK_REPLY: f"-j MARK --set-xmark {_masked(REPLY_MARK)}",
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
            for chain in here:
                lines.append(f"-I {chain.hook.builtin} 1 -p tcp -j {chain.hook.chain}")
                lines += [f"-A {chain.hook.chain} {text(rule)}" for rule in chain.rules]
            lines.append("COMMIT")
    return "\n".join(lines)


def apply(family: Family, options: Options) -> bool:
    """Brings the tables of the current namespace to the model; whether anything changed."""
    changed = False
    for table in _tables(chains(family, options)):
        changed |= _edit(family, table, lambda handle, wanted: _bring(handle, family, wanted), chains(family, options))
    return changed


def remove(family: Family) -> bool:
    """Takes our chains and jumps out of the current namespace; whether there were any."""
    changed = False
    for table in _tables(chains(family, Options())):
        changed |= _edit(family, table, _take_out, chains(family, Options()))
    return changed


def missing(family: Family, options: Options) -> list[str]:
    """What the current namespace lacks, in iptables' words; empty where all is in force."""
    found: list[str] = []
    for table in _tables(chains(family, options)):
        handle = _open(family, table)
        try:
            for chain in chains(family, options):
                if chain.hook.table == table:
                    found += [f"{family} {table}: {what}" for what in _differences(handle, family, chain)]
        finally:
            _close_all()
    return found


def usable(family: Family) -> None:
    """Raises LegacyError unless the current namespace's nat and mangle tables can be opened."""
    for table in ("nat", "mangle"):
        _open(family, table)
        _close_all()


def _tables(wanted: tuple[Chain, ...]) -> list[str]:
    return list(dict.fromkeys(chain.hook.table for chain in wanted))


def _edit(family: Family, table: str, change: Callable[[Any, list[Chain]], bool], wanted: tuple[Chain, ...]) -> bool:
    import iptc  # noqa: PLC0415 - loads libxtables, which only a short-lived child may do

    here = [chain for chain in wanted if chain.hook.table == table]
    for _ in range(COMMIT_TRIES):
        handle = _open(family, table)
        try:
            if not change(handle, here):
                return False
            handle.commit()
        except iptc.IPTCError as error:
            if error.args and "temporarily unavailable" not in str(error) and _errno(error) != errno.EAGAIN:
                raise LegacyError(f"{family} table {table} cannot be written: {error}") from error
        else:
            return True
        finally:
            _close_all()
    raise LegacyError(f"{family} table {table} was changed by somebody else {COMMIT_TRIES} times in a row; try again")


def _errno(error: Exception) -> int | None:
    return next((arg for arg in error.args if isinstance(arg, int)), None)


def _bring(handle: Any, family: Family, wanted: list[Chain]) -> bool:
    if not any(_differences(handle, family, chain) for chain in wanted):
        return False
    import iptc  # noqa: PLC0415 - see above

    ipv6 = family is Family.IPV6
    for chain in wanted:
        ours = chain.hook.chain
        chain_handle = iptc.Chain(handle, ours) if handle.is_chain(ours) else handle.create_chain(ours)
        chain_handle.flush()
        for rule in chain.rules:
            chain_handle.append_rule(iptc.easy.encode_iptc_rule(spec(rule), ipv6=ipv6))
        _unlink(handle, chain.hook)
        builtin = iptc.Chain(handle, chain.hook.builtin)
        builtin.insert_rule(iptc.easy.encode_iptc_rule(jump(chain.hook), ipv6=ipv6))
    return True


def _take_out(handle: Any, wanted: list[Chain]) -> bool:
    import iptc  # noqa: PLC0415 - see above

    changed = False
    for chain in wanted:
        changed |= _unlink(handle, chain.hook)
        if handle.is_chain(chain.hook.chain):
            iptc.Chain(handle, chain.hook.chain).flush()
            handle.delete_chain(chain.hook.chain)
            changed = True
    return changed


def _unlink(handle: Any, hook: Hook) -> bool:
    import iptc  # noqa: PLC0415 - see above

    builtin = iptc.Chain(handle, hook.builtin)
    found = [rule for rule in builtin.rules if rule.target is not None and rule.target.name == hook.chain]
    for rule in found:
        builtin.delete_rule(rule)
    return bool(found)


def _differences(handle: Any, family: Family, chain: Chain) -> list[str]:
    import iptc  # noqa: PLC0415 - see above

    ipv6 = family is Family.IPV6
    hook = chain.hook
    jumps = [_decoded(rule, ipv6=ipv6) for rule in iptc.Chain(handle, hook.builtin).rules]
    wanted_jump = jump(hook)
    found = []
    if wanted_jump not in jumps:
        found.append(f"the jump from {hook.builtin} to {hook.chain} is missing")
    elif jumps[0] != wanted_jump:
        found.append(f"the jump from {hook.builtin} to {hook.chain} is not the first rule")
    if not handle.is_chain(hook.chain):
        return [*found, f"chain {hook.chain} is missing"]
    here = [_decoded(rule, ipv6=ipv6) for rule in iptc.Chain(handle, hook.chain).rules]
    wanted = [spec(rule) for rule in chain.rules]
    found += [
        f"rule '-A {hook.chain} {text(rule)}' is missing"
        for rule, each in zip(chain.rules, wanted, strict=True)
        if each not in here
    ]
    if not found and here != wanted:
        found.append(f"chain {hook.chain} has other rules, or another order, than ours")
    return found


def _decoded(rule: Any, *, ipv6: bool) -> Spec:
    import iptc  # noqa: PLC0415 - see above

    found: Spec = iptc.easy.decode_iptc_rule(rule, ipv6=ipv6)
    found.pop("counters", None)
    return found


def _open(family: Family, table: str) -> Any:
    import iptc  # noqa: PLC0415 - see above

    kind = iptc.Table6 if family is Family.IPV6 else iptc.Table
    try:
        handle = kind(table, autocommit=False)
        handle.refresh()  # python-iptables remembers tables by name: of another namespace, perhaps
    except iptc.IPTCError as error:
        raise LegacyError(f"{family} table {table} cannot be opened: {error}") from error
    return handle


def _close_all() -> None:
    """Closes the table and every other that python-iptables opened on the way, so that no namespace is pinned."""
    import iptc  # noqa: PLC0415 - see above

    for kind in (iptc.Table, iptc.Table6):
        for other in list(kind._cache.values()):
            other.autocommit = False
            other.close()
        kind._cache.clear()
        kind.existing_table_names.clear()


def _masked(mark: int) -> str:
    return f"{mark:#x}/{MARK_MASK:#x}"


def _port_range(ports: Ports) -> str:
    first, last = ports
    return str(first) if first == last else f"{first}:{last}"
