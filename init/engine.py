"""Applies, verifies and removes the rules of any number of namespaces, in one short-lived process.

Each step enters the namespace that it is about. Whatever needs libxtables is done by a child per family, which
is forked from here, works through all namespaces, and is replaced if libxtables ends it. What is as it was when all was
found in force needs neither (`init.tables`).
"""

import contextlib
import json
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from init import conntrack, foreign_nat, kernel, nft, on_disk, privileged, tables
from init.agent_mark import mark_of_namespace
from init.constants import MARK_MASK, MEMORY_DIRECTORY
from init.kernel import KernelError, Memory
from init.legacy import LegacyError
from init.model import Family, Options
from init.netns import enter, unshare
from init.nft import NftError

T = TypeVar("T")

APPLY, CHECK, REMOVE, REPAIR = "apply", "check", "remove", "repair"

TRUST_SECONDS = 600.0
"""For how long tables whose bytes have not changed are not read again. What is found is what was there in the moment of
reading: whoever changed rules to and fro in that moment would else have made the wrong ones right for ever."""


@dataclass(frozen=True)
class Request:
    """One namespace and what to do with it."""

    op: str
    netns_fd: int
    options: Options = field(default_factory=Options)
    backend: str = "auto"
    recall: bool = False
    """Tables that are as they were when all was found in force need not be read."""
    key: bytes | None = None
    """Of which the agent's mark in the namespace is made, where `options` have none. Without either, the mark that is
    in the rules already is left there."""
    processes: bool = False
    """Say which processes in there capture cannot hold."""
    forget: bool = False
    """What passed without the rules that are written now goes on only where they leave it alone; so it is in any case
    where there were others of ours before."""


@dataclass
class Result:
    """What came of it. `missing` is what `check` found; `notes` is what a person should know, and is no fault."""

    ok: bool = True
    changed: bool = False
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    backend: str | None = None
    stand_ins: bool = False
    """The rules are such that the agent may dial from a stand-in's address (init.stand_in)."""
    privileged: list[str] = field(default_factory=list)
    """Processes in there that capture cannot hold (init.privileged)."""
    capabilities: list[str] | None = None
    """Those of both that any of them has; None where that was not looked for."""
    foreign: list[str] | None = None
    """Rules of others that divert TCP before ours (init.foreign_nat); None where that was not looked for."""

    def fail(self, error: str) -> None:
        """Notes a failure; the first one is kept."""
        self.ok = False
        self.error = self.error or error


@dataclass
class _Job:
    request: Request
    result: Result
    families: tuple[Family, ...]
    memory: Memory
    backend: str
    other_backend: bool
    """Rules of the other backend may be there too."""
    now: float
    news: bool = False
    """There are fingerprints to remember."""

    def options(self, family: Family) -> Options | None:
        """What iptables' tables of a family should have; None: nothing."""
        return self.request.options if self.backend == "legacy" and family in self.families else None


