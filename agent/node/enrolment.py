"""Enrolment: brings each local pod of the catalog, step by step, to where it is captured and certified.

The order is the safety: rules before listeners before "captured". Once the rules are in place the pod's
connections are refused until a worker listens, and a worker listens only when it has the SVID, the bundle and
the policy. Leaving goes the other way round, listeners and connections before rules: the kernel stops translating
with the last rule, and a reset that goes out untranslated is none to the peer. So a pod that leaves is refused for
as long as it takes to remove its rules, and never half captured.

`Enrolment.reconcile` is called again and again, on every change and several times a second while something is missing;
each call brings everything as far as it can come.
"""

import asyncio
import logging
import os
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from msgspec import Struct

from agent.capture import inhabitants, netns, sockets
from agent.capture.netns import NetnsId
from agent.capture.rule_watch import RuleWatch
from agent.link import messages
from agent.node.conntrack_watch import ConntrackWatch
from agent.node.enrolled import AgentPorts, Enrolled
from agent.node.left import Left
from agent.node.namespaces import Namespaces
from agent.node.remembered import Remembered
from agent.node.roster import Roster
from agent.node.rules import RESTLESS, Rules
from agent.node.visits import Visits
from agent.node.workers import WorkerHandle, Workers
from agent.objects.key import PodKey
from agent.objects.model import Pod
from init.model import Options
from init.netns import NetnsError, Whose, open_netns, path_of, whose
from init.privileged import NET_ADMIN, NET_RAW

log = logging.getLogger("quietwire.enrolment")

TRIES_OF_FIRST_PORTS = 8
"""How often it is looked whether the first ones have become free: whoever held them may be about to end."""


class PortsOccupied(Exception):
    """Something else listens where the agent should; `str` says where."""


class Desired(Struct, frozen=True):
    """A pod that should be enrolled here, with what its rules depend on."""

    pod: Pod
    options: Options


def named(name: str) -> NetnsId | None:
    """The namespace that an annotation names; None: there is none that can be looked at, so nothing is known of it."""
    try:
        status = os.stat(path_of(name))
    except OSError:
        return None
    return NetnsId(status.st_dev, status.st_ino)


