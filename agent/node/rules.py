"""The rules of the node's pods: written, verified, repaired, and taken away; and who breaks them again and again."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import cached_property

from agent.capture.rule_watch import STILL_SECONDS, Ears, RuleWatch
from agent.node.enrolled import Enrolled
from agent.node.roster import Roster
from agent.node.visits import Visits
from init import agent_mark
from init.client import BatchRequest, BatchResult, run_batch
from init.constants import FOREIGN_NAT_HINT
from init.privileged import NET_ADMIN

log = logging.getLogger("quietwire.enrolment")

RETRY_SECONDS = 1.0
"""After this, what could not be verified is tried again."""
RULES_RETRY_SECONDS = 5.0
"""After this, rules that could not be written are tried again: a process each time."""
BATCH_SECONDS = 60.0
BATCH_SECONDS_PER_POD = 0.5
"""How long one child process may take to apply or verify the rules of all pods that are waiting."""

DROP_HINT = "drop NET_RAW and NET_ADMIN from whatever does not need them"
RESTLESS = (
    f"somebody in it breaks its rules again and again: it is refused until they hold still for {STILL_SECONDS:g} s. "
    "quietwire init check names who has NET_ADMIN in there"
)


class Rules:
    """The rules of everybody in the roster.

    `release` ends what a pod's workers do for it, and gives the reason to its peers.
    """

    def __init__(
        self,
        roster: Roster,
        visits: Visits,
        *,
        backend: str,
        verify_seconds: float,
        release: Callable[[Enrolled, str], Awaitable[None]],
    ) -> None:
        self._roster = roster
        self._visits = visits
        self._backend = backend
        self._verify_seconds = verify_seconds
        self._release = release
        self._rung = asyncio.Event()
        self.watch = RuleWatch(self._rung.set)
        """Must run: it hears of rules that somebody changes."""
        self.repairs = 0
        self._said_raw = False

    @cached_property
    def _key(self) -> bytes:
        """Of the marks; drawn when the first pod is enrolled. Raises KeyFileError."""
        return agent_mark.draw()

    async def get_to_know(self, enrolled: Enrolled) -> None:
        """What is needed of a namespace before rules are written: by what to know ours, and ears. Raises OSError."""
        if enrolled.key in self.watch:
            return
        key = self._key
        enrolled.mark, ears = await self._visits.inside(
            enrolled.fd, lambda: (agent_mark.mark_of_namespace(key), Ears())
        )
        self.watch.add(enrolled.key, ears)

    async def apply(self, pods: list[Enrolled]) -> dict[Enrolled, str]:
        """Writes rules of pods that are known; why it could not, for those whose could not be written."""
        failed: dict[Enrolled, str] = {}
        for enrolled, result in zip(pods, await self._batch("apply", pods, processes=True), strict=True):
            self._looked(enrolled, result, wrote=True)
            self.watch.ring(enrolled.key)  # somebody may have changed them in the moment in which they were written
            if result.ok:
                enrolled.ruled, enrolled.stand_ins = True, result.stand_ins
            else:
                failed[enrolled] = enrolled.unruly = f"its rules could not be installed: {result.error}"
                enrolled.retry_at = asyncio.get_running_loop().time() + RULES_RETRY_SECONDS
        return failed

    async def remove(self, pods: list[Enrolled]) -> None:
        """Takes rules away."""
        for enrolled, result in zip(pods, await self._batch("remove", pods), strict=True):
            if not result.ok:
                log.error("the rules of %s could not be removed: %s", enrolled.key, result.error)

    async def keep(self, before_round: Callable[[], Awaitable[None]]) -> None:
        """Verifies rules, and repairs what is gone, until it is cancelled.

        Of pods of which something was heard, at once; and every pod's as often as was asked for, whatever was heard.
        `before_round` is done before each of the latter. Raises what it raises, but for OSError.
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
                    await before_round()
                    await self._verify(self._roster.all, processes=True)
                else:
                    pods = self._roster.pods
                    await self._verify([pods[key] for key in self.watch.due(clock()) if key in pods])
            except OSError as error:  # no descriptors, no memory, no process numbers
                log.error("rules could not be verified (%s): they are soon again", error)
                next_round = min(next_round, clock() + RETRY_SECONDS)

    async def _verify(self, pods: list[Enrolled], *, processes: bool = False) -> None:
        for enrolled in pods:  # also where a round of enrolment is about to write them: else it would be due for ever
            if enrolled in self._roster:
                self.watch.looking(enrolled.key)
        # Whoever is held back is nobody else's: a round of enrolment writes nothing until his rules hold still.
        ruled = [enrolled for enrolled in pods if enrolled.ruled or enrolled.restless]
        for enrolled, result in zip(ruled, await self._batch("repair", ruled, processes=processes), strict=True):
            broken = bool(result.missing) or not result.ok
            self._looked(enrolled, result, wrote=broken, repaired=broken)
            await self._hold_back(enrolled)
            if broken:
                self.watch.ring(enrolled.key)  # whoever broke them may have done so again while they were written
            if result.missing:
                self.repairs += 1
                said = "; ".join([", ".join(result.missing), *result.notes])
                log.error("the rules of %s were changed by somebody else: %s", enrolled.key, said)
            if not result.ok:
                log.error("the rules of %s could not be repaired: %s", enrolled.key, result.error)
                enrolled.ruled = self._roster.is_left(enrolled)  # a round of enrolment writes those of the others anew

    async def _hold_back(self, enrolled: Enrolled) -> None:
        """Refuses a pod whose rules are broken again and again, and serves it again once they hold still."""
        restless = self.watch.is_restless(enrolled.key)
        if restless == enrolled.restless or enrolled not in self._roster:
            return
        enrolled.restless = restless
        if restless:
            log.error("%s: %s", enrolled.key, RESTLESS)
            await self._release(enrolled, f"the rules of {enrolled.key} are broken again and again")
        else:
            log.info("the rules of %s hold still: it is served again", enrolled.key)

    def _looked(self, enrolled: Enrolled, result: BatchResult, *, wrote: bool, repaired: bool = False) -> None:
        if enrolled not in self._roster:
            return  # it has left meanwhile
        self._found_privileged(enrolled, result)
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

    def _found_privileged(self, enrolled: Enrolled, result: BatchResult) -> None:
        """Says of each pod that may take its rules away, and of NET_RAW once: container runtimes grant it to all."""
        if result.capabilities is None:
            return  # it was not looked for
        former, enrolled.capabilities = enrolled.capabilities, result.capabilities
        if NET_ADMIN in enrolled.capabilities and NET_ADMIN not in former:
            log.warning("capture cannot hold %s in %s: %s", ", ".join(result.privileged), enrolled.key, DROP_HINT)
        elif enrolled.capabilities and not former and not self._said_raw:
            self._said_raw = True
            log.warning(
                "capture cannot hold %s in %s: %s. Container runtimes grant NET_RAW by default, so this is said of the "
                "first pod only; quietwire_pods_with_capability counts them",
                ", ".join(result.privileged),
                enrolled.key,
                DROP_HINT,
            )

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
        return await self._visits.blocking(_run_and_close, requests, seconds)

    def close(self) -> None:
        """Ends the watch."""
        self.watch.close()


def _run_and_close(requests: list[BatchRequest], seconds: float) -> list[BatchResult]:
    try:
        return run_batch(requests, seconds)
    finally:
        for request in requests:
            os.close(request.netns_fd)
