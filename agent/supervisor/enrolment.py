"""Enrolment: brings each local pod of the catalog, step by step, to where it is captured and certified.

The order is the safety: rules before listeners before "captured". Once the rules are in place the pod's
connections are refused until a worker listens, and a worker listens only when it has the SVID, the bundle and
the policy. Leaving goes the other way round, listeners and connections before rules: the kernel stops translating
with the last rule, and a reset that goes out untranslated is none to the peer. So a pod that leaves is refused for
as long as it takes to remove its rules, and never half captured.

Rules are taken away where the pod's manifest says that it is not meshed, and where nobody lives in the namespace any
more. Whoever lives on in one whose pod is gone, or is elsewhere now, stays refused: a manifest that got lost, and an
enrolment that somebody managed to have replaced, are no way out of the mesh.

`Enrolment.reconcile` is called again and again, on every change and several times a second while something is missing;
each call brings everything as far as it can come.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, TypeVar

from msgspec import Struct

from agent.capture import conntrack_room, inhabitants, netns, sockets
from agent.capture.netns import NetnsId, NetnsThread
from agent.capture.rule_watch import STILL_SECONDS, Ears, RuleWatch
from agent.link import messages
from agent.node.enrolled import AgentPorts, Enrolled, Handed
from agent.node.workers import WorkerHandle, Workers
from agent.objects.model import Pod
from init import agent_mark
from init.client import BatchRequest, BatchResult, run_batch
from init.constants import FOREIGN_NAT_HINT
from init.model import Options
from init.netns import NetnsError, Whose, open_netns, path_of, whose

T = TypeVar("T")
log = logging.getLogger("quietwire.enrolment")

CONNTRACK_SECONDS = 5.0
"""How often each pod's conntrack table is asked for its size."""
CROWDED, ROOMY = 0.9, 0.8
"""Parts of a conntrack table's limit: from the one on it is said, and below the other that it is over. Above 0.95 the
kernel forgets connections that are closing, to make room."""
RETRY_SECONDS = 1.0
"""After this, what could not be verified is tried again."""
RULES_RETRY_SECONDS = 5.0
"""After this, rules that could not be written are tried again: a process each time."""
BATCH_SECONDS = 60.0
BATCH_SECONDS_PER_POD = 0.5
"""How long one child process may take to apply or verify the rules of all pods that are waiting."""


TRIES_OF_FIRST_PORTS = 8
"""How often it is looked whether the first ones have become free: whoever held them may be about to end."""


RESTLESS = (
    f"somebody in it breaks its rules again and again: it is refused until they hold still for {STILL_SECONDS:g} s. "
    "quietwire init check names who has NET_ADMIN in there"
)


class PortsTaken(Exception):
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


def _run_and_close(requests: list[BatchRequest], seconds: float) -> list[BatchResult]:
    try:
        return run_batch(requests, seconds)
    finally:
        for request in requests:
            os.close(request.netns_fd)


