"""Keeps an SVID for every identity that this node needs: one request each, renewed at half life, never given up."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from enum import IntEnum

from agent.identity.provider import ProviderError, Report, SvidProvider
from agent.identity.renewal import PUSHED_SECONDS, backoff, is_loud, renew_at, spread
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.tasks import spawn

log = logging.getLogger("quietwire.identity")

MAX_REQUESTS = 4
"""Requests under way at once."""
MAX_AHEAD = 2
"""Of them, those that nobody waits for: slow answers to these leave room for a pod that comes meanwhile."""
IDLE_SECONDS = 2.0
FAULT_SECONDS = 10.0
LOUD_SECONDS = 60.0
"""How often the same SVID's approaching end is logged."""
BUNDLE_LIFETIME = 20.0
"""Seconds; the pause between two tries to fetch the bundle is a tenth of it at most."""
PENDING = "pending"
"""Stands in a report for an SVID that was asked for under a former bundle, and may come from a former issuer."""


class _Turn(IntEnum):
    """Who is served first."""

    NEW = 0
    """Pods wait for it, and there is none that is valid."""
    RENEWAL = 1
    AHEAD = 2
    """Its pods cannot be enrolled yet."""


class _Kept:
    """One identity: its SVID, if there is one, and what its renewal is waiting for."""

    def __init__(self) -> None:
        self.svid: Svid | None = None
        self.issued_at = 0.0
        self.due = 0.0
        self.attempts = 0
        self.problem: str | None = None
        self.awaited = True
        """A pod waits for it, or uses it."""
        self.turn = _Turn.NEW
        """Of the request under way."""
        self.asked_under = 0
        """The bundle's sequence when the request under way began."""
        self.loud_at = float("-inf")


