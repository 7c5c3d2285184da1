"""The `legacy` applier: iptables' own tables through python-iptables.

Only ever imported in a short-lived, single-threaded process, one per family: libxtables registers REDIRECT for one
family per process, crashes with two threads, and ends the process on some errors. `init.engine` sees to it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from init import legacy, tables
from init.legacy import LegacyError, Spec
from init.model import Chain, Family, Hook, Options, chains
from init.python_iptables import iptc

COMMIT_TRIES = 8
"""A commit fails with EAGAIN where somebody else changed the table meanwhile: read again, build again."""
XTABLES_LOCK = "/run/xtables.lock"
"""iptables' own lock: the kernel notices only changes of a table's length, so others must not write meanwhile."""
LOCK_SECONDS = 10.0
MAX_ENTRIES = 4096
"""Rules and ends of chains of a table. python-iptables takes a third of a millisecond for each: where a pod's
administrator has written more, nothing is read, and no other pod is held up."""
OPTION_ENTRY_GROWTH = 8
"""By how much struct xt_option_entry (xtables.h) grew with iptables 1.8.11, under the same version of the library."""


def apply(family: Family, options: Options) -> bool:
    """Brings the tables of the current namespace to the model; whether anything changed."""
    changed = False
    for table in _tables(chains(family, options)):
        changed |= _edit(family, table, lambda handle, wanted: _bring(handle, family, wanted), chains(family, options))
    return changed


def remove(family: Family) -> bool:
    """Takes our chains and jumps out of the current namespace; whether there were any."""
    changed = False
    failed: LegacyError | None = None
    for table in _tables(chains(family, Options())):
        try:
            changed |= _edit(family, table, _take_out, chains(family, Options()))
        except LegacyError as error:  # a table that this kernel does not have keeps nobody's rules in the others
            failed = failed or error
    if failed is not None:
        raise failed
    return changed


def missing(family: Family, options: Options) -> list[str]:
    """What the current namespace lacks, in iptables' words; empty where all is in force."""
    found: list[str] = []
    for table in _tables(chains(family, options)):
        handle = _open(family, table)
        try:
            here = [chain for chain in chains(family, options) if chain.hook.table == table]
            found += [f"{family} {table}: {what}" for what in _differences(handle, family, here)]
        finally:
            _close_all()
    return found


def mark_in_force(family: Family) -> int | None:
    """The agent's mark in the rules that are there; None where they have none. Raises LegacyError."""
    hook = Hook.RAW_OUTPUT
    handle = _open(family, hook.table)
    try:
        for rule in iptc.Chain(handle, hook.builtin).rules:
            found = _decoded(rule, ipv6=family is Family.IPV6)
            if found.get("target") == hook.chain and "mark" in found:
                return int(found["mark"]["mark"], 0)
    finally:
        _close_all()
    return None


def usable(family: Family) -> None:
    """Raises LegacyError unless the current namespace's tables can be opened."""
    for table in _tables(chains(family, Options())):
        _open(family, table)
        _close_all()


def _tables(wanted: tuple[Chain, ...]) -> list[str]:
    return list(dict.fromkeys(chain.hook.table for chain in wanted))