def run(requests: Sequence[Request], now: float) -> list[Result]:
    """Does every request, in order. One that fails does not keep the others from being done.

    `now` is seconds since the machine was started (CLOCK_BOOTTIME). No two requests are about one namespace.
    Ends in some namespace or other: only for processes that end soon.
    """
    results = [Result() for _ in requests]
    jobs: list[_Job] = []
    chosen: str | None = None
    asked = [result for request, result in zip(requests, results, strict=True) if request.processes]
    if asked:  # before anything is entered: we are none of a pod's processes
        named = privileged.named_in([request.netns_fd for request in requests if request.processes])
        for result, said in zip(asked, named, strict=True):
            result.privileged, result.capabilities = said
    for request, result in zip(requests, results, strict=True):
        try:
            enter(request.netns_fd)
            if request.key is not None and request.options.mark is None:
                marked = replace(request.options, mark=mark_of_namespace(request.key))
                request = replace(request, options=marked)  # noqa: PLW2901 - the same one, with what it depends on
            memory = Memory.load()
            backend = request.backend
            if backend == "auto":
                if memory.backend is None and chosen is None:
                    chosen = probe()
                backend = memory.backend or chosen or "legacy"
                if request.op == CHECK and memory.backend is None and nft.present():
                    backend = "nft"  # written by an init step that could keep no memory
            result.backend = backend
            if request.op != REMOVE and request.options.stand_ins and not stand_ins_work(backend):
                without = replace(request.options, stand_ins=False)
                request = replace(request, options=without)  # noqa: PLW2901 - the same one, as far as the kernel can
                result.notes.append(
                    "the kernel lacks NETMAP, MASQUERADE or addrtype (nft: masquerade, prefixes in snat, fib): what a "
                    "pod dials by another's address leaves from another port than the application's, and takes one more"
                )
            result.stand_ins = request.options.stand_ins
            families = request.options.families
            if Family.IPV6 in families and not kernel.has_ipv6():
                families = (Family.IPV4,)
                result.notes.append("no IPv6 rules: the kernel has no IPv6")
            elif Family.IPV6 in families and kernel.ipv6_is_disabled():
                result.notes.append(
                    "IPv6 is disabled (disable_ipv6): its rules are there, its route must wait. The node's agent adds "
                    "it once IPv6 is enabled; without one apply again then"
                )
            jobs.append(_Job(request, result, families, memory, backend, memory.backend != backend, now))
        except (OSError, NftError) as error:
            result.fail(f"the network namespace cannot be entered: {error}")
    # Routes before rules: a captured connection whose replies get lost would only hang.
    for job in jobs:
        if job.request.op == APPLY:
            _in_namespace(job, _prepare)
    for family in Family:
        _with_children(family, [job for job in jobs if _wants_legacy(job, family)])
    for job in jobs:
        _in_namespace(job, _nft_part)
    for job in jobs:
        if job.request.op != APPLY:
            _in_namespace(job, _kernel_part)
    for job in jobs:
        if job.request.op == APPLY and job.result.changed and (job.request.forget or job.memory.backend is not None):
            _in_namespace(job, _forget)
        job.result.ok = job.result.ok and not job.result.missing
        if job.result.error is None:
            _remember(job)
    return results


def repair(requests: Sequence[Request], now: float) -> list[Result]:
    """Checks, and applies what is found missing; `missing` is then what was. The rest as `run`.

    What was opened meanwhile, past the rules that were not there, goes on only where they would have left it alone.
    """
    results = run([replace(request, op=CHECK) for request in requests], now)
    broken = [number for number, result in enumerate(results) if not result.ok]
    again = run([replace(requests[number], op=APPLY, processes=False, forget=True) for number in broken], now)
    for number, result in zip(broken, again, strict=True):
        found = results[number]
        missing = found.missing or [found.error or "it could not be checked"]
        results[number] = replace(
            result,
            missing=missing,
            privileged=found.privileged,
            capabilities=found.capabilities,
            foreign=found.foreign,
        )
    return results


def _remember(job: _Job) -> None:
    match job.request.op:
        case "apply":
            job.memory.backend = job.backend
            job.memory.save()
        case "check":
            if job.request.recall and job.news:
                job.memory.save_fingerprints()
        case _:
            job.memory.forget()


def probe() -> str:
    """`legacy` where its tables work on this kernel, else `nft`; found out once per boot, in a scratch namespace.

    Without NET_RAW it is `nft` in any case: iptables reaches its tables through a raw socket, nft through netlink.

    Nft's chains come before all of iptables' own, and legacy ones only before those of their own table: where a pod's
    containers write nat rules by iptables-nft, `nft` captures what `legacy` can only refuse. Still `legacy` comes
    first: its tables are verified by their bytes in microseconds, and nft's by a process for each pod and family, which
    300 pods on a node would pay for every half minute. What diverts is named, with this way out (init.foreign_nat).
    """
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    except PermissionError:
        return "nft"
    memory = Path(MEMORY_DIRECTORY) / "backend-that-works"
    try:
        known = on_disk.read(memory).strip()
        if known in {b"legacy", b"nft"}:
            return known.decode()
    except OSError:
        known = b""  # found out below
    answer, _ = _in_child(lambda send: send("legacy" if _legacy_works() else "nft"))
    found = answer[0] if answer else "nft"
    try:
        kernel.remember(memory, found.encode())
    except OSError:
        return found  # found out again next time
    return found


