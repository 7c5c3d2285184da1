"""What the runtime is answered for each sandbox: a pod that is to be meshed is captured before it starts.

Whether it is to be meshed is asked of the API server, anew for each pod, and by the catalog only where that cannot be
asked: a watch lags, and of a namespace that was annotated a moment ago it would say what is wrong. Where neither
knows, the runtime is told to try again.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import msgspec

from agent.capture.netns import identify
from agent.cni.request import CniError, Code, Request
from agent.kubernetes.errors import ApiError
from agent.node.enrolment import Enrolment, named
from agent.objects.key import PodKey
from agent.objects.model import Pod
from init.netns import NetnsError, open_netns

log = logging.getLogger("quietwire.cni")

LOOK_SECONDS = 0.1
"""How often it is looked whether a pod is captured by now."""
ADD_SECONDS = 50.0
"""How long a sandbox waits for that; less than the plugin waits for the answer (`SECONDS` of client.c)."""


class _NotYet(Exception):
    """It may come to be so; `str` says what is missing."""


class CniService:
    """Answers. `pod` is the catalog's; `ask` asks the API server, where there is one, and raises ApiError.

    `missing` says what a pod waits for, `unready` why the agent takes none; `taken` is called when a namespace was
    taken or given up.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        pod: Callable[[PodKey], Pod | None],
        ask: Callable[[PodKey], Awaitable[Pod | None]] | None,
        missing: Callable[[PodKey], str | None],
        unready: Callable[[], str | None],
        taken: Callable[[], None],
    ) -> None:
        self._enrolment = enrolment
        self._pod = pod
        self._ask = ask
        self._missing = missing
        self._unready = unready
        self._taken = taken

    async def serve(self, request: Request) -> bytes:
        """What the plugin prints. Raises CniError."""
        match request.command:
            case "ADD":
                if not request.previous:
                    raise CniError(
                        Code.CONFIGURATION, "there is no prevResult: quietwire-cni comes after other plugins"
                    )
                await self._add(request)
                return request.previous
            case "CHECK":
                await self._check(request)
            case "DEL":
                self._delete(request)
            case "STATUS":
                if (reason := self._unready()) is not None:
                    raise CniError(Code.NOT_AVAILABLE, "the quietwire agent of this node takes no pods yet", reason)
        return b""  # GC too: what is kept of a sandbox goes when nobody lives in its namespace any more

    async def _add(self, request: Request) -> None:
        """Returns when the pod is captured, or need not be."""
        if request.pod is None:
            return
        clock = asyncio.get_running_loop().time
        deadline = clock() + ADD_SECONDS
        reason = ""
        wanted = False
        while clock() < deadline:
            try:
                wanted = wanted or await self._is_meshed(request.pod, request.uid)
                if not wanted or await self._captured(request, request.pod):
                    return
            except _NotYet as error:
                if str(error) != reason:
                    reason = str(error)
                    log.info("the sandbox of %s waits: %s", request.pod, reason)
            except OSError as error:  # descriptors or memory ran out: perhaps soon not any more
                reason = f"the agent cannot take it at the moment: {error.strerror}"
            await asyncio.sleep(LOOK_SECONDS)
        raise CniError(
            Code.TRY_AGAIN, f"{request.pod} is to be meshed and could not be captured in {ADD_SECONDS:g} s", reason
        )

    async def _is_meshed(self, key: PodKey, uid: str) -> bool:
        """Raises _NotYet where nobody can say."""
        if self._ask is None:
            known = self._pod(key)
        else:
            try:
                known = await self._ask(key)
            except ApiError as error:
                known = self._pod(key)
                if known is None or (uid and known.uid != uid):
                    raise _NotYet(f"whether {key} is to be meshed, the API server cannot be asked ({error})") from error
        if known is None:
            raise _NotYet(f"there is no pod {key}, or not yet")
        if uid and known.uid and known.uid != uid:
            raise _NotYet(f"{key} is the pod with UID {known.uid} now, and the sandbox is of {uid}")
        return known.settings.injected

    async def _captured(self, request: Request, key: PodKey) -> bool:
        """Takes the namespace, unless it has; whether the pod is captured in it. Raises _NotYet, CniError, OSError."""
        known = self._pod(key)
        if known is None or (request.uid and known.uid and known.uid != request.uid) or not known.settings.injected:
            raise _NotYet(f"the catalog does not know yet that {key} is to be meshed")
        pod = msgspec.structs.replace(known, ips=request.addresses)
        try:
            fd = open_netns(request.netns)
        except NetnsError as error:
            raise CniError(Code.ENVIRONMENT, "CNI_NETNS is no network namespace", str(error)) from error
        try:
            identity = identify(fd)
            if not self._enrolment.serves(key, identity):
                if await self._enrolment.find(fd, [pod]) is None:
                    raise CniError(
                        Code.CONFIGURATION,
                        f"the namespace {request.netns} holds no address of prevResult: quietwire-cni must come last",
                    )
                if problem := await self._enrolment.hand_over(pod, fd):
                    raise _NotYet(problem)
                self._taken()
            missing = self._missing(key)
            if missing is not None or not self._enrolment.serves(key, identity):
                raise _NotYet(missing or "its namespace is not enrolled yet")
        finally:
            os.close(fd)
        return True

    async def _check(self, request: Request) -> None:
        if request.pod is None:
            return
        try:
            if not await self._is_meshed(request.pod, request.uid):
                return
        except _NotYet as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        identity = named(request.netns)
        missing = self._missing(request.pod)
        if missing is not None or identity is None or not self._enrolment.serves(request.pod, identity):
            raise CniError(
                Code.NOT_CAPTURED, f"{request.pod} is not captured", missing or "it is enrolled in another namespace"
            )

    def _delete(self, request: Request) -> None:
        identity = named(request.netns) if request.netns else None
        if identity is not None and self._enrolment.delete(identity):
            self._taken()
