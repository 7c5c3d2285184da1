"""Hears of changes to a pod's rules, routes and loopback within a second, without reading them again and again.

What nft and iptables-nft write, and routes, addresses and rp_filter, the kernel tells by netlink in the namespace.
iptables' own tables tell nobody: of each the kernel is asked twice a second how many rules it has, in how many bytes,
hung up where (3 ms for 300 pods). A rule that another of the same length replaces escapes that, and is found by the
next verification of everything. Whatever is heard is only a bell: somebody must look at the rules then.

A pod whose administrator rings for nothing is looked at less and less often, which harms that pod alone: who may
write its rules may do as he likes with its connections.
"""

import asyncio
import math
import socket
import struct
from collections.abc import Callable

from agent.capture import _sockets
from agent.objects.key import PodKey
from init.constants import ROUTE_TABLE
from init.kernel import LOOPBACK, has_ipv6
from init.netfilter import NETLINK_NETFILTER, messages
from init.nft import TABLE

SWEEP_SECONDS = 0.5
"""How often the shapes of iptables' own tables are asked for."""
SWEPT_AT_ONCE = 100
"""Namespaces that are asked before others get their turn: a millisecond."""
PAUSE_SECONDS = 1.0
"""Least time between two looks at one pod's rules."""
FALSE_ALARMS = 3
"""Looks in a row that may find nothing, before each doubles the pause."""
REPAIRS = 5
"""Repairs in a row, before each doubles the pause, and the pod is restless."""
STILL_SECONDS = 10.0
"""So long after its last repair a pod whose rules are found whole is not restless any more."""
LONGEST_PAUSE_SECONDS = 30.0
QUIET_SECONDS = 60.0
"""After so long without a bell false alarms are forgotten."""
DUE_AT_ONCE = 16
"""Pods that are looked at together: a new pod waits for no more."""
MESSAGES_AT_ONCE = 64
"""What is read of a netlink socket in one go."""
MESSAGE_BYTES = 65536

DEAF_SECONDS = 0.2
"""For how long a socket is left alone after it was read: a pod may say what it likes as often as it likes."""

_NFTABLES = 1 << 6
"""NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h; a bit of sockaddr_nl for each group, netlink(7)."""
_KERNEL_ROUTES = sum(
    1 << group - 1
    for group in (
        1,  # RTNLGRP_LINK: loopback goes down
        7,  # RTNLGRP_IPV4_ROUTE
        8,  # RTNLGRP_IPV4_RULE
        9,  # RTNLGRP_IPV6_IFADDR: IPv6 comes to loopback
        11,  # RTNLGRP_IPV6_ROUTE
        19,  # RTNLGRP_IPV6_RULE
        24,  # RTNLGRP_IPV4_NETCONF: rp_filter
    )
)
_WORDS = tuple(word.encode() + b"\0" for word in (TABLE, "nat", "redir", "DNAT", "REDIRECT", "NETMAP"))
_GONE = (0x0A02, 0x0A05)
"""NFNL_SUBSYS_NFTABLES with NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN."""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE, _NEWNETCONF = 16, 17, 20, 24, 25, 32, 33, 80


def concerns_rules(data: bytes) -> bool:
    """Whether what nft's netlink said in one datagram is about our tables, or about nat that may come before ours.

    Each of its messages has the table's name. The type of a chain and what a rule does have names, unless they go.
    """
    return any(word in data for word in _WORDS) or any(kind in _GONE for kind, _ in messages(data))