@cache
def stand_ins_work(backend: str) -> bool:
    """Whether the kernel can put the pod's own address in a stand-in's place; found out once per boot, as `probe` does.

    True where no scratch namespace can be made, by a pod's own init step: that has no mark, without which there are
    none of these rules, but for the one that it finds in the rules of the node's agent, which has found out.
    """
    memory = Path(MEMORY_DIRECTORY) / f"stand-ins-by-{backend}"
    try:
        known = on_disk.read(memory).strip()
        if known in {b"yes", b"no"}:
            return known == b"yes"
    except OSError:
        known = b""  # found out below
    families = tuple(family for family in Family if family is Family.IPV4 or kernel.has_ipv6())
    answers = [_in_child(partial(_try_stand_ins, backend, family))[0] for family in families]
    if [None] in answers:
        return True
    works = all(answer == [True] for answer in answers)
    with contextlib.suppress(OSError):  # found out again next time
        kernel.remember(memory, b"yes" if works else b"no")
    return works


def _try_stand_ins(backend: str, family: Family, send: Callable[[Any], None]) -> None:
    """In a child: whether one family's rules can be written, and are read as they were written; None: unknown."""
    options = Options(mark=MARK_MASK + 1)
    try:
        unshare()
    except OSError:
        send(None)
        return
    try:
        if backend == "nft":
            nft.apply(options, (family,))
            send(not nft.missing(options, (family,)))
        else:
            _xtables().apply(family, options)
            send(not _xtables().missing(family, options))
    except (LegacyError, NftError, ImportError):  # no stand-ins then; what else is wrong is said when rules are written
        send(False)


def _legacy_works() -> bool:
    scratch = False
    with contextlib.suppress(OSError):  # NET_ADMIN only, as in a Kubernetes pod: then it is tried where we are
        unshare()
        scratch = True
    try:
        xtables = _xtables()
        xtables.usable(Family.IPV4)
        if scratch:  # what is written must be what is read: a library may say nothing of what it does not know
            everything = Options(
                skip_inbound_ports=((9, 9),),
                skip_outbound_subnets=("192.0.2.0/24",),
                mark=MARK_MASK + 1,
                stand_ins=False,
            )
            xtables.apply(Family.IPV4, everything)
            return not xtables.missing(Family.IPV4, everything)
    except (LegacyError, ImportError):  # then nft is used, and if that does not work either, it is an error
        return False
    return True


def _in_namespace(job: _Job, work: Callable[[_Job], None]) -> None:
    if job.result.error is not None:
        return
    try:
        enter(job.request.netns_fd)
        work(job)
    except (OSError, KernelError, NftError) as error:
        job.result.fail(str(error))
    except Exception as error:  # pyroute2's NetlinkError derives from Exception alone
        if type(error).__module__.partition(".")[0] != "pyroute2":
            raise
        job.result.fail(f"netlink: {error}")


def _forget(job: _Job) -> None:
    try:
        conntrack.forget_untranslated()
    except OSError as error:  # the rules are in force all the same
        job.result.notes.append(f"connections that were opened without the rules may go on uncaptured: {error}")


def _prepare(job: _Job) -> None:
    job.result.changed |= kernel.prepare(job.families, job.memory)
    _note_early_demux(job)


def _note_early_demux(job: _Job) -> None:
    if kernel.takes_ports_for_one() and not job.result.missing:
        job.result.notes.append(
            "net.ipv4.tcp_early_demux is on and cannot be turned off here (/proc/sys is read-only): from one port "
            "nobody can have connections to two of the pod's. The node's agent turns it off; without one, set it to 0 "
            "in the pod's securityContext.sysctls"
        )


def _kernel_part(job: _Job) -> None:
    if job.request.op == CHECK:
        job.result.missing += kernel.missing(job.families)
        _note_early_demux(job)
        job.result.foreign = foreign_nat.diverting(nft.FIRST_NAT if job.backend == "nft" else None)
    else:
        job.result.changed |= kernel.undo(job.memory)


def _nft_part(job: _Job) -> None:
    if job.backend == "nft":
        options = job.request.options
        if job.request.op != REMOVE:
            options = _with_mark(options, nft.mark_in_force, job.families)
        match job.request.op:
            case "apply":
                job.result.changed |= nft.apply(options, job.families)
            case "check":
                job.result.missing += nft.missing(options, job.families)
            case _:
                job.result.changed |= nft.remove()
    elif job.other_backend and job.request.op != CHECK:
        try:
            job.result.changed |= nft.remove()
        except NftError:
            return  # without nft nobody wrote rules with it