def _edit(family: Family, table: str, change: Callable[[Any, list[Chain]], bool], wanted: tuple[Chain, ...]) -> bool:
    here = [chain for chain in wanted if chain.hook.table == table]
    for _ in range(COMMIT_TRIES):
        with _lock():
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


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    try:
        fd = os.open(XTABLES_LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # a container with a /run that cannot be written: nobody else is there either
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(fd):
            if time.monotonic() > deadline:
                raise LegacyError(f"another program has held {XTABLES_LOCK} for {LOCK_SECONDS:g} s; fuser -v names it")
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # somebody else has it: waited for, and then an error
        return False
    return True


def _errno(error: Exception) -> int | None:
    return next((arg for arg in error.args if isinstance(arg, int)), None)


def _bring(handle: Any, family: Family, wanted: list[Chain]) -> bool:
    if not _differences(handle, family, wanted):
        return False
    ipv6 = family is Family.IPV6
    for chain in wanted:
        ours = chain.hook.chain
        chain_handle = iptc.Chain(handle, ours) if handle.is_chain(ours) else handle.create_chain(ours)
        chain_handle.flush()
        for rule in chain.rules:
            chain_handle.append_rule(iptc.easy.encode_iptc_rule(legacy.spec(rule), ipv6=ipv6))
        _unlink(handle, chain.hook)
    for chain in reversed(wanted):  # the last to be inserted is the first
        builtin = iptc.Chain(handle, chain.hook.builtin)
        builtin.insert_rule(iptc.easy.encode_iptc_rule(legacy.jump(chain), ipv6=ipv6))
    return True


def _take_out(handle: Any, wanted: list[Chain]) -> bool:
    changed = False
    for chain in wanted:
        changed |= _unlink(handle, chain.hook)
        if handle.is_chain(chain.hook.chain):
            iptc.Chain(handle, chain.hook.chain).flush()
            handle.delete_chain(chain.hook.chain)
            changed = True
    return changed


def _unlink(handle: Any, hook: Hook) -> bool:
    builtin = iptc.Chain(handle, hook.builtin)
    found = [rule for rule in builtin.rules if rule.target is not None and rule.target.name == hook.chain]
    for rule in found:
        builtin.delete_rule(rule)
    return bool(found)


def _differences(handle: Any, family: Family, wanted: list[Chain]) -> list[str]:
    """What a table lacks of all the chains that we want in it."""
    ipv6 = family is Family.IPV6
    found = []
    for builtin in dict.fromkeys(chain.hook.builtin for chain in wanted):
        ours = [chain for chain in wanted if chain.hook.builtin == builtin]
        rules = [_decoded(rule, ipv6=ipv6) for rule in iptc.Chain(handle, builtin).rules]
        absent = [chain.hook.chain for chain in ours if legacy.jump(chain) not in rules]
        found += [f"the jump from {builtin} to {name} is missing" for name in absent]
        if not absent and rules[: len(ours)] != [legacy.jump(chain) for chain in ours]:
            names = " and ".join(chain.hook.chain for chain in ours)
            found.append(f"the jump from {builtin} to {names} is not the first rule")
    for chain in wanted:
        found += _differences_of_chain(handle, family, chain)
    return found


def _differences_of_chain(handle: Any, family: Family, chain: Chain) -> list[str]:
    hook = chain.hook
    if not handle.is_chain(hook.chain):
        return [f"chain {hook.chain} is missing"]
    here = [_decoded(rule, ipv6=family is Family.IPV6) for rule in iptc.Chain(handle, hook.chain).rules]
    wanted = [legacy.spec(rule) for rule in chain.rules]
    found = [
        f"rule '-A {hook.chain} {legacy.text(rule)}' is missing"
        for rule, each in zip(chain.rules, wanted, strict=True)
        if each not in here
    ]
    if not found and here != wanted:
        found.append(f"chain {hook.chain} has other rules, or another order, than ours")
    return found


def _decoded(rule: Any, *, ipv6: bool) -> Spec:
    found: Spec = iptc.easy.decode_iptc_rule(rule, ipv6=ipv6)
    found.pop("counters", None)
    return found


def _option_lookup(self: Any, entries: Any, name: bytes) -> Any:
    """In place of python-iptables' own, which knows shorter entries than those of iptables 1.8.11.

    It would find the first option of each extension and say nothing of the others: `-j CT`, without its zone.
    """
    entry_bytes = _entry_bytes(self)
    address = ctypes.addressof(entries.contents)
    while (entry := iptc.xtables.xt_option_entry.from_address(address)).name:
        if entry.name == name:
            return entry
        address += entry_bytes
    return None


iptc.xtables.xtables._option_lookup = _option_lookup


@cache
def _entry_bytes(library: Any) -> int:
    """Bytes from one entry to the next, by the second of multiport's, which has been `sports` for ever."""
    multiport = library.find_match("multiport")[0].x6_options
    known = ctypes.sizeof(iptc.xtables.xt_option_entry)
    for size in (known, known + OPTION_ENTRY_GROWTH):
        if ctypes.c_char_p.from_address(ctypes.addressof(multiport.contents) + size).value == b"sports":
            return size
    raise LegacyError("python-iptables does not know this version of libxtables; use --backend nft")


def _open(family: Family, table: str) -> Any:
    kind = iptc.Table6 if family is Family.IPV6 else iptc.Table
    try:
        handle = kind(table, autocommit=False)
        handle.refresh()  # python-iptables remembers tables by name: of another namespace, perhaps
    except iptc.IPTCError as error:
        needs = "; it needs NET_ADMIN and NET_RAW, --backend nft only NET_ADMIN" if "ermission" in str(error) else ""
        raise LegacyError(f"{family} table {table} cannot be opened: {error}{needs}") from error
    count = tables.entries(family, table)  # after it was opened, which loads what asks for it
    if count > MAX_ENTRIES:
        _close_all()
        raise LegacyError(
            f"{family} table {table} has {count} rules, and no more than {MAX_ENTRIES} can be read in time"
        )
    return handle


def _close_all() -> None:
    """Closes the table and every other that python-iptables opened on the way, so that no namespace is pinned."""
    for kind in (iptc.Table, iptc.Table6):
        for other in list(kind._cache.values()):
            other.autocommit = False
            other.close()
        kind._cache.clear()
        kind.existing_table_names.clear()