class IdentityKeeper:
    """`on_svid` and `on_bundle` are called on the loop with each new one. `clock` gives POSIX seconds."""

    def __init__(
        self,
        provider: SvidProvider,
        *,
        on_svid: Callable[[Svid], None],
        on_bundle: Callable[[Bundle], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._provider = provider
        self._on_svid = on_svid
        self._on_bundle = on_bundle
        self._clock = clock
        self._kept: dict[SpiffeId, _Kept] = {}
        self._asking: set[_Kept] = set()
        """Those with a request under way, also when they are wanted no more."""
        self._changed = asyncio.Event()
        self._bundle: Bundle | None = None
        self._bundle_problem: str | None = None
        self._report = Report()
        self._reported = asyncio.Event()
        self._random = random.SystemRandom()

    def want(self, ids: frozenset[SpiffeId], *, ahead: frozenset[SpiffeId] = frozenset()) -> None:
        """Declares which identities are needed, and which will be soon; others are forgotten.

        Those of `ahead` are fetched after all else, so that they are there when their pods come. Served first are
        identities that pods wait for, then renewals, then these.
        """
        for spiffe_id in self._kept.keys() - (ids | ahead):
            del self._kept[spiffe_id]
        for spiffe_id in ids | ahead:
            kept = self._kept.setdefault(spiffe_id, _Kept())
            if spiffe_id in ids and not kept.awaited and kept.svid is None:
                kept.due, kept.attempts = 0.0, 0  # what failed when nobody waited is tried again for who waits
            kept.awaited = spiffe_id in ids
        self._changed.set()

    def svid(self, spiffe_id: SpiffeId) -> Svid | None:
        """The newest SVID of an identity."""
        kept = self._kept.get(spiffe_id)
        return None if kept is None else kept.svid

    @property
    def bundle(self) -> Bundle | None:
        """The newest bundle."""
        return self._bundle

    def problems(self) -> dict[SpiffeId, str]:
        """Why the last request for an identity failed, for those whose last one did."""
        return {spiffe_id: kept.problem for spiffe_id, kept in self._kept.items() if kept.problem is not None}

    def faults(self) -> tuple[str, ...]:
        """What could not be replaced when it should have been, and what stays in force instead: bundle, then SVIDs."""
        found = [] if self._bundle_problem is None else [self._bundle_problem]
        found += sorted(
            kept.problem for kept in self._kept.values() if kept.problem is not None and kept.svid is not None
        )
        return tuple(found)

    def state(self) -> Report:
        """What is kept at this moment: to be reported once every worker has it."""
        sequence = 0 if self._bundle is None else self._bundle.sequence
        issuers = {kept.svid.issuer_key_id for kept in self._kept.values() if kept.svid is not None}
        if any(kept in self._asking and kept.asked_under < sequence for kept in self._kept.values()):
            issuers.add(PENDING)
        return Report(sequence, frozenset(issuers))

    def report(self, report: Report) -> None:
        """Has the provider told what is in force in every worker."""
        if report != self._report:
            self._report = report
            self._reported.set()

    async def run(self) -> None:
        """Keeps going until cancelled, or until what follows the bundle dies."""
        follower = spawn(self._follow_bundle(), name="bundle")
        follower.add_done_callback(lambda _: self._changed.set())
        requests: set[asyncio.Task[None]] = set()
        try:
            while not follower.done():  # without it nobody would hear of a revocation: whoever runs this ends
                self._changed.clear()
                now = self._clock()
                for spiffe_id, kept in self._due(now):
                    if not self._has_room(kept, now):
                        break  # whoever comes after it in turn is no more urgent
                    self._asking.add(kept)
                    kept.due = now + FAULT_SECONDS  # of a request that ends by a fault of ours, and sets none
                    kept.turn = self._turn(kept, now)
                    kept.asked_under = 0 if self._bundle is None else self._bundle.sequence
                    task = spawn(self._renew(spiffe_id, kept), name=f"SVID {spiffe_id}")
                    requests.add(task)
                    task.add_done_callback(requests.discard)
                await self._sleep(now)
        finally:
            follower.cancel()
            for task in requests:
                task.cancel()

    def _due(self, now: float) -> list[tuple[SpiffeId, _Kept]]:
        """What is due, in turn; of one turn, those first that have none, then those whose end is nearest."""
        due = [
            (spiffe_id, kept) for spiffe_id, kept in self._kept.items() if kept.due <= now and kept not in self._asking
        ]
        return sorted(due, key=lambda each: (self._turn(each[1], now), each[1].svid.not_after if each[1].svid else 0.0))

    @staticmethod
    def _turn(kept: _Kept, now: float) -> _Turn:
        if kept.svid is None:
            return _Turn.NEW if kept.awaited else _Turn.AHEAD
        return _Turn.NEW if kept.awaited and kept.svid.not_after <= now else _Turn.RENEWAL

    def _has_room(self, kept: _Kept, now: float) -> bool:
        if len(self._asking) >= MAX_REQUESTS:
            return False
        ahead = sum(other.turn is _Turn.AHEAD for other in self._asking)
        return self._turn(kept, now) is not _Turn.AHEAD or ahead < MAX_AHEAD

    async def _sleep(self, now: float) -> None:
        # What is due now waits for room, and a request that ends wakes us.
        coming = [kept.due for kept in self._kept.values() if kept not in self._asking and kept.due > now]
        pause = min(coming, default=now + IDLE_SECONDS) - now
        try:
            async with asyncio.timeout(pause):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _renew(self, spiffe_id: SpiffeId, kept: _Kept) -> None:
        try:
            svid = await self._provider.issue(spiffe_id)
        except ProviderError as error:
            self._failed(spiffe_id, kept, error)
        else:
            self._came(spiffe_id, kept, svid)
        finally:
            self._asking.discard(kept)
            self._changed.set()

    def _came(self, spiffe_id: SpiffeId, kept: _Kept, svid: Svid) -> None:
        now = self._clock()
        if kept.problem is not None and svid == kept.svid:
            log.info("the SVID in force of %s is its source's newest again", spiffe_id)
        kept.problem, kept.attempts = None, 0
        if self._provider.pushes:
            kept.due = now + PUSHED_SECONDS
            if svid == kept.svid:
                self._warn(spiffe_id, kept, now, "its source has no newer one")
                return
        else:
            kept.due = renew_at(svid, now, self._random.random())
            if self._bundle is not None and self._outdated(svid, self._bundle):
                kept.due = now  # it was signed just before the issuer changed
        kept.svid, kept.issued_at = svid, now
        if self._kept.get(spiffe_id) is kept:
            log.info(
                "SVID %s until %s",
                spiffe_id,
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(svid.not_after)),
                extra={"fields": {"event": "svid", "spiffe_id": str(spiffe_id), "serial": svid.serial}},
            )
            self._on_svid(svid)

    def _failed(self, spiffe_id: SpiffeId, kept: _Kept, error: ProviderError) -> None:
        now = self._clock()
        kept.attempts += 1
        if kept.svid is None:
            kept.problem = f"no SVID for {spiffe_id} yet: {error}"
        else:
            kept.problem = f"no newer SVID for {spiffe_id}: {error}. {_stays(kept.svid, now)}"
        lifetime = float("inf") if kept.svid is None else kept.svid.not_after - kept.issued_at
        kept.due = now + backoff(kept.attempts, self._random.random(), lifetime)
        if not self._warn(spiffe_id, kept, now, str(error)) and kept.attempts & (kept.attempts - 1) == 0:
            # the 1st, 2nd, 4th, 8th …
            log.warning(
                "%s",
                kept.problem,
                extra={"fields": {"event": "svid_refused", "spiffe_id": str(spiffe_id), "attempts": kept.attempts}},
            )

    def _warn(self, spiffe_id: SpiffeId, kept: _Kept, now: float, reason: str) -> bool:
        """Says loudly, now and then, that an SVID nears its end; whether it does."""
        if kept.svid is None or not is_loud(kept.svid, kept.issued_at, now):
            return False
        if now - kept.loud_at >= LOUD_SECONDS:
            kept.loud_at = now
            log.error(
                "%s could not be renewed and has %.0f s to live; then its pods' connections are refused. %s",
                spiffe_id,
                max(kept.svid.not_after - now, 0),
                reason,
            )
        return True

    # -- the bundle --

    async def _follow_bundle(self) -> None:
        attempts = 0
        while True:
            self._reported.clear()
            known = 0 if self._bundle is None else self._bundle.sequence
            poll = spawn(self._poll(known, self._report), name="bundle poll")
            news = spawn(self._reported.wait(), name="report")
            try:
                await asyncio.wait({poll, news}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
                if not poll.done():
                    poll.cancel()  # the report has changed: the next poll carries it
            if not poll.done():
                continue
            answer = poll.result()
            if isinstance(answer, ProviderError):
                attempts += 1
                self._bundle_failed(answer)
                if attempts & (attempts - 1) == 0:
                    log.warning("the bundle could not be fetched (%d attempts): %s", attempts, answer)
                await asyncio.sleep(backoff(attempts, self._random.random(), lifetime=BUNDLE_LIFETIME))
                continue
            attempts = 0
            self._bundle_problem = None
            if answer is not None and answer != self._bundle:
                self._take(answer)

    async def _poll(self, known: int, report: Report) -> Bundle | ProviderError | None:
        try:
            return await self._provider.bundle(known, report)
        except ProviderError as error:
            return error

    def _bundle_failed(self, error: ProviderError) -> None:
        self._bundle_problem = (
            f"no bundle yet: {error}"
            if self._bundle is None
            else f"no newer bundle: {error}. The one of sequence {self._bundle.sequence} stays in force"
        )
        if self._provider.pushes:  # nothing else says that an SVID has changed
            now = self._clock()
            for kept in self._kept.values():
                kept.due = min(kept.due, now)
            self._changed.set()

    def _take(self, bundle: Bundle) -> None:
        self._bundle = bundle
        log.info(
            "bundle of %s, sequence %d, %d anchors, %d revoked",
            bundle.trust_domain,
            bundle.sequence,
            bundle.anchors_pem.count(b"BEGIN CERTIFICATE"),
            len(bundle.revoked_ids) + len(bundle.revoked_serials),
        )
        for words in bundle.left_out:
            log.warning("bundle: %s", words)
        self._on_bundle(bundle)
        now = self._clock()
        for kept in self._kept.values():
            if kept.svid is None:
                continue
            if self._provider.pushes or kept.svid.serial in bundle.revoked_serials:
                kept.due = now
            elif self._outdated(kept.svid, bundle):
                kept.due = min(kept.due, now + spread(kept.svid.not_after - now, self._random.random()))
        self._changed.set()

    @staticmethod
    def _outdated(svid: Svid, bundle: Bundle) -> bool:
        """Whether an SVID is under an issuer that the authority signs with no more."""
        return bool(bundle.issuer_key_id) and svid.issuer_key_id != bundle.issuer_key_id


def _stays(svid: Svid, now: float) -> str:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(svid.not_after))
    if svid.not_after <= now:
        return f"The one in force, serial {svid.serial}, expired at {until}: its pods are refused"
    return f"The one in force, serial {svid.serial}, stays until {until}"
