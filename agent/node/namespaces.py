"""Namespaces that were handed over and are not enrolled: by init steps now, and those from before a restart."""

import logging
import os

from msgspec import Struct

from agent.capture import inhabitants, netns
from agent.capture.netns import NetnsId
from agent.node.left import Left
from agent.node.remembered import Handed, Remembered
from agent.node.visits import Visits
from agent.objects.key import PodKey
from agent.objects.model import Pod
from init.netns import NetnsError

log = logging.getLogger("quietwire.enrolment")


class _Returned(Struct, frozen=True):
    """A namespace from before a restart, and by what it is told who lives in it."""

    handed: Handed
    number: int


class Namespaces:
    """By pod, until enrolment takes them. One from before a restart is kept for as long as somebody lives in it."""

    def __init__(self, remembered: Remembered, visits: Visits) -> None:
        self._remembered = remembered
        self._visits = visits
        self._handed: dict[PodKey, Handed] = {}
        self._returned: dict[NetnsId, _Returned] = {}

    async def restore(self) -> None:
        """Takes up what an agent before this one remembered."""
        try:
            found = await self._visits.blocking(self._remembered.load)
        except OSError as error:
            log.error("what init steps handed over before cannot be read (%s): they must do so again", error)
            return
        for handed in found:
            try:
                number = await self._visits.inside(handed.fd, inhabitants.number_here)
            except OSError as error:  # refused, until its init step hands it over again
                os.close(handed.fd)
                log.error(
                    "the namespace of %s cannot be entered (%s): its init step must hand it over again",
                    handed.key,
                    error,
                )
                continue
            self._returned[netns.identify(handed.fd)] = _Returned(handed, number)
            log.info("the namespace of %s, from before the agent's restart, is there", handed.key)

    def __contains__(self, key: PodKey) -> bool:
        """Whether a pod's namespace waits to be enrolled."""
        return key in self._handed or any(each.handed.key == key for each in self._returned.values())

    def handed(self, key: PodKey) -> Handed | None:
        """What an init step handed over for a pod, and is not enrolled yet."""
        return self._handed.get(key)

    async def put(self, pod: Pod, fd: int, left: Left) -> str | None:
        """Takes a namespace that an init step gives for a pod, by a descriptor of its own; else what is in the way."""
        identity = netns.identify(fd)
        pending = self._handed.get(pod.key)
        if pending is not None:
            same = netns.identify(pending.fd) == identity and pending.uid == pod.uid
            return None if same else f"another namespace was handed over for {pod.key} a moment ago"
        for other, returned in list(self._returned.items()):
            if other != identity and returned.handed.is_for(pod.key, pod.uid):
                if (living := await left.somebody_in(returned.handed.fd, returned.number)) is not None:
                    return f"{pod.key} has another namespace since before a restart, in which {living} still lives"
                await self._forget(other)
        if pod.key in self._handed:
            return f"another namespace was handed over for {pod.key} a moment ago"
        self._handed[pod.key] = Handed(pod.key, pod.uid, os.dup(fd), pod.ips)
        return None

    def delete(self, identity: NetnsId) -> None:
        """Whoever made a namespace, and may have had it handed over, deletes it."""
        for key, handed in list(self._handed.items()):
            if netns.identify(handed.fd) == identity:
                self.drop(key)

    def open(self, pod: Pod) -> int:
        """A descriptor of the namespace that was handed over for a pod. Raises NetnsError."""
        handed = self._handed.get(pod.key) or next(
            (each.handed for each in self._returned.values() if each.handed.is_for(pod.key, pod.uid)), None
        )
        if handed is None:
            raise NetnsError(
                "no network namespace is known for it: annotate it with quietwire.io/netns, "
                "or have its init step enrol it (quietwire init apply --enrol)"
            )
        return os.dup(handed.fd)

    def of(self, pod: Pod) -> tuple[int, int] | None:
        """The namespace that a pod has since before a restart, a descriptor of the caller's own, and its number."""
        for returned in self._returned.values():
            if returned.handed.is_for(pod.key, pod.uid):
                return os.dup(returned.handed.fd), returned.number
        return None

    async def enrolled(self, pod: Pod, fd: int) -> None:
        """A pod is enrolled in a namespace now: it is remembered, unless the pod's manifest names it."""
        self.drop(pod.key)
        if (returned := self._returned.pop(netns.identify(fd), None)) is not None:
            os.close(returned.handed.fd)
        if pod.netns is not None:
            return
        try:
            await self._visits.blocking(self._remembered.keep, Handed(pod.key, pod.uid, fd))
        except OSError as error:
            log.warning(
                "%s is served, but its namespace cannot be remembered (%s): after a restart of the agent it is refused "
                "until its init step hands it over again",
                pod.key,
                error,
            )

    def drop(self, key: PodKey) -> None:
        """Lets go of what an init step handed over for a pod: it is enrolled, or the init step must try again."""
        if (handed := self._handed.pop(key, None)) is not None:
            os.close(handed.fd)

    def drop_others(self, desired: dict[PodKey, str]) -> None:
        """Lets go of what was handed over for other pods than those that are wanted, by their UIDs."""
        for key, handed in list(self._handed.items()):
            if desired.get(key) != handed.uid:
                self.drop(key)

    async def forget(self, identity: NetnsId) -> None:
        """Nobody is concerned with a namespace any more."""
        try:
            await self._visits.blocking(self._remembered.forget, identity)
        except OSError as error:
            log.error("a namespace could not be let go of (%s): it stays until the machine is started anew", error)

    async def clear(self, left: Left) -> None:
        """Forgets what is of no pod, and in which nobody lives any more."""
        for identity, returned in list(self._returned.items()):
            if await left.somebody_in(returned.handed.fd, returned.number) is None:
                log.info("nobody lives in the former namespace of %s any more", returned.handed.key)
                await self._forget(identity)

    async def _forget(self, identity: NetnsId) -> None:
        if (returned := self._returned.pop(identity, None)) is not None:
            os.close(returned.handed.fd)
            await self.forget(identity)

    def close(self) -> None:
        """Closes what waits; what is remembered stays so."""
        for handed in (*self._handed.values(), *(each.handed for each in self._returned.values())):
            os.close(handed.fd)
        self._handed.clear()
        self._returned.clear()
