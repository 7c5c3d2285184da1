"""What is not a rule: the policy route that brings replies to the agent, the loopback interface, two sysctls.

Everything here acts on the network namespace of the calling thread.
"""

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from init import on_disk
from init.constants import MARK_MASK, MEMORY_DIRECTORY, REPLY_MARK, ROUTE_TABLE, RULE_PRIORITY
from init.model import Family

SO_NETNS_COOKIE = 71
"""asm-generic/socket.h, Linux 5.14: a number that no other namespace gets until the next boot."""

IPV6 = Path("/proc/sys/net/ipv6")
RP_FILTER = Path("/proc/sys/net/ipv4/conf")
STRICT, LOOSE = 1, 2
EARLY_DEMUX = (Path("/proc/sys/net/ipv4/ip_early_demux"), Path("/proc/sys/net/ipv4/tcp_early_demux"))
"""In effect for TCP, of IPv6 too, where both are on; the second is the one that is turned off."""
LOOPBACK = 1
"""LOOPBACK_IFINDEX: the index of lo in every namespace (the kernel's net/net_namespace.h)."""

_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_ANYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


class KernelError(Exception):
    """Something that the rules need cannot be set; `str` says what to do."""


@dataclass
class Memory:
    """What `remove` must know: which backend wrote the rules, and what was changed besides. Kept by namespace.

    The file is named for the namespace's inode number, which the kernel gives out again: so there are never more
    files than namespaces were alive at once. The cookie inside says whether it is about this namespace.
    """

    backend: str | None = None
    rp_filter: int | None = None
    """conf.lo.rp_filter as it was; None where it was not changed."""
    early_demux: int | None = None
    """tcp_early_demux as it was; None where it was not changed."""
    loopback_was_down: bool = False
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    """By family: the fingerprints of its tables (init.tables) when all was found in force there."""
    read_at: dict[str, float] = field(default_factory=dict)
    """By family: when that was, seconds since the machine was started."""
    cookie: int = 0
    path: Path = field(default_factory=lambda: Path(MEMORY_DIRECTORY) / f"{inode()}.json")

    @classmethod
    def load(cls) -> "Memory":
        """The memory of the current namespace; empty where there is none, or none that can be read."""
        memory = cls(cookie=cookie())
        try:
            known = json.loads(on_disk.read(memory.path))
            if known["cookie"] != memory.cookie:
                return memory  # of a namespace that is gone
            memory.backend = known["backend"]
            memory.rp_filter = known["rp_filter"]
            memory.early_demux = known.get("early_demux")
            memory.loopback_was_down = known["loopback_was_down"]
            memory.tables = dict(known.get("tables", {}))
            memory.read_at = {family: float(at) for family, at in known.get("read_at", {}).items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(cookie=memory.cookie)
        return memory

    def save(self) -> None:
        """Keeps it, where that is possible: in a pod's own init container it is not, and nothing is removed there.

        Whatever the current namespace is by now: it is about the one in which it was loaded.
        """
        self._write(
            {
                "cookie": self.cookie,
                "backend": self.backend,
                "rp_filter": self.rp_filter,
                "early_demux": self.early_demux,
                "loopback_was_down": self.loopback_was_down,
                "tables": self.tables,
                "read_at": self.read_at,
            }
        )

    def save_fingerprints(self) -> None:
        """Keeps nothing but these, and only where the rules are still those of which they were taken.

        Somebody else may have applied or removed rules since the memory was loaded.
        """
        try:
            known = json.loads(on_disk.read(self.path))
            if (known["cookie"], known["backend"]) != (self.cookie, self.backend):
                return
        except (OSError, ValueError, KeyError, TypeError):
            return  # without fingerprints all is read
        self._write({**known, "tables": self.tables, "read_at": self.read_at})

    def _write(self, known: dict[str, Any]) -> None:
        try:
            remember(self.path, json.dumps(known).encode())
        except OSError:
            return  # without a memory all is read, and `remove` takes back rules and routes only

    def forget(self) -> None:
        """Drops it."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            return  # what it says is believed only where the namespace has the same inode and cookie


def remember(path: Path, content: bytes) -> None:
    """Keeps what another process will want to know, in a directory for nobody else. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    on_disk.replace(path, content)


def cookie() -> int:
    """The number of the current namespace that none gets again until the next boot; 0 before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:  # before Linux 5.14; otherwise no memory has this number, and all is read
            return 0


def inode() -> int:
    """The inode of the current namespace: no other that is alive has it."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all. Where it is only disabled in a namespace, it can be enabled at any time."""
    return IPV6.is_dir()


def ipv6_is_disabled() -> bool:
    """Whether the loopback interface can have no IPv6 routes in the current namespace (disable_ipv6)."""
    return has_ipv6() and _read_int(IPV6 / "conf/lo/disable_ipv6") != 0


def prepare(families: tuple[Family, ...], memory: Memory) -> bool:
    """Sets loopback, sysctls and routes; whether anything changed. Raises KernelError.

    Early demux, which cannot be turned off where /proc/sys is read-only, is no error: see `takes_ports_for_one`.
    """
    changed = False
    with _netlink() as netlink:
        if not _loopback_is_up(netlink):
            netlink.link("set", index=LOOPBACK, state="up")
            memory.loopback_was_down = True
            changed = True
        for family in Family:
            if family in families:
                changed |= _add_routes(netlink, family)
            else:
                changed |= _remove_routes(netlink, family)
    if (former := _strict_on_loopback()) is not None:
        _write_rp_filter(LOOSE)
        memory.rp_filter = former
        changed = True
    if (former := _early_demux()) is not None and _write_early_demux(0):
        memory.early_demux = former
        changed = True
    return changed


def takes_ports_for_one() -> bool:
    """Whether a client's second connection from one port of its own, to another port of the pod, finds no answer.

    REDIRECT leads both to one port, and nat tells them apart behind the routing decision (it gives the second another
    source port). With early demux the kernel looks for a packet's connection before that decision, and finds the first.
    """
    return _early_demux() is not None


def missing(families: tuple[Family, ...]) -> list[str]:
    """What is not in force of what `prepare` sets."""
    found = []
    with _netlink() as netlink:
        if not _loopback_is_up(netlink):
            found.append("interface lo is down")
        for family in families:
            if not _rules(netlink, family):
                found.append(
                    f"{family}: ip rule 'fwmark {REPLY_MARK:#x}/{MARK_MASK:#x} lookup {ROUTE_TABLE}' is missing"
                )
            if not _routes(netlink, family) and not _must_wait(family):
                found.append(f"{family}: route 'local {_ANYWHERE[family]} dev lo table {ROUTE_TABLE}' is missing")
    if _strict_on_loopback() is not None:
        found.append(
            "IPv4: sysctl net.ipv4.conf.lo.rp_filter must not be strict (1): replies to transparent legs are dropped"
        )
    if takes_ports_for_one() and os.access(EARLY_DEMUX[1], os.W_OK):  # what nobody here can set is not asked for
        found.append(
            "sysctl net.ipv4.tcp_early_demux must be 0: from one port nobody could have connections to two of the pod's"
        )
    return found


def undo(memory: Memory) -> bool:
    """Takes back what `prepare` did; whether there was anything."""
    changed = False
    with _netlink() as netlink:
        for family in Family:
            changed |= _remove_routes(netlink, family)
        if memory.loopback_was_down and _loopback_is_up(netlink):
            netlink.link("set", index=LOOPBACK, state="down")
            changed = True
    if memory.rp_filter is not None:
        _write_rp_filter(memory.rp_filter)
        changed = True
    if memory.early_demux is not None and _early_demux() is None:
        changed |= _write_early_demux(memory.early_demux)
    return changed


def show(families: tuple[Family, ...]) -> str:
    """The same in the words of ip(8) and sysctl(8)."""
    lines = []
    for family in families:
        ip = "ip" if family is Family.IPV4 else "ip -6"
        lines.append(
            f"{ip} rule add fwmark {REPLY_MARK:#x}/{MARK_MASK:#x} lookup {ROUTE_TABLE} priority {RULE_PRIORITY}"
        )
        lines.append(f"{ip} route add local {_ANYWHERE[family]} dev lo table {ROUTE_TABLE}")
    lines.append("# where it is strict: sysctl -w net.ipv4.conf.lo.rp_filter=2")
    lines.append("sysctl -w net.ipv4.tcp_early_demux=0")
    return "\n".join(lines)


def _netlink() -> Any:
    from pyroute2 import IPRoute  # noqa: PLC0415 - heavy, and `show` and `--help` do without

    return IPRoute()


def _loopback_is_up(netlink: Any) -> bool:
    (link,) = netlink.get_links(LOOPBACK)
    return bool(link["flags"] & 1)  # IFF_UP


def _rules(netlink: Any, family: Family) -> list[Any]:
    return [
        rule
        for rule in netlink.get_rules(family=_AF[family])
        if rule.get_attr("FRA_FWMARK") == REPLY_MARK
        and rule.get_attr("FRA_FWMASK") == MARK_MASK
        and rule.get_attr("FRA_TABLE") == ROUTE_TABLE
    ]


def _routes(netlink: Any, family: Family) -> list[Any]:
    return [
        route
        for route in netlink.get_routes(family=_AF[family], table=ROUTE_TABLE)
        if route["dst_len"] == 0 and route["type"] == 2 and route.get_attr("RTA_OIF") == LOOPBACK  # RTN_LOCAL
    ]


def _must_wait(family: Family) -> bool:
    """No route yet where no packet can come: with IPv6 disabled the kernel takes the rules for it, and no routes."""
    return family is Family.IPV6 and ipv6_is_disabled()


def _add_routes(netlink: Any, family: Family) -> bool:
    changed = False
    if not _routes(netlink, family) and not _must_wait(family):
        netlink.route(
            "replace",
            family=_AF[family],
            table=ROUTE_TABLE,
            type="local",
            scope="host",
            dst=_ANYWHERE[family],
            oif=LOOPBACK,
        )
        changed = True
    if not _rules(netlink, family):
        netlink.rule(
            "add",
            family=_AF[family],
            table=ROUTE_TABLE,
            priority=RULE_PRIORITY,
            fwmark=REPLY_MARK,
            fwmask=MARK_MASK,
        )
        changed = True
    return changed


def _remove_routes(netlink: Any, family: Family) -> bool:
    if family is Family.IPV6 and not has_ipv6():
        return False
    changed = False
    for rule in _rules(netlink, family):
        netlink.rule(
            "del",
            family=_AF[family],
            table=ROUTE_TABLE,
            priority=rule.get_attr("FRA_PRIORITY"),
            fwmark=REPLY_MARK,
            fwmask=MARK_MASK,
        )
        changed = True
    if _routes(netlink, family):
        netlink.route(
            "del",
            family=_AF[family],
            table=ROUTE_TABLE,
            type="local",
            scope="host",
            dst=_ANYWHERE[family],
            oif=LOOPBACK,
        )
        changed = True
    return changed


def _strict_on_loopback() -> int | None:
    """conf.lo.rp_filter, where the value in effect on lo (the larger of all's and its own) is strict; else None."""
    own = _read_int(RP_FILTER / "lo" / "rp_filter")
    everywhere = _read_int(RP_FILTER / "all" / "rp_filter")
    return own if max(own, everywhere) == STRICT else None


def _early_demux() -> int | None:
    """tcp_early_demux, where it is in effect; else None."""
    return _read_int(EARLY_DEMUX[1]) if all(_read_int(path) for path in EARLY_DEMUX) else None


def _write_early_demux(value: int) -> bool:
    """Whether it could be written."""
    try:
        EARLY_DEMUX[1].write_text(f"{value}\n", encoding="ascii")
    except OSError:  # read-only for an init container: the node's agent does it, and until then the engine says so
        return False
    return True


def _read_int(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # taken for not strict: if it is, answers to transparent legs are dropped, and connections fail


def _write_rp_filter(value: int) -> None:
    path = RP_FILTER / "lo" / "rp_filter"
    try:
        path.write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        raise KernelError(
            f"net.ipv4.conf.lo.rp_filter is strict and cannot be changed ({error.strerror}): set it to 2 in the pod's "
            f"securityContext.sysctls, or let the agent on the node install the rules"
        ) from error
