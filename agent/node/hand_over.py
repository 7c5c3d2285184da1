"""Init steps that hand their namespace over: each is told what it waits for, until its pod is captured."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec import Struct

from agent.capture.enrolment_socket import HandedOver
from agent.capture.netns import NetnsId
from agent.node.claim import NotYet, Refused, judge
from agent.node.enrolment import Enrolment, named
from agent.objects.key import PodKey
from agent.objects.model import Pod

log = logging.getLogger("quietwire.enrolment")

LOOK_SECONDS = 0.2
"""How often it is looked whether somebody who waits need wait no longer. All who wait share what is looked at."""


class _Looked(Struct, frozen=True):
    """What was found out at a time (the loop's): this node's pods, and the namespaces that their annotations name."""

    at: float
    local: tuple[Pod, ...]
    annotated: dict[PodKey, NetnsId | None]


class HandOver:
    """Serves init steps.

    `local` gives this node's pods, `missing` what a pod waits for; `taken` is called when a namespace was taken.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        node: str,
        local: Callable[[], Sequence[Pod]],
        missing: Callable[[PodKey], str | None],
        taken: Callable[[], None],
        stopping: asyncio.Event,
    ) -> None:
        self._enrolment = enrolment
        self._node = node
        self._local = local
        self._missing = missing
        self._taken = taken
        self._stopping = stopping
        self._looked = _Looked(float("-inf"), (), {})

    async def serve(self, handed: HandedOver) -> None:
        """Answers one init step when its pod is captured, or cannot be by it."""
        said = ""
        holder: PodKey | None = None
        while not self._stopping.is_set():
            try:
                step, holder = await self._step(handed, holder)
            except OSError as error:  # descriptors or memory ran out: perhaps soon not any more
                step = NotYet(f"the agent cannot take it at the moment: {error.strerror}")
            match step:
                case None:
                    return
                case Refused(reason):
                    handed.refused(reason)
                    return
                case NotYet(reason):
                    if reason != said:
                        said = reason
                        handed.waiting(reason)
            await asyncio.sleep(LOOK_SECONDS)
        # No refusal: whoever waits has to do with the next agent, which may be about to start.
        handed.waiting("the agent is shutting down")

    async def _step(self, handed: HandedOver, holder: PodKey | None) -> tuple[NotYet | Refused | None, PodKey | None]:
        """One step on: why it must wait or is refused (None: it has been answered), and for whom it was taken."""
        looked = self._look()
        verdict = judge(handed.caller, handed.pod, looked.local, looked.annotated, self._node)
        if not isinstance(verdict, tuple):
            return verdict, None
        pod = next((pod for pod in verdict if pod.key == holder), None)
        if pod is None:
            pod = await self._enrolment.find(handed.netns_fd, verdict)
            if pod is None:
                names = ", ".join(each.key for each in verdict[:3])
                return NotYet(f"the namespace holds no address of {names} yet"), None
        if pod.netns is None and (problem := await self._enrolment.hand_over(pod, handed.netns_fd)):
            return NotYet(problem), None
        if pod.key != holder:
            self._taken()
        reason = self._missing(pod.key)
        if reason is None and self._enrolment.serves(pod.key, handed.caller.netns):
            handed.captured(pod.key)
            return None, pod.key
        return NotYet(reason or f"{pod.key} is still enrolled in another namespace"), pod.key

    def _look(self) -> _Looked:
        now = asyncio.get_running_loop().time()
        if now - self._looked.at >= LOOK_SECONDS:
            local = tuple(self._local())
            annotated = {pod.key: named(pod.netns) for pod in local if pod.netns is not None}
            self._looked = _Looked(now, local, annotated)
        return self._looked
