"""What this agent says of its pods in the cluster's objects: that they are meshed.

A condition of the pod's, and no annotation: who may write `pods/status` can change no label, image or annotation, and
the kubelet leaves conditions alone that are not its own. It is set when the pod is captured and certified, and stays
through whatever comes, an agent's end among it: whoever has learned of it never dials in plaintext again. It is taken
back where the pod is not to be meshed any more.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from msgspec import Struct

from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import NO_QUERY, Query
from agent.kubernetes.errors import ApiError, Refused
from agent.objects.key import PodKey
from agent.objects.model import MESHED_CONDITION, Pod
from agent.tasks import spawn

log = logging.getLogger("quietwire.supervisor")

STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
AT_ONCE = 8
"""Patches that are under way at once: a node may get 200 pods in one moment."""


class Requests(Protocol):
    """What is needed of a Client."""

    async def request(
        self,
        method: str,
        path: str,
        query: Query = NO_QUERY,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        content_type: str,
    ) -> bytes:
        """See there."""


class Due(Struct, frozen=True):
    """One pod whose object says something else than what is so."""

    namespace: str
    name: str
    uid: str
    meshed: bool

    @property
    def path(self) -> str:
        """Of the request."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}/status"

    def patch(self, now: float) -> dict[str, Any]:
        """Its body, a strategic merge patch: conditions are merged by their type. Of another UID it is refused."""
        reason, message = (
            ("Captured", "Its agent captures its connections: it is reached by mutual TLS alone.")
            if self.meshed
            else ("NotInjected", "It is not to be meshed: linkerd.io/inject is not enabled.")
        )
        condition = {
            "type": MESHED_CONDITION,
            "status": "True" if self.meshed else "False",
            "reason": reason,
            "message": message,
            "lastTransitionTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return {"metadata": {"uid": self.uid}, "status": {"conditions": [condition]}}


def due(pods: Iterable[Pod], captured: Callable[[PodKey], bool], enrolled: Callable[[PodKey], bool]) -> set[Due]:
    """What is to be said of a node's pods. One that is to be meshed and is not yet, or not now, is left as it is."""
    found = set()
    for pod in pods:
        if not pod.uid:
            continue
        if pod.settings.injected:
            if not pod.published and captured(pod.key):
                found.add(Due(pod.namespace, pod.name, pod.uid, True))
        elif pod.published and not enrolled(pod.key):
            found.add(Due(pod.namespace, pod.name, pod.uid, False))
    return found


class Conditions:
    """Says it, until it is cancelled, as often as it takes. `wanted` gives what is due now."""

    def __init__(
        self,
        client: Requests,
        wanted: Callable[[], set[Due]],
        *,
        chance: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._chance = chance
        self._clock = clock
        self._said: set[Due] = set()
        """What the API server has taken, and the catalog does not know yet."""
        self._stirred = asyncio.Event()
        self._refused = ""

    def stir(self) -> None:
        """Something may be due."""
        self._stirred.set()

    async def run(self) -> None:
        """See the class."""
        backoff = Backoff()
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            wanted = self._wanted()
            self._said &= wanted  # what is not wanted any more may come to be wanted again
            todo = list(wanted - self._said)
            if await self._say_all(todo):
                backoff.succeeded()
            else:
                await asyncio.sleep(backoff.failed(self._chance()))
                self._stirred.set()

    async def _say_all(self, todo: list[Due]) -> bool:
        """Whether nothing has to be tried again."""
        queue = iter(todo)

        async def work() -> bool:
            well = True
            for each in queue:
                well = await self._say(each) and well
            return well

        workers = [spawn(work(), name="condition") for _ in range(min(AT_ONCE, len(todo)))]
        try:
            return all(await asyncio.gather(*workers))
        finally:
            for worker in workers:
                worker.cancel()

    async def _say(self, each: Due) -> bool:
        body = each.patch(self._clock())
        try:
            await self._client.request("PATCH", each.path, body=body, content_type=STRATEGIC_MERGE_PATCH)
        except Refused as error:
            if not (error.not_found or error.conflict):  # it is gone, or another one of its name
                self._failed(each, error)
                return False
        except ApiError as error:
            self._failed(each, error)
            return False
        self._said.add(each)
        self._refused = ""
        return True

    def _failed(self, each: Due, error: ApiError) -> None:
        reason = str(error)
        if reason != self._refused:
            log.warning(
                "%s/%s: that it is %s cannot be said in its object; others dial it as before. It is tried again (%s)",
                each.namespace,
                each.name,
                "meshed" if each.meshed else "not meshed any more",
                reason,
            )
        self._refused = reason
