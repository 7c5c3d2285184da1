"""Who is at the other end of the enrolment socket: what the kernel and the container runtime say of a process.

Nothing here is what the caller says of itself. The process is the one that connected (SO_PEERCRED, unix(7)), held by
its pidfd while it is looked at, so that its number cannot become another's meanwhile.
"""

import os
import re
import select
import socket
import struct
from pathlib import Path

from msgspec import Struct

from agent.capture.netns import NetnsId

SO_PEERPIDFD = 77
"""asm-generic/socket.h, from Linux 6.5 on"""
PROC = Path("/proc")
SYS_ADMIN = 1 << 21
"""CAP_SYS_ADMIN, linux/capability.h: what setns(2) and much else want."""

_POD_GROUP = re.compile(r"(?:[a-z0-9-]+-)?pod([0-9a-f]{8}[-_0-9a-f]{24,28})(?:\.slice)?")
"""The kubelet's cgroup of a pod: `pod<UID>` (cgroupfs), `kubepods-burstable-pod<UID with _ for ->.slice` (systemd)."""
_ABOVE_KUBELET = frozenset({"", "..", "kubelet", "kubelet.slice"})
"""What may be above the kubelet's groups: the root, as it is seen from another cgroup namespace too, and kind's own.
What is further in belongs to some container, and a container may have been given its part of the tree to write."""


class CallerUnknown(Exception):
    """A process that cannot be told; `str` says why. It gets nothing."""


class Caller(Struct, frozen=True):
    """A process, by what it cannot choose.

    `pod_uid` is the pod that the kubelet has put it into, by its cgroup; None outside of pods. `administers` is whether
    it rules this host anyway: in the agent's own user namespace and root directory, with SYS_ADMIN.
    """

    pid: int
    uid: int
    netns: NetnsId
    pod_uid: str | None
    administers: bool

    def __str__(self) -> str:
        return f"process {self.pid}"


def credentials(sock: socket.socket) -> tuple[int, int]:
    """The number and the user of the process that connected. Raises OSError."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def identify(sock: socket.socket) -> Caller:
    """Who connected. Raises CallerUnknown, also for a process that has ended."""
    try:
        pid, uid = credentials(sock)
        pidfd = _pidfd(sock, pid)
    except OSError as error:
        raise CallerUnknown(f"the process that asks cannot be told: {error.strerror}") from error
    try:
        caller = look_at(PROC / str(pid), pid, uid)
        if select.select([pidfd], [], [], 0)[0]:  # pidfd_open(2): readable when it has ended
            raise CallerUnknown(f"process {pid} has ended")
    finally:
        os.close(pidfd)
    return caller


def look_at(directory: Path, pid: int, uid: int, own: Path = PROC / "self") -> Caller:
    """What /proc says of a process. Raises CallerUnknown."""
    try:
        there = os.stat(directory / "ns/net")
        pod_uid = pod_of((directory / "cgroup").read_text(encoding="utf-8", errors="surrogateescape"))
        administers = (
            os.path.samestat(os.stat(directory / "ns/user"), os.stat(own / "ns/user"))
            and os.path.samestat(os.stat(directory / "root"), os.stat(own / "root"))
            and bool(_capabilities(directory) & SYS_ADMIN)
        )
    except OSError as error:
        raise CallerUnknown(f"process {pid} cannot be looked at: {error.strerror}") from error
    return Caller(pid, uid, NetnsId(there.st_dev, there.st_ino), pod_uid, administers)


def pod_of(cgroups: str) -> str | None:
    """The UID of the pod that a process is in, from its /proc/<pid>/cgroup (cgroups(7)); None: in none.

    The outermost group under the kubelet's counts: what is further in, a container may have made. Raises CallerUnknown
    where two hierarchies name different pods.
    """
    found = {uid for line in cgroups.splitlines() if (uid := _pod_in(line.split(":", 2)[-1])) is not None}
    if len(found) > 1:
        raise CallerUnknown(f"its cgroups are those of several pods: {', '.join(sorted(found))}")
    return found.pop() if found else None


def _pod_in(path: str) -> str | None:
    of_kubelet = False
    for part in path.split("/"):
        of_kubelet = of_kubelet or "kubepods" in part
        if of_kubelet and (match := _POD_GROUP.fullmatch(part)):
            return match[1].replace("_", "-")
        if not of_kubelet and part not in _ABOVE_KUBELET:
            return None  # what looks like the kubelet's further in is not: fails closed
    return None


def _capabilities(directory: Path) -> int:
    for line in (directory / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0  # a kernel that does not say so: it administers nothing


def _pidfd(sock: socket.socket, pid: int) -> int:
    try:
        (fd,) = struct.unpack("i", sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))
    except OSError:
        # Before Linux 6.5. The number may be another process's by now: then it is that one which is looked at, and must
        # be in the pod, and in the namespace whose descriptor came.
        return os.pidfd_open(pid)
    return int(fd)