class Enrolment:
    """All local pods. Used on the supervisor's loop; what blocks is done on its threads.

    What init steps hand over is remembered in `memory`, a directory.
    """

    def __init__(self, workers: Workers, *, backend: str, verify_seconds: float, memory: Path) -> None:
        self._workers = workers
        self._visits = Visits()
        self.roster = Roster()
        self._namespaces = Namespaces(Remembered(memory), self._visits)
        self._rules = Rules(
            self.roster, self._visits, backend=backend, verify_seconds=verify_seconds, release=self._release
        )
        self._left = Left(
            self.roster, self._visits, self._rules, workers, release=self._release, forget=self._namespaces.forget
        )
        self.conntrack = ConntrackWatch(self.roster, self._visits)
        """Must run: it looks how full pods' conntrack tables are."""
        self._deleted: set[NetnsId] = set()
        """Namespaces that whoever made them deletes."""
        self._waiting: dict[PodKey, str] = {}
        """What the last round could not do for a pod, and why."""

    @property
    def watch(self) -> RuleWatch:
        """Must run: it hears of rules that somebody changes."""
        return self._rules.watch

    @property
    def repairs(self) -> int:
        """How often rules were not as they had been written."""
        return self._rules.repairs

    @property
    def captured(self) -> list[PodKey]:
        """Pods that every worker listens for."""
        return [key for key in self.roster.pods if self.missing(key) is None]

    def missing(self, key: PodKey) -> str | None:
        """Why a pod is not captured at this very moment, also between two rounds; None when every worker listens."""
        enrolled = self.roster.pods.get(key)
        if enrolled is None or self._namespaces.handed(key) is not None:
            return self._waiting.get(key, "not enrolled yet")
        if key in self._waiting:
            return self._waiting[key]
        if enrolled.restless:
            return RESTLESS
        if not enrolled.ruled:
            return "its rules are not in force yet"
        if not enrolled.offered:
            return "no worker was told to listen for it yet"
        for handle in self._workers.handles:
            if key not in handle.listening:
                return handle.refused.get(key, f"worker {handle.index} does not listen for it yet")
        return None

    def knows(self, key: PodKey) -> bool:
        """Whether the namespace of a pod is enrolled, or was handed over."""
        return key in self.roster.pods or key in self._namespaces

    def serves(self, key: PodKey, identity: NetnsId) -> bool:
        """Whether it is this namespace that is enrolled for a pod."""
        enrolled = self.roster.pods.get(key)
        return enrolled is not None and enrolled.identity == identity

    def greeting(self, handle: WorkerHandle) -> Iterable[tuple[messages.Enrol, tuple[int, ...]]]:
        """What a replacement worker must be told: the same pods, with the same sockets."""
        for enrolled in self.roster.pods.values():
            if enrolled.offered:
                yield self._offer(enrolled, handle)

    @property
    def ports_occupied(self) -> dict[PodKey, list[str]]:
        """Where something else listens, or did, so that the agent cannot, or listens elsewhere: by pod."""
        return {key: enrolled.occupied for key, enrolled in self.roster.pods.items() if enrolled.occupied}

    @property
    def foreign_nat(self) -> int:
        """In how many pods nat rules of others come before ours."""
        return sum(bool(enrolled.foreign) for enrolled in self.roster.pods.values())

    @property
    def capabilities(self) -> dict[str, int]:
        """In how many pods a process has NET_ADMIN, or NET_RAW: capture cannot hold it."""
        pods = self.roster.pods.values()
        return {each: sum(each in enrolled.capabilities for enrolled in pods) for each in (NET_ADMIN, NET_RAW)}

    @property
    def left(self) -> int:
        """How many namespaces are no pod's any more, and refused because somebody lives in them."""
        return len(self.roster.left)

    async def hand_over(self, pod: Pod, fd: int) -> str | None:
        """Takes the namespace that an init step gave for a pod, by a descriptor of its own; else what is in the way.

        A live enrolment is replaced only when the pod is another one, or nobody lives in its namespace any more.
        """
        enrolled = self.roster.pods.get(pod.key)
        if enrolled is not None and self._namespaces.handed(pod.key) is None:
            if enrolled.identity == netns.identify(fd):
                return None
            if not enrolled.is_another(pod) and (inhabitant := await self._left.inhabitant(enrolled)):
                return f"{pod.key} is enrolled in another namespace, in which {inhabitant} still lives"
        return await self._namespaces.put(pod, fd, self._left)

    def delete(self, identity: NetnsId) -> bool:
        """Whoever made a namespace deletes it: its pod is let go of in the next round. Whether it is any pod's."""
        self._namespaces.delete(identity)
        if self.roster.holder(identity) is None:
            return False
        self._deleted.add(identity)
        return True

    async def find(self, fd: int, pods: Iterable[Pod]) -> Pod | None:
        """The pod one of whose addresses this namespace holds on an interface."""
        candidates = list(pods)

        def look() -> Pod | None:
            return next((pod for pod in candidates if any(netns.holds_address(ip) for ip in pod.ips)), None)

        return await self._visits.inside(fd, look)

    async def reconcile(
        self, desired: dict[PodKey, Desired], certified: dict[PodKey, str | None], unmeshed: Collection[Pod] = ()
    ) -> None:
        """Brings every pod as far as it can come now.

        `certified` has each desired pod: None when its SVID and the bundle are there, else what is missing. `unmeshed`
        are pods whose manifests say that they are not to be meshed.
        """
        for pod in unmeshed:
            if pod.key not in self.roster.pods and (since_before := self._namespaces.of(pod)) is not None:
                self.roster.pods[pod.key] = Enrolled(pod, *since_before, Options())
                await self._namespaces.enrolled(pod, since_before[0])
        gone = [enrolled for key, enrolled in self.roster.pods.items() if key not in desired]
        free = {pod.key for pod in unmeshed}
        await self._left.let_go(
            [each for each in gone if each.key in free], "it is not to be meshed any more", strip=True
        )
        await self._left.let_go([each for each in gone if each.key not in free], "its manifest is gone")
        self._namespaces.drop_others({key: want.pod.uid for key, want in desired.items()})
        replaced = await self._visits.blocking(self._replaced, desired)
        await self._left.let_go([each for each in replaced if each.identity in self._deleted], "its sandbox is deleted")
        await self._left.let_go(
            [each for each in replaced if each.identity not in self._deleted],
            "its network namespace is another one now",
        )
        # A number may come to be another namespace's.
        self._deleted &= {each.identity for each in self.roster.pods.values()}
        waiting: dict[PodKey, str] = {}
        for key, want in desired.items():
            try:
                await self._open(key, want)
            except (NetnsError, OSError) as error:
                waiting[key] = str(error)
        await self._rule(desired, waiting)
        for key, enrolled in self.roster.pods.items():
            if enrolled.ruled and key not in waiting:
                try:
                    await self._listen(enrolled)
                except OSError as error:
                    waiting[key] = f"cannot listen in its namespace: {error.strerror}"
        for key, enrolled in self.roster.pods.items():
            missing = certified.get(key)
            if enrolled.restless:
                waiting[key] = RESTLESS
            if key in waiting:
                continue
            if missing is not None and not enrolled.offered:
                waiting[key] = missing
            elif not enrolled.offered:
                for handle in self._workers.handles:
                    if handle.channel is not None:
                        handle.channel.send(*self._offer(enrolled, handle))
                enrolled.offered = True
        self._waiting = waiting

    def retry_refused(self) -> None:
        """Offers pods again that a worker could not serve when they were offered."""
        for handle in self._workers.handles:
            for key in list(handle.refused):
                enrolled = self.roster.pods.get(key)
                del handle.refused[key]
                if enrolled is not None and enrolled.offered and handle.channel is not None:
                    handle.channel.send(*self._offer(enrolled, handle))

    async def restore(self) -> None:
        """Takes up what init steps handed over to an agent before this one."""
        await self._namespaces.restore()

    async def keep_rules(self) -> None:
        """Verifies rules, and repairs what is gone, until it is cancelled."""
        await self._rules.keep(self._clear)

    async def _clear(self) -> None:
        await self._left.clear()
        await self._namespaces.clear(self._left)

    async def _release(self, enrolled: Enrolled, reason: str) -> None:
        enrolled.refuse()
        await self._workers.release(enrolled.key, reason)

    def refuse_all(self) -> None:
        """Closes every listener, so that the kernel refuses: the rules stay, so nothing goes out in plaintext."""
        for enrolled in self.roster.pods.values():
            enrolled.refuse()

    def close(self) -> None:
        """Closes everything but leaves the rules: without an agent, enrolled pods are refused."""
        self._rules.close()
        self.roster.close()
        self._namespaces.close()
        self._visits.close()

    def _replaced(self, desired: dict[PodKey, Desired]) -> list[Enrolled]:
        gone = []
        for key, enrolled in self.roster.pods.items():
            handed = self._namespaces.handed(key)
            another = key in desired and enrolled.is_another(desired[key].pod)
            if enrolled.identity in self._deleted:
                gone.append(enrolled)
                continue
            if another or (handed is not None and netns.identify(handed.fd) != enrolled.identity):
                gone.append(enrolled)
                continue
            name = desired[key].pod.netns if key in desired else None
            if name is None:
                continue
            # An unmounted namespace lives on while its processes do: it stays captured.
            if (now := named(name)) is not None and now != enrolled.identity:
                gone.append(enrolled)
        return gone

    async def _open(self, key: PodKey, want: Desired) -> None:
        enrolled = self.roster.pods.get(key)
        if enrolled is not None:
            self._namespaces.drop(key)  # that is the namespace that is enrolled already
            enrolled.uid = want.pod.uid or enrolled.uid
            if enrolled.wanted != want.options:
                enrolled.wanted, enrolled.ruled = want.options, False
            return
        pod = want.pod
        handed = self._namespaces.handed(key)
        ips = pod.ips or (handed.ips if handed is not None else ())
        if pod.netns is not None:  # what the manifest says is what holds
            fd = open_netns(pod.netns)
            self._namespaces.drop(key)
        else:
            fd = self._namespaces.open(pod)

        own = os.stat("/proc/self/ns/net")

        def look() -> tuple[Whose, bool, int]:
            return whose(fd, own), any(netns.holds_address(ip) for ip in ips), inhabitants.number_here()

        try:
            if netns.identify(fd) == netns.host_netns():
                raise NetnsError(f"{pod.netns} is the host's own network namespace: the agent never captures that")
            owner, held, number = await self._visits.inside(fd, look)
            if owner is not Whose.POD:
                raise NetnsError(
                    f"{pod.netns or 'what was handed over'} is {owner.value} network namespace: the agent never "
                    f"captures that"
                )
            if not held:
                raise NetnsError(
                    f"its namespace holds none of its addresses ({', '.join(ips) or 'none'}): "
                    f"wrong quietwire.io/netns, or its interface is not up yet"
                )
            identity = netns.identify(fd)
            if other := self.roster.holder(identity):
                raise NetnsError(f"its network namespace is {other}'s already: one of the two has a wrong manifest")
        except (NetnsError, OSError):
            os.close(fd)
            self._namespaces.drop(key)  # the init step that handed it over, if one did, tries again
            raise
        if former := self.roster.left.pop(identity, None):
            former.close()
        self.roster.pods[key] = Enrolled(pod, fd, number, want.options)
        await self._namespaces.enrolled(pod, fd)

    async def _rule(self, desired: dict[PodKey, Desired], waiting: dict[PodKey, str]) -> None:
        unruled = []
        for key, enrolled in self.roster.pods.items():
            if key not in desired or enrolled.restless:
                continue
            try:
                await self._take_ports(enrolled)
            except PortsOccupied as error:
                waiting[key] = str(error)  # its rules are written all the same: nobody but us gets what they redirect
            except OSError as error:
                waiting[key] = f"cannot listen in its namespace: {error.strerror}"
            if enrolled.ruled:
                continue
            if asyncio.get_running_loop().time() < enrolled.retry_at:
                waiting[key] = enrolled.unruly
                continue
            try:
                await self._rules.get_to_know(enrolled)
                unruled.append(enrolled)
            except OSError as error:
                waiting[key] = f"its namespace cannot be watched: {error.strerror}"
        for enrolled, reason in (await self._rules.apply(unruled)).items():
            waiting[enrolled.key] = reason

    async def _take_ports(self, enrolled: Enrolled) -> None:
        """Binds the first worker's listeners, before rules are written for their ports. Raises PortsOccupied, OSError.

        Where somebody else listens already, it may be a worker of an agent that has just died, so that is waited for a
        while; then other ports are taken.
        """
        if enrolled.ports is not None:
            return
        wanted, *_ = enrolled.agent_ports
        for ports in enrolled.agent_ports:
            occupied = await self._visits.inside(enrolled.fd, partial(self._bind, enrolled, ports))
            if occupied is None:
                enrolled.ports = ports
                enrolled.ruled = enrolled.ruled and ports == wanted
                if ports != wanted:
                    log.warning(
                        "%s: something else listens on %s; what is captured goes to ports %d and %d instead",
                        enrolled.key,
                        ", ".join(enrolled.occupied),
                        ports.outbound,
                        ports.inbound,
                    )
                return
            if occupied not in enrolled.occupied:
                enrolled.occupied.append(occupied)
            enrolled.tries += 1
            if enrolled.tries < TRIES_OF_FIRST_PORTS:
                break
        raise PortsOccupied(
            f"something else in {enrolled.key} listens on {', '.join(enrolled.occupied)}, where the agent should; it "
            f"is refused meanwhile. End that, or have it listen elsewhere"
        )

    @staticmethod
    def _bind(enrolled: Enrolled, ports: AgentPorts) -> str | None:
        """In the namespace: binds, or says where somebody else listens already."""
        for port in (ports.outbound, ports.inbound):
            if occupied := sockets.in_use(port):
                return occupied
        enrolled.listeners.append(enrolled.make_listeners(ports))
        return None

    async def _listen(self, enrolled: Enrolled) -> None:
        while (ports := enrolled.ports) is not None and len(enrolled.listeners) < len(self._workers.handles):
            made = await self._visits.inside(enrolled.fd, partial(enrolled.make_listeners, ports))
            if enrolled.ports != ports:  # it is refused since a moment ago
                for sock in made.values():
                    sock.close()
                return
            enrolled.listeners.append(made)

    def _offer(self, enrolled: Enrolled, handle: WorkerHandle) -> tuple[messages.Enrol, tuple[int, ...]]:
        mine = enrolled.listeners[handle.index]
        if enrolled.mark is None:
            raise ValueError(f"{enrolled.key} is offered before its rules were written")
        return messages.Enrol(enrolled.key, enrolled.mark, enrolled.stand_ins, tuple(mine)), (
            enrolled.fd,
            *(sock.fileno() for sock in mine.values()),
        )
