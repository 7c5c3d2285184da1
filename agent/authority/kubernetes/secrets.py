"""One authority's Secrets at the API server: read, and written only where nobody else has written meanwhile."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent.authority.kubernetes.objects import LABEL, SECRETS, Content, Meta, Secret, encode
from agent.kubernetes.client import Client, Query
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.http import ConnectionEnded

T = TypeVar("T")

PAGE = 200
REQUEST_SECONDS = 5.0
"""An agent waits for ten, and may ask another replica."""
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class ConflictError(Exception):
    """Somebody else has written, made or deleted it: read it again, and decide again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Secret {name} was written by somebody else meanwhile")
        self.name = name


class _OnlyMeta(Struct, frozen=True):
    metadata: Meta


class _ListMeta(Struct, frozen=True, rename={"next": "continue"}):
    next: str = ""


class _Page(Struct, frozen=True):
    metadata: _ListMeta
    items: list[Secret] | None = None


class Secrets:
    """Of one authority, by its label, in one namespace. Everything raises ApiError."""

    def __init__(self, client: Client, namespace: str, authority: str) -> None:
        self.authority = authority
        self.namespace = namespace
        self._client = client

    @property
    def selector(self) -> str:
        """Which are the authority's."""
        return f"{LABEL}={self.authority}"

    async def all(self) -> list[Secret]:
        """Everything, as it is now."""
        found: list[Secret] = []
        more = ""
        while True:
            items = {"labelSelector": self.selector, "limit": str(PAGE), **({"continue": more} if more else {})}
            page = _decoded(await self._client.get(SECRETS.path_of(self.namespace), Query.of(**items)), _Page)
            found += page.items or ()
            more = page.metadata.next
            if not more:
                return found

    async def get(self, name: str) -> Secret | None:
        """One, as it is now; None where it is not there."""
        try:
            return _decoded(await self._client.request("GET", self._path(name), seconds=REQUEST_SECONDS), Secret)
        except Refused as error:
            if error.not_found:
                return None
            raise

    async def version(self, name: str) -> str | None:
        """Which version it is in now; None where it is not there."""
        try:
            answer = await self._client.request("GET", self._path(name), accept=METADATA, seconds=REQUEST_SECONDS)
            return _decoded(answer, _OnlyMeta).metadata.version
        except Refused as error:
            if error.not_found:
                return None
            raise

    async def write(self, name: str, content: Content, version: str | None) -> str:
        """Replaces it if it is still in this version, or makes it if there is none (None); the new version.

        Raises ConflictError, TooLargeError. After any other error it may be written or not.
        """
        body = encode(self.authority, name, content, version or "")
        method, path = ("POST", self._path("")) if version is None else ("PUT", self._path(name))
        try:
            answer = await self._once_more(method, path, body)
        except Refused as error:
            if error.conflict or (version is not None and error.not_found):
                raise ConflictError(name) from error
            raise
        return _decoded(answer, _OnlyMeta).metadata.version

    async def delete(self, name: str, version: str | None = None) -> None:
        """Deletes it, if it is in this version where one is given; it may be gone. Raises ConflictError."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if version is not None:
            body["preconditions"] = {"resourceVersion": version}
        try:
            await self._once_more("DELETE", self._path(name), body)
        except Refused as error:
            if error.conflict:
                raise ConflictError(name) from error
            if not error.not_found:
                raise

    async def _once_more(self, method: str, path: str, body: Mapping[str, Any]) -> bytes:
        """A connection that was idle may have ended: what was sent by it is sent by another.

        If it was done all the same, the second time is a conflict, and whoever decides reads what he has written.
        """
        try:
            return await self._client.request(method, path, body=body, seconds=REQUEST_SECONDS)
        except ConnectionEnded:
            return await self._client.request(method, path, body=body, seconds=REQUEST_SECONDS)

    def _path(self, name: str) -> str:
        return SECRETS.path_of(self.namespace, name)


def secret(raw: bytes) -> Secret:
    """An object of a watch. Raises Unreachable for what is none: the watch is begun anew."""
    return _decoded(raw, Secret)


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreachable(f"what the API server answers is no {kind.__name__.strip('_')}: {error}") from error