def concerns_kernel_routes(data: bytes) -> bool:
    """Whether what rtnetlink(7) said in one datagram is about anything that replies to the agent depend on."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return True  # nothing that we understand: better look
        body = data[at + _HEADER.size : at + length]
        if kind in {_NEWRULE, _DELRULE, _NEWNETCONF}:
            return True
        # struct rtmsg has the table in its fifth byte; ifinfomsg and ifaddrmsg have the interface at the same place.
        if kind in {_NEWROUTE, _DELROUTE} and body[4:5] == bytes([ROUTE_TABLE]):
            return True
        if kind in {_NEWLINK, _DELLINK, _NEWADDR} and body[4:8] == struct.pack("=I", LOOPBACK):
            return True
        at += (length + 3) & ~3
    return False


class Ears:
    """The sockets by which one namespace is heard. Made in a visit to it; whoever makes them closes them.

    Raises OSError.
    """

    def __init__(self) -> None:
        made: list[socket.socket] = []
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
            for protocol, groups in ((NETLINK_NETFILTER, _NFTABLES), (socket.NETLINK_ROUTE, _KERNEL_ROUTES)):
                made.append(socket.socket(socket.AF_NETLINK, kind, protocol))
                made[-1].bind((0, groups))
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            if has_ipv6():
                made.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        except OSError:
            for sock in made:
                sock.close()
            raise
        self.rules, self.kernel_routes, self._ipv4, *more = made
        self._ipv6 = more[0] if more else None

    def shapes(self) -> bytes:
        """Of iptables' own tables in there."""
        return _sockets.table_shapes(self._ipv4.fileno(), -1 if self._ipv6 is None else self._ipv6.fileno())

    def close(self) -> None:
        """Hears nothing more."""
        for sock in (self.rules, self.kernel_routes, self._ipv4, self._ipv6):
            if sock is not None:
                sock.close()


class Pace:
    """When one pod's rules may be looked at. Pure: time is an argument."""

    def __init__(self) -> None:
        self._rung: float | None = None
        self._not_before = 0.0
        self._last_bell = 0.0
        self._false_alarms = 0
        self._repairs = 0
        self._repaired_at = -math.inf

    @property
    def restless(self) -> bool:
        """Whether its rules are broken again and again."""
        return self._repairs > REPAIRS

    def ring(self, now: float) -> None:
        """Something was heard."""
        if now - self._last_bell > QUIET_SECONDS:
            self._false_alarms = 0
        self._last_bell = now
        if self._rung is None:
            self._rung = now

    @property
    def due(self) -> float | None:
        """From when on there is something to look at; None: nothing was heard."""
        return None if self._rung is None else max(self._rung, self._not_before)

    def looking(self) -> None:
        """The look begins: what is heard from here on is news."""
        self._rung = None

    def looked(self, now: float, *, wrote: bool, repaired: bool = False) -> None:
        """The look has ended, and was for nothing unless something was written; `repaired`: it had been broken."""
        self._false_alarms = 0 if wrote else self._false_alarms + 1
        if repaired:
            self._repairs, self._repaired_at = self._repairs + 1, now
        elif now - self._repaired_at > STILL_SECONDS:
            self._repairs = 0
        excess = min(max(0, self._false_alarms - FALSE_ALARMS, self._repairs - REPAIRS), 16)
        self._not_before = now + min(PAUSE_SECONDS * 2**excess, LONGEST_PAUSE_SECONDS)


class _Pod:
    def __init__(self, ears: Ears) -> None:
        self.ears = ears
        self.pace = Pace()
        self.shapes: bytes | None = None
        """Of iptables' own tables when they were last found as they should be; None where they do not matter."""
        self.shapes_before_look = b""