class Enrolment:
    """All local pods. Used on the supervisor's loop; what blocks is done on its threads."""

    def __init__(self, workers: Workers, *, backend: str, verify_seconds: float) -> None:
        self._workers = workers
        self._backend = backend
        self._verify_seconds = verify_seconds
        self._rung = asyncio.Event()
        self.watch = RuleWatch(self._rung.set)
        """Must run: it hears of rules that somebody changes."""
        self._thread = NetnsThread()
        self._blocks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rules")
        self._pods: dict[str, Enrolled] = {}
        self._handed: dict[str, Handed] = {}
        """Namespaces that an init step handed over, by pod."""
        self._left: dict[NetnsId, Enrolled] = {}
        """Namespaces that are no pod's any more, and in which somebody lives: their rules stay, and refuse."""
        self._waiting: dict[str, str] = {}
        """What the last round could not do for a pod, and why."""
        self.conntrack_used = 0.0
        """The part of its limit that the fullest conntrack table of a pod has used."""
        self.repairs = 0

    @cached_property
    def _key(self) -> bytes:
        """Of the marks; drawn when the first pod is enrolled. Raises KeyFileError."""
        return agent_mark.draw()

    @property
    def captured(self) -> list[str]:
        """Pods that every worker listens for."""
        return [key for key in self._pods if self.missing(key) is None]

    def missing(self, key: str) -> str | None:
        """Why a pod is not captured at this very moment, also between two rounds; None when every worker listens."""
        enrolled = self._pods.get(key)
        if enrolled is None or key in self._handed:
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
            if key not in handle.captured:
                return handle.refused.get(key, f"worker {handle.index} does not listen for it yet")
        return None

    def knows(self, key: str) -> bool:
        """Whether the namespace of a pod is enrolled, or was handed over."""
        return key in self._pods or key in self._handed

    def serves(self, key: str, identity: NetnsId) -> bool:
        """Whether it is this namespace that is enrolled for a pod."""
        enrolled = self._pods.get(key)
        return enrolled is not None and enrolled.identity == identity

    def greeting(self, handle: WorkerHandle) -> Iterable[tuple[messages.Enrol, tuple[int, ...]]]:
        """What a replacement worker must be told: the same pods, with the same sockets."""
        for enrolled in self._pods.values():
            if enrolled.offered:
                yield self._offer(enrolled, handle)

    @property
    def ports_taken(self) -> dict[str, list[str]]:
        """Where something else listens, or did, so that the agent cannot, or listens elsewhere: by pod."""
        return {key: enrolled.taken for key, enrolled in self._pods.items() if enrolled.taken}

    @property
    def left(self) -> int:
        """How many namespaces are no pod's any more, and refused because somebody lives in them."""
        return len(self._left)

    async def hand_over(self, pod: Pod, fd: int) -> str | None:
        """Takes the namespace that an init step gave for a pod, by a descriptor of its own; else what is in the way.

        A live enrolment is replaced only when the pod is another one, or nobody lives in its namespace any more.
        """
        identity = netns.identify(fd)
        pending = self._handed.get(pod.key)
        if pending is not None:
            same = netns.identify(pending.fd) == identity and pending.uid == pod.uid
            return None if same else f"another namespace was handed over for {pod.key} a moment ago"
        enrolled = self._pods.get(pod.key)
        if enrolled is not None:
            if enrolled.identity == identity:
                return None
            if not enrolled.is_another(pod) and (inhabitant := await self._inhabitant(enrolled)):
                return f"{pod.key} is enrolled in another namespace, in which {inhabitant} still lives"
        if pod.key in self._handed:
            return f"another namespace was handed over for {pod.key} a moment ago"
        self._handed[pod.key] = Handed(os.dup(fd), pod.uid)
        return None

    async def find(self, fd: int, pods: Iterable[Pod]) -> Pod | None:
        """The pod one of whose addresses this namespace holds on an interface."""
        candidates = list(pods)

        def look() -> Pod | None:
            return next((pod for pod in candidates if any(netns.holds_address(ip) for ip in pod.ips)), None)

        return await self._in_netns(fd, look)

    async def reconcile(
        self, desired: dict[str, Desired], certified: dict[str, str | None], unmeshed: Collection[str] = ()
    ) -> None:
        """Brings every pod as far as it can come now.

        `certified` has each desired pod: None when its SVID and the bundle are there, else what is missing. `unmeshed`
        are pods whose manifests say that they are not to be meshed.
        """
        gone = [enrolled for key, enrolled in self._pods.items() if key not in desired]
        await self._leave(
            [each for each in gone if each.key in unmeshed], "it is not to be meshed any more", strip=True
        )
        await self._leave([each for each in gone if each.key not in unmeshed], "its manifest is gone")
        for key, handed in list(self._handed.items()):
            if key not in desired or desired[key].pod.uid != handed.uid:  # it was for another pod
                os.close(self._handed.pop(key).fd)
        await self._leave(await self._blocking(self._replaced, desired), "its network namespace is another one now")
        waiting: dict[str, str] = {}
        for key, want in desired.items():
            try:
                await self._open(key, want)
            except (NetnsError, OSError) as error:
                waiting[key] = str(error)
        await self._rule(desired, waiting)
        for key, enrolled in self._pods.items():
            if enrolled.ruled and key not in waiting:
                try:
                    await self._listen(enrolled)
                except OSError as error:
                    waiting[key] = f"cannot listen in its namespace: {error.strerror}"
        for key, enrolled in self._pods.items():
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
                enrolled = self._pods.get(key)
                del handle.refused[key]
                if enrolled is not None and enrolled.offered and handle.channel is not None:
                    handle.channel.send(*self._offer(enrolled, handle))

    async def keep_rules(self) -> None:
        """Verifies rules, and repairs what is gone, until it is cancelled.

        Of pods of which something was heard, at once; and every pod's as often as was asked for, whatever was heard.
        """
        clock = asyncio.get_running_loop().time
        next_round = clock() + self._verify_seconds  # whoever has just applied them need not look yet
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_round):
                    await self._rung.wait()
            if clock() >= next_round:  # whoever never stops ringing keeps no others from their turn
                next_round = clock() + self._verify_seconds
                everybody = True
            else:
                self._rung.clear()
                everybody = False
            try:
                if everybody:
                    await self._clear_left()
                    await self._verify([*self._pods.values(), *self._left.values()], processes=True)
                else:
                    await self._verify([self._pods[key] for key in self.watch.due(clock()) if key in self._pods])
            except OSError as error:  # no descriptors, no memory, no process numbers
                log.error("rules could not be verified (%s): they are soon again", error)
                next_round = min(next_round, clock() + RETRY_SECONDS)

    async def watch_conntrack(self) -> None:
        """Says which pods' conntrack tables fill up, until it is cancelled: in a full one the kernel drops silently."""
        while True:
            await asyncio.sleep(CONNTRACK_SECONDS)
            fullest = 0.0
            for enrolled in list(self._pods.values()):
                if self._pods.get(enrolled.key) is not enrolled:
                    continue
                try:
                    room = await self._in_netns(enrolled.fd, conntrack_room.ask)
                except OSError as error:  # it left meanwhile, or there are no descriptors
                    log.debug("the conntrack table of %s could not be asked for: %s", enrolled.key, error)
                    continue
                fullest = max(fullest, room.used)
                self._say_room(enrolled, room)
            self.conntrack_used = fullest

    def _say_room(self, enrolled: Enrolled, room: conntrack_room.Room) -> None:
        if room.used >= CROWDED and not enrolled.crowded:
            enrolled.crowded = True
            log.error(
                "the conntrack table of %s is full, or nearly: %d of %d entries. In a full one the kernel drops what "
                "would open a connection, in and out; connections that are open go on. Raise the sysctl "
                "net.netfilter.nf_conntrack_max on the node, which holds for each pod's own table, or find out who "
                "opens so many: conntrack -L in the pod's namespace",
                enrolled.key,
                room.entries,
                room.limit,
                extra={"fields": {"event": "conntrack", "pod": enrolled.key, "entries": room.entries}},
            )
        elif room.used < ROOMY and enrolled.crowded:
            enrolled.crowded = False
            log.info("the conntrack table of %s has room again: %d of %d", enrolled.key, room.entries, room.limit)

    async def _verify(self, pods: list[Enrolled], *, processes: bool = False) -> None:
        for enrolled in pods:  # also where a round of enrolment is about to write them: else it would be due for ever
            if self._pods.get(enrolled.key) is enrolled:
                self.watch.looking(enrolled.key)
        ruled = [enrolled for enrolled in pods if enrolled.ruled]
        for enrolled, result in zip(ruled, await self._batch("repair", ruled, processes=processes), strict=True):
            broken = bool(result.missing) or not result.ok
            self._looked(enrolled, result, wrote=broken, repaired=broken)
            await self._hold_back(enrolled)
            if broken:
                self.watch.ring(enrolled.key)  # whoever broke them may have done so again while they were written
                self.repairs += 1
                found = ", ".join(result.missing) or result.error
                said = "; ".join([found or "", *result.notes])
                log.error("the rules of %s were changed by somebody else: %s", enrolled.key, said)
            if not result.ok:
                log.error("the rules of %s could not be repaired: %s", enrolled.key, result.error)
                enrolled.ruled = enrolled.identity in self._left  # a round of enrolment writes those of the others anew

    async def _hold_back(self, enrolled: Enrolled) -> None:
        """Refuses a pod whose rules are broken again and again, and serves it again once they hold still."""
        restless = self.watch.is_restless(enrolled.key)
        if restless == enrolled.restless or self._pods.get(enrolled.key) is not enrolled:
            return
        enrolled.restless = restless
        if restless:
            log.error("%s: %s", enrolled.key, RESTLESS)
            enrolled.refuse()
            await self._workers.release(enrolled.key, f"the rules of {enrolled.key} are broken again and again")
        else:
            log.info("the rules of %s hold still: it is served again", enrolled.key)

    def _looked(self, enrolled: Enrolled, result: BatchResult, *, wrote: bool, repaired: bool = False) -> None:
        if self._pods.get(enrolled.key) is not enrolled:
            return  # it has left meanwhile
        if result.privileged and not enrolled.warned:
            enrolled.warned = True
            log.warning(
                "capture cannot hold %s in %s: drop NET_RAW and NET_ADMIN from whatever does not need them",
                ", ".join(result.privileged),
                enrolled.key,
            )
        news = result.foreign is not None and result.foreign != enrolled.foreign
        if news:
            enrolled.foreign = result.foreign or ()
            if result.foreign:
                found = "; ".join(result.foreign)
                log.warning("nat rules in %s come before capture: %s: %s", enrolled.key, found, FOREIGN_NAT_HINT)
            else:
                log.info("no nat rule in %s comes before capture any more", enrolled.key)
        now = asyncio.get_running_loop().time()
        self.watch.looked(
            enrolled.key, now, wrote=wrote, legacy=result.backend == "legacy", repaired=repaired, news=news
        )

    def refuse_all(self) -> None:
        """Closes every listener, so that the kernel refuses: the rules stay, so nothing goes out in plaintext."""
        for enrolled in self._pods.values():
            enrolled.refuse()

    def close(self) -> None:
        """Closes everything but leaves the rules: without an agent, enrolled pods are refused."""
        self.watch.close()
        for enrolled in (*self._pods.values(), *self._left.values()):
            enrolled.close()
        self._pods.clear()
        self._left.clear()
        for handed in self._handed.values():
            os.close(handed.fd)
        self._handed.clear()
        self._thread.close()
        self._blocks.shutdown(wait=True)

    def _replaced(self, desired: dict[str, Desired]) -> list[Enrolled]:
        gone = []
        for key, enrolled in self._pods.items():
            handed = self._handed.get(key)
            another = key in desired and enrolled.is_another(desired[key].pod)
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

    async def _open(self, key: str, want: Desired) -> None:
        enrolled = self._pods.get(key)
        if enrolled is not None:
            if key in self._handed:  # the namespace that is enrolled already
                os.close(self._handed.pop(key).fd)
            enrolled.uid = want.pod.uid or enrolled.uid
            if enrolled.wanted != want.options:
                enrolled.wanted, enrolled.ruled = want.options, False
            return
        pod = want.pod
        if pod.netns is not None:  # what the manifest says is what holds
            fd = open_netns(pod.netns)
            if key in self._handed:
                os.close(self._handed.pop(key).fd)
        elif key in self._handed:
            fd = self._handed.pop(key).fd
        else:
            raise NetnsError(
                "no network namespace is known for it: annotate it with quietwire.io/netns, "
                "or have its init step enrol it (quietwire init apply --enrol)"
            )

        own = os.stat("/proc/self/ns/net")

        def look() -> tuple[Whose, bool, int]:
            return whose(fd, own), any(netns.holds_address(ip) for ip in pod.ips), inhabitants.number_here()

        try:
            if netns.identify(fd) == netns.host_netns():
                raise NetnsError(f"{pod.netns} is the host's own network namespace: the agent never captures that")
            owner, held, number = await self._in_netns(fd, look)
            if owner is not Whose.POD:
                raise NetnsError(
                    f"{pod.netns or 'what was handed over'} is {owner.value} network namespace: the agent never "
                    f"captures that"
                )
            if not held:
                raise NetnsError(
                    f"its namespace holds none of its addresses ({', '.join(pod.ips) or 'none'}): "
                    f"wrong quietwire.io/netns, or its interface is not up yet"
                )
            identity = netns.identify(fd)
            if other := next((each.key for each in self._pods.values() if each.identity == identity), None):
                raise NetnsError(f"its network namespace is {other}'s already: one of the two has a wrong manifest")
        except (NetnsError, OSError):
            os.close(fd)
            raise
        if former := self._left.pop(identity, None):
            former.close()
        self._pods[key] = Enrolled(pod, fd, number, want.options)

    async def _rule(self, desired: dict[str, Desired], waiting: dict[str, str]) -> None:
        unruled = []
        for key, enrolled in self._pods.items():
            if key not in desired or enrolled.restless:
                continue
            try:
                await self._take_ports(enrolled)
            except PortsTaken as error:
                waiting[key] = str(error)  # its rules are written all the same: nobody but us gets what they redirect
            except OSError as error:
                waiting[key] = f"cannot listen in its namespace: {error.strerror}"
            if enrolled.ruled:
                continue
            if asyncio.get_running_loop().time() < enrolled.retry_at:
                waiting[key] = enrolled.unruly
                continue
            try:
                await self._get_to_know(enrolled)
                unruled.append(enrolled)
            except OSError as error:
                waiting[key] = f"its namespace cannot be watched: {error.strerror}"
        for enrolled, result in zip(unruled, await self._batch("apply", unruled, processes=True), strict=True):
            self._looked(enrolled, result, wrote=True)
            self.watch.ring(enrolled.key)  # somebody may have changed them in the moment in which they were written
            if result.ok:
                enrolled.ruled, enrolled.stand_ins = True, result.stand_ins
            else:
                waiting[enrolled.key] = enrolled.unruly = f"its rules could not be installed: {result.error}"
                enrolled.retry_at = asyncio.get_running_loop().time() + RULES_RETRY_SECONDS

    async def _take_ports(self, enrolled: Enrolled) -> None:
        """Binds the first worker's listeners, before rules are written for their ports. Raises PortsTaken, OSError.

        Where somebody else listens already, it may be a worker of an agent that has just died, so that is waited for a
        while; then other ports are taken.
        """
        if enrolled.ports is not None:
            return
        wanted, *_ = enrolled.agent_ports
        for ports in enrolled.agent_ports:
            taken = await self._in_netns(enrolled.fd, partial(self._bind, enrolled, ports))
            if taken is None:
                enrolled.ports = ports
                enrolled.ruled = enrolled.ruled and ports == wanted
                if ports != wanted:
                    log.warning(
                        "%s: something else listens on %s; what is captured goes to ports %d and %d instead",
                        enrolled.key,
                        ", ".join(enrolled.taken),
                        ports.outbound,
                        ports.inbound,
                    )
                return
            if taken not in enrolled.taken:
                enrolled.taken.append(taken)
            enrolled.tries += 1
            if enrolled.tries < TRIES_OF_FIRST_PORTS:
                break
        raise PortsTaken(
            f"something else in {enrolled.key} listens on {', '.join(enrolled.taken)}, where the agent should; it is "
            f"refused meanwhile. End that, or have it listen elsewhere"
        )

    @staticmethod
    def _bind(enrolled: Enrolled, ports: AgentPorts) -> str | None:
        """In the namespace: binds, or says where somebody else listens already."""
        for port in (ports.outbound, ports.inbound):
            if taken := sockets.in_use(port):
                return taken
        enrolled.listeners.append(enrolled.make_listeners(ports))
        return None

    async def _listen(self, enrolled: Enrolled) -> None:
        while (ports := enrolled.ports) is not None and len(enrolled.listeners) < len(self._workers.handles):
            made = await self._in_netns(enrolled.fd, partial(enrolled.make_listeners, ports))
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

    async def _leave(self, leaving: list[Enrolled], reason: str, *, strip: bool = False) -> None:
        """Lets go of pods; of their rules only with `strip`, or where nobody lives in the namespace."""
        if not leaving:
            return
        for enrolled in leaving:
            enrolled.ruled = False  # nobody repairs them from here on
            self.watch.remove(enrolled.key)
            enrolled.refuse()
            await self._workers.release(enrolled.key, f"{enrolled.key} left the mesh: {reason}")
        living = {} if strip else await self._inhabitants(leaving)
        empty = [enrolled for enrolled in leaving if enrolled.number not in living]
        await self._remove_rules(empty)
        for enrolled in leaving:
            del self._pods[enrolled.key]
            log.info("un-enrolled %s: %s", enrolled.key, reason)
            if enrolled.number not in living:
                enrolled.close()
                continue
            enrolled.ruled = True
            self._left[enrolled.identity] = enrolled
            log.warning(
                "%s left the mesh (%s), but %s still lives in its namespace: its rules stay, and its connections are "
                "refused. End it; or give the pod its manifest back, with linkerd.io/inject: disabled if it is to go "
                "on in plaintext",
                enrolled.key,
                reason,
                living[enrolled.number],
            )

    async def _clear_left(self) -> None:
        """Removes rules where the last one to live in a namespace has ended."""
        left = list(self._left.values())
        living = await self._inhabitants(left)
        # One that was enrolled again meanwhile is none of these any more; one that is from here on has its rules later.
        empty = [each for each in left if each.number not in living and self._left.get(each.identity) is each]
        await self._remove_rules(empty)
        for enrolled in empty:
            if self._left.get(enrolled.identity) is enrolled:
                log.info("nobody lives in the former namespace of %s any more", enrolled.key)
                del self._left[enrolled.identity]
                enrolled.close()

    async def _remove_rules(self, pods: list[Enrolled]) -> None:
        for enrolled, result in zip(pods, await self._batch("remove", pods), strict=True):
            if not result.ok:
                log.error("the rules of %s could not be removed: %s", enrolled.key, result.error)

    async def _inhabitant(self, enrolled: Enrolled) -> str | None:
        return (await self._inhabitants([enrolled])).get(enrolled.number)

    async def _inhabitants(self, pods: Collection[Enrolled]) -> dict[int, str]:
        """Who lives in these namespaces, besides the agent's own processes, which visit them."""
        ours = {os.getpid(), *(handle.pid for handle in self._workers.handles if handle.pid is not None)}
        numbers = {enrolled.number for enrolled in pods}
        living = await self._blocking(partial(inhabitants.inhabitants, numbers, ours=ours))
        for enrolled in pods:
            if enrolled.number in living or (self._pods.get(enrolled.key) is enrolled and enrolled.listeners):
                continue
            if await self._in_netns(enrolled.fd, inhabitants.holds_connections):
                living[enrolled.number] = "somebody who has left it, and has sockets in it,"
        return living

    async def _batch(self, op: str, pods: list[Enrolled], *, processes: bool = False) -> list[BatchResult]:
        """What came of it, in the same order; with `processes`, also of those that live in there."""
        if not pods:
            return []
        seconds = BATCH_SECONDS + len(pods) * BATCH_SECONDS_PER_POD
        # Descriptors of its own: a pod may leave while its turn has not come, and its number be another namespace's.
        requests: list[BatchRequest] = []
        with contextlib.ExitStack() as unless_done:
            for number, enrolled in enumerate(pods):
                fd = os.dup(enrolled.fd)
                unless_done.callback(os.close, fd)
                requests.append(
                    BatchRequest(
                        id=number,
                        op=op,
                        netns_fd=fd,
                        options=enrolled.options,
                        backend=self._backend,
                        processes=processes,
                    )
                )
            unless_done.pop_all()
        return await self._blocking(_run_and_close, requests, seconds)

    async def _blocking(self, work: Callable[..., T], *given: Any) -> T:
        """On the one thread for whatever blocks: it is there already when memory for another one is not."""
        return await asyncio.get_running_loop().run_in_executor(self._blocks, work, *given)

    async def _get_to_know(self, enrolled: Enrolled) -> None:
        """What is needed of a namespace before rules are written: by what to know ours, and ears. Raises OSError."""
        if enrolled.key in self.watch:
            return
        key = self._key
        enrolled.mark, ears = await self._in_netns(enrolled.fd, lambda: (agent_mark.mark_of_namespace(key), Ears()))
        self.watch.add(enrolled.key, ears)

    async def _in_netns(self, fd: int, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread.executor, self._thread.run, fd, work)
