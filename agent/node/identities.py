"""The SVIDs of a node's pods and the trust bundles: here is what is in force of them, and nowhere else in the agent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec

from agent.identity.keeper import IdentityKeeper
from agent.identity.provider import SvidProvider
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.link import messages
from agent.objects.model import Pod


class Identities:
    """Their one owner: workers have copies, which `tell` sends.

    `changed` is called after each change. A bundle is kept by its trust domain; SVIDs here are all of one.
    """

    def __init__(
        self, trust_domain: str, *, tell: Callable[[msgspec.Struct], None], changed: Callable[[], None]
    ) -> None:
        self._trust_domain = trust_domain
        self._tell = tell
        self._changed = changed
        self._svids: dict[SpiffeId, Svid] = {}
        self._bundles: dict[str, Bundle] = {}
        self._keeper: IdentityKeeper | None = None
        self._in_force_changed = asyncio.Event()

    def keep(self, provider: SvidProvider) -> IdentityKeeper:
        """Takes SVIDs and bundles from a provider from here on; the keeper that is to run."""
        self._keeper = IdentityKeeper(provider, on_svid=self.take_svid, on_bundle=self.take_bundle)
        return self._keeper

    def take_svid(self, svid: Svid) -> None:
        """Puts an SVID in force."""
        self._svids[svid.spiffe_id] = svid
        self._tell(messages.SetSvid(svid))
        self._in_force_changed.set()
        self._changed()

    def take_bundle(self, bundle: Bundle) -> None:
        """Puts the bundle of a trust domain in force."""
        self._bundles[bundle.trust_domain] = bundle
        self._tell(messages.SetBundle(bundle))
        self._in_force_changed.set()
        self._changed()

    def want(self, pods: Iterable[Pod], awaited: Callable[[Pod], bool]) -> None:
        """Has SVIDs fetched for these pods, first for those that are `awaited`; forgets those of all others."""
        local = list(pods)
        wanted = frozenset(map(self.identity_of, local))
        if self._keeper is not None:
            first = frozenset(self.identity_of(pod) for pod in local if awaited(pod))
            self._keeper.want(first, ahead=wanted - first)
        for spiffe_id in self._svids.keys() - wanted:
            del self._svids[spiffe_id]
            self._tell(messages.ForgetSvid(spiffe_id))

    def identity_of(self, pod: Pod) -> SpiffeId:
        """Who a pod is."""
        return SpiffeId.for_service_account(self._trust_domain, pod.namespace, pod.service_account)

    @property
    def bundle(self) -> Bundle | None:
        """The bundle of the agent's own trust domain; None until it has come."""
        return self._bundles.get(self._trust_domain)

    def missing(self, pod: Pod, now: float) -> str | None:
        """Why a pod is not certified at a time, POSIX seconds; None where it is."""
        spiffe_id = self.identity_of(pod)
        bundle = self.bundle
        if bundle is None:
            return "the trust bundle has not come yet"
        svid = self._svids.get(spiffe_id)
        problem = None if self._keeper is None else self._keeper.problems().get(spiffe_id)
        if svid is None:
            return problem or f"its SVID {spiffe_id} has not come yet"
        if svid.not_after <= now:
            return f"its SVID {spiffe_id} has expired{'' if problem is None else f'. {problem}'}"
        if bundle.revokes(spiffe_id, svid.serial):
            return f"{spiffe_id} is revoked; quietwire authority unrevoke takes it back"
        return None

    @property
    def expiries(self) -> dict[str, float]:
        """When each SVID expires, POSIX seconds, by SPIFFE ID."""
        return {str(spiffe_id): svid.not_after for spiffe_id, svid in self._svids.items()}

    @property
    def faults(self) -> tuple[str, ...]:
        """What could not be replaced, and what stays in force instead."""
        return () if self._keeper is None else self._keeper.faults()

    def greeting(self) -> Iterator[msgspec.Struct]:
        """What a new worker must be told: bundles before the SVIDs that they vouch for."""
        yield from map(messages.SetBundle, self._bundles.values())
        yield from map(messages.SetSvid, self._svids.values())

    async def report(self, keeper: IdentityKeeper, in_force: Callable[[], Awaitable[bool]]) -> None:
        """Tells the authority what is in force here, once `in_force` says that it is so in every worker."""
        while True:
            await self._in_force_changed.wait()
            self._in_force_changed.clear()
            state = keeper.state()
            if await in_force():
                keeper.report(state)
            else:
                self._in_force_changed.set()
