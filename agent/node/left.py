"""Pods that leave the mesh, and the namespaces that they leave behind while somebody lives in them.

Rules are taken away where the pod's manifest says that it is not meshed, and where nobody lives in the namespace any
more. Whoever lives on in one whose pod is gone, or is elsewhere now, stays refused: a manifest that got lost, and an
enrolment that somebody managed to have replaced, are no way out of the mesh.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from agent.capture import inhabitants
from agent.capture.netns import NetnsId
from agent.node.enrolled import Enrolled
from agent.node.roster import Roster
from agent.node.rules import Rules
from agent.node.visits import Visits
from agent.node.workers import Workers

log = logging.getLogger("quietwire.enrolment")

_WITH_SOCKETS = "somebody who has left it, and has sockets in it,"


class Left:
    """Lets go of pods, and watches over what is left of them.

    `release` ends what a pod's workers do for it; `forget` is told of each namespace that is nobody's concern any more.
    """

    def __init__(
        self,
        roster: Roster,
        visits: Visits,
        rules: Rules,
        workers: Workers,
        *,
        release: Callable[[Enrolled, str], Awaitable[None]],
        forget: Callable[[NetnsId], Awaitable[None]],
    ) -> None:
        self._roster = roster
        self._visits = visits
        self._rules = rules
        self._workers = workers
        self._release = release
        self._forget = forget

    async def let_go(self, leaving: list[Enrolled], reason: str, *, strip: bool = False) -> None:
        """Lets go of pods; of their rules only with `strip`, or where nobody lives in the namespace."""
        if not leaving:
            return
        for enrolled in leaving:
            enrolled.ruled = False  # nobody repairs them from here on
            self._rules.watch.remove(enrolled.key)
            await self._release(enrolled, f"{enrolled.key} left the mesh: {reason}")
        living = {} if strip else await self.inhabitants(leaving)
        empty = [enrolled for enrolled in leaving if enrolled.number not in living]
        await self._rules.remove(empty)
        for enrolled in leaving:
            del self._roster.pods[enrolled.key]
            log.info("un-enrolled %s: %s", enrolled.key, reason)
            if enrolled.number not in living:
                await self._close(enrolled)
                continue
            enrolled.ruled = True
            self._roster.left[enrolled.identity] = enrolled
            log.warning(
                "%s left the mesh (%s), but %s still lives in its namespace: its rules stay, and its connections are "
                "refused. End it; or give the pod its manifest back, with linkerd.io/inject: disabled if it is to go "
                "on in plaintext",
                enrolled.key,
                reason,
                living[enrolled.number],
            )

    async def clear(self) -> None:
        """Removes rules where the last one to live in a namespace has ended."""
        left = list(self._roster.left.values())
        living = await self.inhabitants(left)
        # One that was enrolled again meanwhile is none of these any more; one that is from here on has its rules later.
        empty = [each for each in left if each.number not in living and self._is_left(each)]
        await self._rules.remove(empty)
        for enrolled in empty:
            if self._is_left(enrolled):
                log.info("nobody lives in the former namespace of %s any more", enrolled.key)
                del self._roster.left[enrolled.identity]
                await self._close(enrolled)

    def _is_left(self, enrolled: Enrolled) -> bool:
        return self._roster.left.get(enrolled.identity) is enrolled

    async def _close(self, enrolled: Enrolled) -> None:
        enrolled.close()
        await self._forget(enrolled.identity)

    async def inhabitant(self, enrolled: Enrolled) -> str | None:
        """One who lives in a pod's namespace."""
        return (await self.inhabitants([enrolled])).get(enrolled.number)

    async def inhabitants(self, pods: Collection[Enrolled]) -> dict[int, str]:
        """Who lives in these namespaces, besides the agent's own processes, which visit them."""
        living = await self._processes({enrolled.number for enrolled in pods})
        for enrolled in pods:
            if enrolled.number in living or (enrolled in self._roster and enrolled.listeners):
                continue
            if await self._visits.inside(enrolled.fd, inhabitants.holds_connections):
                living[enrolled.number] = _WITH_SOCKETS
        return living

    async def somebody_in(self, fd: int, number: int) -> str | None:
        """One who lives in a namespace of which the agent serves nothing; `number` is `inhabitants.number_here`."""
        if (process := (await self._processes({number})).get(number)) is not None:
            return process
        connected = await self._visits.inside(fd, inhabitants.holds_connections)
        return _WITH_SOCKETS if connected else None

    async def _processes(self, numbers: Collection[int]) -> dict[int, str]:
        ours = {os.getpid(), *(handle.pid for handle in self._workers.handles if handle.pid is not None)}
        return await self._visits.blocking(partial(inhabitants.inhabitants, numbers, ours=ours))
