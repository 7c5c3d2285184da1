"""`quietwire init`: installs, verifies, removes or shows the rules that capture one pod's TCP traffic."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

from init.constants import (
    AGENT_MARK,
    AGENT_SOCKET,
    BACKENDS,
    FOREIGN_NAT_HINT,
    INBOUND_PORT,
    MARK_MASK,
    OUTBOUND_PORT,
)
from init.model import Family, OptionError, Options, parse_ports, parse_subnets
from init.netns import NetnsError, Whose, enter, open_netns, whose

T = TypeVar("T")

EPILOG = """examples:
  quietwire init apply --netns web                     capture the namespace /run/netns/web
  quietwire init apply --pid 4711 --skip-outbound-ports 22,8000-8100
  quietwire init check --netns web                     exit 0 only when everything is in force
  quietwire init show --skip-inbound-subnets 192.0.2.0/24
  quietwire init apply --enrol                         in a pod's own init container: current namespace

Only TCP is captured; UDP and QUIC pass."""
PRIVILEGED_HINT = "drop the capabilities NET_RAW and NET_ADMIN from whatever does not need them"
SHOWN_MARK = (
    f"# {AGENT_MARK}: a number that the agent draws, another one for each pod, and that is shown to nobody.\n"
    "# Where no agent has run since the machine was started, rules with it are left out: all is refused until one does."
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="quietwire init",
        description="Install, verify, remove or show the rules that capture one pod's TCP traffic.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="apply|check|remove|show")
    for verb, text in (
        ("apply", "install the rules; twice changes nothing"),
        ("check", "exit 0 only when every rule, route and sysctl is in force, and name what is missing"),
        ("remove", "leave the namespace as it was"),
        ("show", "print the rules, touching nothing"),
    ):
        sub = verbs.add_parser(verb, help=text, description=text, epilog=EPILOG, formatter_class=top.formatter_class)
        where = sub.add_mutually_exclusive_group()
        where.add_argument("--netns", metavar="NAME|PATH", help="a name below /run/netns, or a path")
        where.add_argument("--pid", type=int, metavar="N", help="the namespace of this process")
        sub.add_argument("--skip-inbound-ports", default="", metavar="PORTS", help="not captured, as in 22,8000-8100")
        sub.add_argument("--skip-outbound-ports", default="", metavar="PORTS", help="not captured")
        sub.add_argument("--skip-inbound-subnets", default="", metavar="CIDRS", help="sources not captured")
        sub.add_argument("--skip-outbound-subnets", default="", metavar="CIDRS", help="destinations not captured")
        sub.add_argument("--probe-ports", default="", metavar="PORTS", help="not captured from --probe-sources")
        sub.add_argument("--probe-sources", default="", metavar="CIDRS", help="the node's addresses, of its kubelet")
        sub.add_argument("--outbound-port", type=int, default=OUTBOUND_PORT, metavar="PORT", help="of the agent")
        sub.add_argument("--inbound-port", type=int, default=INBOUND_PORT, metavar="PORT", help="of the agent")
        sub.add_argument("--backend", choices=BACKENDS, default="auto", help="how rules are written")
        sub.add_argument("--no-ipv6", action="store_true", help="capture IPv4 only: IPv6 then bypasses the mesh")
        sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
        if verb == "apply":
            sub.add_argument(
                "--enrol",
                nargs="?",
                const=AGENT_SOCKET,
                metavar="SOCKET",
                help=f"hand the namespace to the node's agent and wait until it is captured (default {AGENT_SOCKET})",
            )
            sub.add_argument("--enrol-timeout", type=float, default=60.0, metavar="SECONDS", help="default 60")
            sub.add_argument("--pod", metavar="NAMESPACE/NAME", help="which pod it is, for --enrol")
        if verb != "show":
            sub.add_argument(
                "--allow-host", action="store_true", help="act on the machine's own namespace, which captures the node"
            )
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; 0 fine, 1 failed or something missing, 2 usage."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["batch"]:
        from init.batch import main as batch  # noqa: PLC0415 - the agent's own entry

        return batch()
    given = parser().parse_args(arguments)
    try:
        options, notes = options_of(given)
        for note in notes:
            sys.stderr.write(f"quietwire init: {note}\n")
        if given.verb == "show":
            return _show(options, given.backend, as_json=given.json)
        fd = open_netns(_namespace(given))
    except OptionError as error:
        return _failed(str(error), as_json=given.json, status=2)
    except NetnsError as error:
        return _failed(f"{error}; {_hint(given)}", as_json=given.json, status=2)
    try:
        if not given.allow_host and (problem := _not_a_pods(fd)):
            return _failed(problem, as_json=given.json, status=2)
        return _act(given, options, fd)
    finally:
        os.close(fd)


def _not_a_pods(fd: int) -> str | None:
    """Why rules may not be touched here without being asked to; None in a pod's namespace. Enters it."""
    try:
        started_in = os.stat("/proc/thread-self/ns/net")
        enter(fd)
        answer = whose(fd, started_in)
    except OSError as error:
        return f"the network namespace cannot be entered: {error.strerror}; run as root, or in the pod's own namespace"
    advice = "Name a pod's with --netns or --pid (or say --allow-host, if that is meant)"
    match answer:
        case Whose.POD:
            return None
        case Whose.MACHINE:
            what = "this is the machine's own network namespace"
        case Whose.UNKNOWN:
            what = "this may be the machine's own network namespace: process 1 cannot be looked at to tell"
    return f"{what}. Rules here would capture the node's traffic, ssh included. {advice}"