class RuleWatch:
    """The namespaces of all enrolled pods, on one loop. `rang` is called when some pod is due, once or more often."""

    def __init__(self, rang: Callable[[], None]) -> None:
        self._rang = rang
        self._pods: dict[PodKey, _Pod] = {}
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = math.inf

    def __contains__(self, key: PodKey) -> bool:
        return key in self._pods

    def add(self, key: PodKey, ears: Ears) -> None:
        """Listens to a pod from here on; the sockets are ours from now on."""
        pod = self._pods[key] = _Pod(ears)
        self._listen(key, pod, ears.rules, concerns_rules)
        self._listen(key, pod, ears.kernel_routes, concerns_kernel_routes)

    def ring(self, key: PodKey) -> None:
        """Has a pod looked at again, whether or not anything is heard."""
        if (pod := self._pods.get(key)) is not None:
            self._ring(pod)

    def remove(self, key: PodKey) -> None:
        """Listens to it no more."""
        pod = self._pods.pop(key, None)
        if pod is None:
            return
        loop = asyncio.get_running_loop()
        for sock in (pod.ears.rules, pod.ears.kernel_routes):
            loop.remove_reader(sock)
        pod.ears.close()

    def close(self) -> None:
        """Listens to nobody any more."""
        for key in list(self._pods):
            self.remove(key)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def run(self) -> None:
        """Asks for the shapes of iptables' own tables again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for number, (key, pod) in enumerate(list(self._pods.items()), 1):
                if self._pods.get(key) is pod and pod.shapes is not None and pod.shapes != pod.ears.shapes():
                    self._ring(pod)
                if number % SWEPT_AT_ONCE == 0:
                    await asyncio.sleep(0)

    def due(self, now: float) -> list[PodKey]:
        """Pods whose rules should be looked at now, the longest rung first. Time is the loop's.

        `rang` is called again for the others: a timer may come a moment before its time, for clocks are counted in
        milliseconds, and sums of them are rounded.
        """
        waiting = sorted((when, key) for key, pod in self._pods.items() if (when := pod.pace.due) is not None)
        due = [each for each in waiting if each[0] <= now]
        if len(due) > DUE_AT_ONCE:
            self._rang()
        elif len(due) < len(waiting):
            self._wake_at(waiting[len(due)][0])
        return [key for _, key in due[:DUE_AT_ONCE]]

    def looking(self, key: PodKey) -> None:
        """Somebody looks at a pod's rules from now on: what is heard after this is news."""
        if (pod := self._pods.get(key)) is not None:
            pod.pace.looking()
            pod.shapes_before_look = pod.ears.shapes() if pod.shapes is not None else b""

    def looked(
        self, key: PodKey, now: float, *, wrote: bool, legacy: bool, repaired: bool = False, news: bool = False
    ) -> None:
        """Somebody has looked, and `wrote` what was missing, or not; `legacy`: the rules are in iptables' own tables.

        `news`: nothing was missing, and yet the look was not for nothing.

        What was heard while something was written is our own doing, or somebody else's: whoever wrote rings, and looks
        again. A pod that was `repaired` again and again is looked at less often, and without having been rung for.
        """
        pod = self._pods.get(key)
        if pod is None:
            return
        if wrote:
            pod.pace.looking()
            _rings(pod.ears.rules, concerns_rules)
            _rings(pod.ears.kernel_routes, concerns_kernel_routes)
        pod.pace.looked(now, wrote=wrote or news, repaired=repaired)
        if not legacy:
            pod.shapes = None  # to ask would make the tables, and every packet would go through them
        elif wrote or pod.shapes is None:
            pod.shapes = pod.ears.shapes()
        else:
            pod.shapes = pod.shapes_before_look
        if pod.pace.restless:
            pod.pace.ring(now)
        if pod.pace.due is not None:
            self._wake_at(pod.pace.due)

    def is_restless(self, key: PodKey) -> bool:
        """Whether a pod's rules are broken again and again."""
        pod = self._pods.get(key)
        return pod is not None and pod.pace.restless

    def _listen(self, key: PodKey, pod: _Pod, sock: socket.socket, concerns: Callable[[bytes], bool]) -> None:
        if self._pods.get(key) is pod:
            asyncio.get_running_loop().add_reader(sock, self._hear, key, pod, sock, concerns)

    def _hear(self, key: PodKey, pod: _Pod, sock: socket.socket, concerns: Callable[[bytes], bool]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(DEAF_SECONDS, self._listen, key, pod, sock, concerns)
        if _rings(sock, concerns):
            self._ring(pod)

    def _ring(self, pod: _Pod) -> None:
        pod.pace.ring(asyncio.get_running_loop().time())
        if pod.pace.due is not None:
            self._wake_at(pod.pace.due)

    def _wake_at(self, when: float) -> None:
        if self._alarm is not None:
            if self._alarm_at <= when:
                return
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self._rang()


def _rings(sock: socket.socket, concerns: Callable[[bytes], bool]) -> bool:
    """Whether anything of what waits on a netlink socket is about us, as far as it can be told."""
    bell = False
    for _ in range(MESSAGES_AT_ONCE):
        try:
            bell |= concerns(sock.recv(MESSAGE_BYTES))
        except BlockingIOError:
            return bell
        except OSError:  # ENOBUFS: some were lost. Whatever it is, to look does no harm
            return True
    return True