def _wants_legacy(job: _Job, family: Family) -> bool:
    if job.result.error is not None:
        return False
    if job.request.op == CHECK:
        return job.options(family) is not None and not _as_it_was(job, family)
    if job.backend == "legacy":
        return job.request.op == REMOVE or not _as_it_was(job, family)
    return job.other_backend


def _as_it_was(job: _Job, family: Family) -> bool:
    """Whether the tables are to the byte what they were when what is wanted now was found in force."""
    known = job.memory.tables.get(str(family))
    age = job.now - job.memory.read_at.get(str(family), -math.inf)
    if known is None or not job.request.recall or not 0 <= age < TRUST_SECONDS:
        return False
    try:
        enter(job.request.netns_fd)
    except OSError:
        return False  # whoever does the job says so
    return known == tables.fingerprints(family, job.options(family))


def _with_children(family: Family, jobs: list[_Job]) -> None:
    """Works through the jobs in a child; where libxtables ends it, the job at hand failed, and another goes on."""
    remaining = list(jobs)
    while remaining:
        answers, status = _in_child(partial(_legacy_jobs, family, remaining))
        for job, answer in zip(remaining, answers, strict=False):
            if answer.get("error"):
                job.result.fail(answer["error"])
            job.result.changed |= answer.get("changed", False)
            job.result.missing += answer.get("missing", [])
            if "fingerprints" in answer:
                job.memory.tables[str(family)] = answer["fingerprints"]
                job.memory.read_at[str(family)] = job.now
                job.news = True
        remaining = remaining[len(answers) :]
        if remaining:
            remaining.pop(0).result.fail(
                f"{family}: libxtables ended its process (status {status}); its words are above"
            )


def _xtables() -> Any:
    from init import xtables  # noqa: PLC0415 - loads libxtables, which only a short-lived child may do

    return xtables


def _legacy_jobs(family: Family, jobs: list[_Job], send: Callable[[Any], None]) -> None:
    for job in jobs:
        send(_legacy_job(family, job))


def _legacy_job(family: Family, job: _Job) -> dict[str, Any]:
    """One namespace, in the child."""
    options = job.options(family)
    try:
        enter(job.request.netns_fd)
        if job.request.op == REMOVE:
            return {"changed": _xtables().remove(family)}
        if options is not None:
            options = _with_mark(options, _xtables().mark_in_force, family)
        before = tables.fingerprints(family, options)
        if options is None:
            answer = {"changed": _xtables().remove(family)}
        elif job.request.op == CHECK:
            answer = {"missing": _xtables().missing(family, options)}
        else:
            answer = {"changed": _xtables().apply(family, options)}
        # Of a table that was changed meanwhile, by us or by others, nobody has read what is in it now.
        if not any(answer.values()) and before is not None and before == tables.fingerprints(family, options):
            answer["fingerprints"] = before
    except (OSError, LegacyError, ImportError) as error:
        if options is None:
            return {}  # tables that cannot be opened hold no rules of ours
        return {"error": str(error)}
    return answer


def _with_mark(options: Options, in_force: Callable[[T], int | None], where: T) -> Options:
    """Options with the mark that is in force, for those who do not know the agent's: a pod's own init step, say."""
    return options if options.mark is not None else replace(options, mark=in_force(where))


def _in_child(work: Callable[[Callable[[Any], None]], object]) -> tuple[list[Any], int]:
    """Runs `work` in a forked child; what it sent, and its exit status."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            work(lambda answer: _send(write, answer))
            status = 0
        except BaseException:  # noqa: BLE001 - a forked child must never return into the parent's code
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "r", encoding="utf-8") as lines:
        answers = [json.loads(line) for line in lines if line.endswith("\n")]
    _, wait_status = os.waitpid(pid, 0)
    return answers, os.waitstatus_to_exitcode(wait_status)


def _send(fd: int, answer: Any) -> None:
    data = memoryview(json.dumps(answer).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]
