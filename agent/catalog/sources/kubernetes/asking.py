"""One pod as the API server has it now, joined with its namespace as the catalog joins it: where a watch may lag."""

import asyncio

from agent.catalog.join import Assembly
from agent.catalog.sources.kubernetes.kinds import NAMESPACES, PODS, Followed
from agent.catalog.sources.kubernetes.reading import Decoded, UnreadableError, read
from agent.kubernetes.client import Client
from agent.kubernetes.errors import Refused, Unreachable
from agent.objects.decode import RawObject
from agent.objects.key import ObjectKey, PodKey
from agent.objects.model import Pod

ASK_SECONDS = 5.0
"""For both questions together."""


class Asking:
    """Asks by `client`; `beside_linkerd` as the catalog's source has it."""

    def __init__(self, client: Client, *, beside_linkerd: bool) -> None:
        self._client = client
        self._beside_linkerd = beside_linkerd

    async def pod(self, key: PodKey) -> Pod | None:
        """None where there is no such pod. Raises ApiError; Unreachable also for what is no pod."""
        namespace, _, name = key.partition("/")
        try:
            async with asyncio.timeout(ASK_SECONDS):
                space, pod = await asyncio.gather(
                    self._object(NAMESPACES, "", namespace), self._object(PODS, namespace, name)
                )
        except TimeoutError:
            raise Unreachable(f"the API server did not answer in {ASK_SECONDS:g} s") from None
        if space is None or pod is None:
            return None
        assembly = Assembly(meshed_by_default=False, beside_linkerd=self._beside_linkerd)
        change = assembly.apply({ObjectKey("Namespace", "", namespace): space, ObjectKey("Pod", namespace, name): pod})
        return None if change is None else next(iter(change.pods), None)

    async def _object(self, kind: Followed, namespace: str, name: str) -> RawObject | None:
        try:
            raw = await self._client.get(kind.kind.path_of(namespace, name), accept=kind.accept)
        except Refused as error:
            if error.not_found:
                return None
            raise
        try:
            decoded: Decoded = read(kind.kind, raw)
        except UnreadableError as error:
            raise Unreachable(f"what the API server sends is no {kind.kind.kind}: {error}") from error
        held = decoded.found if decoded.found is not None else decoded.stand_in
        if held is None:
            raise Unreachable(f"the API server's {kind.kind.kind} {name} cannot be used: {decoded.fault}")
        return held
