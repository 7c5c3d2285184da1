"""Agents of a cluster, known by their projected service account tokens: the API server is asked about each.

Needs `create` on tokenreviews.authentication.k8s.io, and `get` on the pods of the agents' namespace.
"""

import asyncio
import logging

import msgspec

from agent.authority.attestation import (
    AgentPod,
    Attested,
    Expected,
    ServiceAccount,
    Unattested,
    judge,
    read_review,
    still_there,
)
from agent.authority.refusal import Code, Refusal
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError, Refused
from agent.kubernetes.kind import Kind

log = logging.getLogger("quietwire.authority")

TOKEN_REVIEWS = Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
PODS = Kind("", "v1", "pods", "Pod")
AUDIENCE = "quietwire-authority"
MAX_TOKEN = 16384
REVIEW_SECONDS = 8.0
"""Less than an agent waits for its answer."""
REVIEWS_AT_ONCE = 16
"""Strangers can have the API server asked: at most so many questions at a time, and the others wait."""


class TokenReviews:
    """Attests agents of the cluster whose API server `client` speaks to."""

    def __init__(self, client: Client, account: ServiceAccount, *, audience: str = AUDIENCE) -> None:
        self._client = client
        self._account = account
        self._audience = audience
        self._places = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def attest(self, token: str, node: str) -> Attested:
        """The agent of this node, by a token of its pod. Raises Refusal, each reason with a code of its own.

        Where the API server cannot be asked nobody is attested: to be tried again.
        """
        if not token.isascii() or not token.isprintable() or len(token) > MAX_TOKEN:
            raise Refusal(Code.NOT_AUTHENTICATED, "the service account token is no token")
        try:
            async with asyncio.timeout(REVIEW_SECONDS), self._places:
                found = await self._attest(token, Expected(self._audience, self._account, node))
        except TimeoutError:
            raise _unavailable(f"it did not answer in {REVIEW_SECONDS:g} s") from None
        except ApiError as error:  # closes: who cannot be reviewed is nobody
            raise _unavailable(str(error)) from error
        except msgspec.MsgspecError as error:
            raise _unavailable(f"its answer is none: {error}") from error
        if isinstance(found, Unattested):
            raise Refusal(found.code, found.message)
        return found

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    async def _attest(self, token: str, expected: Expected) -> Attested | Unattested:
        body = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            # Never without an audience: then every token of the cluster would do.
            "spec": {"token": token, "audiences": [expected.audience]},
        }
        answer = await self._client.request("POST", TOKEN_REVIEWS.path, body=body)
        found = judge(read_review(answer), expected)
        if isinstance(found, Unattested):
            return found
        return still_there(found, await self._pod(found)) or found

    async def _pod(self, attested: Attested) -> AgentPod | None:
        try:
            answer = await self._client.get(PODS.path_of(attested.account.namespace, attested.pod))
        except Refused as error:
            if error.not_found:
                return None
            raise
        return msgspec.json.decode(answer, type=AgentPod)


def _unavailable(why: str) -> Refusal:
    return Refusal(
        Code.REVIEW_UNAVAILABLE, f"the API server could not be asked about the token ({why}); try again in a moment"
    )
