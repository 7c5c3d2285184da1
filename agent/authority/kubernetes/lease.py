"""One of several replicas leads: who holds a Lease (coordination.k8s.io/v1), as Kubernetes' own controllers do it.

Nothing depends on there being one only: whatever a leader does is written with optimistic concurrency as well. It is so
that not every replica does it, and loses. Clocks of replicas are not compared: a Lease is over when its holder has not
renewed it for as long as it lasts by our own clock.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError, Refused, Unreachable
from agent.kubernetes.kind import Kind

log = logging.getLogger("quietwire.authority")

LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
LASTS_SECONDS = 15
"""A leader that is gone is followed after so long."""
LEADS_SECONDS = 10.0
"""A leader that could not renew it for so long leads no more, before another one may."""
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 5.0


class Seen(Struct, frozen=True):
    """A Lease, as it was first seen in this version."""

    version: str
    holder: str
    transitions: int
    since: float
    """By our own clock, seconds."""
    lasts: float


def look(former: Seen | None, version: str, spec: "Spec", now: float) -> Seen:
    """What is seen now: of a version that was seen before, since then."""
    if former is not None and former.version == version:
        return former
    lasts = float(spec.leaseDurationSeconds or LASTS_SECONDS)
    return Seen(version, spec.holderIdentity or "", spec.leaseTransitions or 0, now, lasts)


def may_take(seen: Seen, me: str, now: float) -> bool:
    """Whether nobody else holds it: it is ours, it was let go, or its holder has not renewed it in time."""
    return seen.holder in {"", me} or now - seen.since >= seen.lasts


class Spec(Struct, frozen=True):
    """LeaseSpec, what is used of it."""

    holderIdentity: str | None = None  # noqa: N815 - as the API has it
    leaseDurationSeconds: int | None = None  # noqa: N815 - as the API has it
    leaseTransitions: int | None = None  # noqa: N815 - as the API has it
    acquireTime: str | None = None  # noqa: N815 - as the API has it


class _Meta(Struct, frozen=True):
    resourceVersion: str  # noqa: N815 - as the API has it


class _Lease(Struct, frozen=True):
    metadata: _Meta
    spec: Spec = Spec()


class Leadership:
    """Whether this replica leads. `run` for as long as it wants to."""

    def __init__(
        self, client: Client, namespace: str, name: str, me: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._me = me
        self._clock = clock
        self._seen: Seen | None = None
        self._until = float("-inf")

    @property
    def leads(self) -> bool:
        """Whether it does now."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Takes the Lease when it is free and renews it, until it is cancelled; then lets it go."""
        led = False
        try:
            while True:
                try:
                    await self.once()
                except ApiError as error:
                    log.debug("the Lease %s cannot be had: %s", self._name, error)
                if self.leads != led:
                    led = self.leads
                    log.info("this replica %s", "leads now" if led else "leads no more")
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            if self.leads:
                await self.release()

    async def once(self) -> bool:
        """Takes or renews it, where that may be; whether it leads. Raises ApiError."""
        began = self._clock()
        found = await self._get()
        if found is None:
            return self._took(began, await self._write(None, self._spec(0)), 0)
        self._seen = seen = look(self._seen, found.metadata.resourceVersion, found.spec, began)
        if not may_take(seen, self._me, began):
            self._until = float("-inf")
            return False
        if seen.holder == self._me:
            transitions, more = seen.transitions, {"acquireTime": found.spec.acquireTime}
        else:
            transitions, more = seen.transitions + 1, {}
        version = await self._write(seen.version, self._spec(transitions) | more)
        return self._took(began, version, transitions)

    async def release(self) -> None:
        """Lets it go, so that nobody has to wait."""
        self._until = float("-inf")
        if self._seen is not None:
            try:
                await self._write(self._seen.version, self._spec(self._seen.transitions) | {"holderIdentity": ""})
            except ApiError as error:
                log.info("the Lease %s could not be let go, and will be over by itself: %s", self._name, error)

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _took(self, began: float, version: str | None, transitions: int) -> bool:
        if version is None:  # another one was quicker
            self._until = float("-inf")
            return False
        self._seen = Seen(version, self._me, transitions, began, LASTS_SECONDS)
        self._until = began + LEADS_SECONDS
        return True

    def _spec(self, transitions: int) -> dict[str, Any]:
        # To the microsecond: what is written twice in the same words is no new version.
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._me,
            "leaseDurationSeconds": LASTS_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    async def _get(self) -> _Lease | None:
        try:
            path = LEASES.path_of(self._namespace, self._name)
            return _decoded(await self._client.request("GET", path, seconds=REQUEST_SECONDS))
        except Refused as error:
            if error.not_found:
                return None
            raise

    async def _write(self, version: str | None, spec: dict[str, Any]) -> str | None:
        """Its new version; None where another one was quicker."""
        metadata = {"name": self._name, **({} if version is None else {"resourceVersion": version})}
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        method = "POST" if version is None else "PUT"
        path = LEASES.path_of(self._namespace, "" if version is None else self._name)
        try:
            answer = await self._client.request(method, path, body=body, seconds=REQUEST_SECONDS)
        except Refused as error:
            if error.conflict or error.not_found:
                return None
            raise
        return _decoded(answer).metadata.resourceVersion


def _decoded(answer: bytes) -> _Lease:
    try:
        return msgspec.json.decode(answer, type=_Lease)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreachable(f"what the API server answers is no Lease: {error}") from error