def options_of(given: argparse.Namespace) -> tuple[Options, tuple[str, ...]]:
    """What the flags ask for, and what is to be said about how they were written. Raises OptionError."""
    inbound = _flag("skip-inbound-subnets", parse_subnets, given.skip_inbound_subnets)
    outbound = _flag("skip-outbound-subnets", parse_subnets, given.skip_outbound_subnets)
    sources = _flag("probe-sources", parse_subnets, given.probe_sources)
    options = Options(
        skip_inbound_ports=_flag("skip-inbound-ports", parse_ports, given.skip_inbound_ports),
        skip_outbound_ports=_flag("skip-outbound-ports", parse_ports, given.skip_outbound_ports),
        skip_inbound_subnets=inbound.networks,
        skip_outbound_subnets=outbound.networks,
        probe_ports=_flag("probe-ports", parse_ports, given.probe_ports),
        probe_sources=sources.networks,
        outbound_port=given.outbound_port,
        inbound_port=given.inbound_port,
        ipv6=not given.no_ipv6,
    )
    notes = [f"--skip-inbound-subnets: {note}" for note in inbound.notes]
    notes += [f"--skip-outbound-subnets: {note}" for note in outbound.notes]
    notes += [f"--probe-sources: {note}" for note in sources.notes]
    return options, tuple(notes)


def _flag(name: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except OptionError as error:
        raise OptionError(f"--{name}: {error}") from None


def _act(given: argparse.Namespace, options: Options, fd: int) -> int:
    from init import agent_mark  # noqa: PLC0415 - as the next
    from init.engine import Request, run  # noqa: PLC0415 - after the usage errors, which need none of it

    (result,) = run(
        [Request(given.verb, fd, options, given.backend, key=agent_mark.read(), processes=given.verb == "check")],
        time.clock_gettime(time.CLOCK_BOOTTIME),
    )
    for note in result.notes:
        sys.stderr.write(f"quietwire init: {note}\n")
    if result.privileged:
        sys.stderr.write(f"quietwire init: capture cannot hold {', '.join(result.privileged)}: {PRIVILEGED_HINT}\n")
    for rule in result.foreign or ():
        sys.stderr.write(f"quietwire init: a nat rule that comes before capture: {rule}\n")
    if result.foreign:
        sys.stderr.write(f"quietwire init: {FOREIGN_NAT_HINT}\n")
    if result.error is not None:
        hint = "; run as root, or with NET_ADMIN" if os.geteuid() != 0 else ""
        return _failed(f"{result.error}{hint}", as_json=given.json, status=1)
    report = {"verb": given.verb, **asdict(result)}
    if given.verb == "apply" and given.enrol is not None:
        from init.capabilities import drop  # noqa: PLC0415 - only here
        from init.enrol import EnrolError, enrol  # noqa: PLC0415 - only here
        from init.privileged import CAPABILITIES  # noqa: PLC0415 - only here

        def say(reason: str) -> None:
            sys.stderr.write(f"quietwire init: waiting for the agent: {reason}\n")

        try:
            enter(fd)  # the agent takes a namespace only from who is in it
            drop(CAPABILITIES.values())  # it may wait for long, and is then none of those that capture cannot hold
            report["pod"] = enrol(given.enrol, fd, given.pod, given.enrol_timeout, say)
        except EnrolError as error:
            return _failed(str(error), as_json=given.json, status=1)
    if given.json:
        sys.stdout.write(json.dumps(report) + "\n")
    elif given.verb == "check":
        for missing in result.missing:
            sys.stdout.write(f"missing: {missing}\n")
        sys.stdout.write("everything is in force\n" if result.ok else "not captured: run quietwire init apply\n")
    else:
        state = {"apply": "captured", "remove": "as it was"}[given.verb]
        how = f" by {result.backend}" if given.verb == "apply" else ""
        pod = f" {report['pod']}" if "pod" in report else ""
        sys.stdout.write(f"{state}{pod}{how} ({'changed' if result.changed else 'nothing to change'})\n")
    return 0 if result.ok else 1


def _show(options: Options, backend: str, *, as_json: bool) -> int:
    from init import kernel, legacy, nft  # noqa: PLC0415 - only here

    shown = "nft" if backend == "nft" else "legacy"
    marked = replace(options, mark=MARK_MASK + 1)  # any: it is not shown
    rules = nft.show(marked) if shown == "nft" else legacy.show(marked)
    routes = kernel.show(options.families)
    if as_json:
        families = [str(family) for family in Family if family in options.families]
        sys.stdout.write(
            json.dumps({"verb": "show", "backend": shown, "families": families, "rules": rules, "routes": routes})
            + "\n"
        )
    else:
        sys.stdout.write(f"{rules}\n{routes}\n{SHOWN_MARK}\n")
    return 0


def _namespace(given: argparse.Namespace) -> str:
    if given.netns is not None:
        return str(given.netns)
    return f"/proc/{'self' if given.pid is None else given.pid}/ns/net"


def _hint(given: argparse.Namespace) -> str:
    if given.netns is not None:
        return "`ip netns list` shows the names that there are"
    return "does the process still run, and are you root?"


def _failed(message: str, *, as_json: bool, status: int) -> int:
    if as_json:
        sys.stdout.write(json.dumps({"ok": False, "error": message}) + "\n")
    else:
        sys.stderr.write(f"quietwire init: {message}\n")
    return status
