"""What namespaces say of being meshed: no selector of a webhook sees annotations, so the API server is asked.

Anew for each question, and not by a watch: a watch lags, for half a minute after an outage, and of a namespace that has
just been made, or annotated, it would say what is wrong. A pod would be open, or wait in vain for an agent.
"""

import asyncio

from agent.catalog.sources.kubernetes.kinds import NAMESPACES
from agent.catalog.sources.kubernetes.reading import UnreadableError, read
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError, Refused
from agent.objects.annotations import ENABLED, INJECT
from agent.objects.decode import RawNamespace

ASK_SECONDS = 2.0
"""Less than the API server waits for the answer that depends on it (timeoutSeconds of the chart's webhooks)."""


class NotToldError(Exception):
    """The API server could not be asked; `str` says why. Nobody can tell then."""


class Namespaces:
    """Those of the cluster whose API server `client` speaks to."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def says(self, name: str) -> str | None:
        """Its `linkerd.io/inject`; None where it has none. Raises NotToldError.

        One that is gone, or that cannot be read, is taken to say `enabled`.
        """
        if not name:
            return ENABLED  # of an object that is in none
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return of(await self._client.get(NAMESPACES.kind.path_of("", name), accept=NAMESPACES.accept))
        except TimeoutError:
            raise NotToldError(f"it did not answer in {ASK_SECONDS:g} s") from None
        except Refused as error:
            if error.not_found:
                return ENABLED
            raise NotToldError(str(error)) from error
        except ApiError as error:
            raise NotToldError(str(error)) from error


def of(raw: bytes) -> str | None:
    """What a namespace's bytes say."""
    try:
        decoded = read(NAMESPACES.kind, raw)
    except UnreadableError:
        return ENABLED  # closes: who is captured for nothing is noticed
    held = decoded.found if decoded.found is not None else decoded.stand_in
    return held.annotations.get(INJECT) if isinstance(held, RawNamespace) else ENABLED
