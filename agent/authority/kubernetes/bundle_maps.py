"""The bundle, as a ConfigMap of every injected namespace, and of the authority's own: for agents that have none yet.

And for people who verify by themselves: `ca.crt` are the roots as PEM, `bundle.json` is the SPIFFE bundle document.
Neither has revocations, which only who asks the authority hears of. The replica that leads writes them. They belong to
the authority's ClusterRole: where that is uninstalled, the cluster's garbage collector takes them away.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from agent.authority.api import as_bundle
from agent.authority.ledger import Publication
from agent.catalog.sources.kubernetes.kinds import NAMESPACES
from agent.identity import bundle_document
from agent.kubernetes.client import APPLY_PATCH, Client, Query
from agent.kubernetes.errors import ApiError, Refused, Unreachable
from agent.kubernetes.follow import Follower
from agent.kubernetes.kind import Kind
from agent.objects.annotations import INJECT
from agent.tasks import spawn

log = logging.getLogger("quietwire.authority")

CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
NAME = "quietwire-bundle"
MANAGER = "quietwire-authority"
OWNER = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole")
OWNER_NAME = "quietwire-authority"
"""As the chart calls it; what is in a namespace may be owned by what is in none ("Garbage Collection")."""
LABEL = {"app.kubernetes.io/managed-by": MANAGER}
AGAIN_SECONDS = 600.0
"""How often each is written anew, whatever somebody did to it."""
RETRY_SECONDS = 2.0
INJECTED = {"enabled", "ingress"}


class _Meta(Struct, frozen=True):
    name: str
    annotations: dict[str, str] | None = None
    deletionTimestamp: str | None = None  # noqa: N815 - as the API has it


class _Namespace(Struct, frozen=True):
    metadata: _Meta


class _Owner(Struct, frozen=True):
    uid: str


class _Owning(Struct, frozen=True):
    metadata: _Owner


class Namespaces:
    """Which are injected: the sink of a Follower."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.injected: set[str] = set()
        self.complete_once = False
        self._listed: set[str] | None = None
        self._changed = changed

    def begin(self) -> None:
        """See Sink."""
        self._listed = set()

    def put(self, raw: bytes) -> None:
        """See Sink."""
        found = _read(raw)
        wanted = (found.annotations or {}).get(INJECT) in INJECTED and found.deletionTimestamp is None
        for names in (self.injected, self._listed):
            if names is not None:
                (names.add if wanted else names.discard)(found.name)
        self._changed()

    def remove(self, raw: bytes) -> None:
        """See Sink."""
        found = _read(raw)
        for names in (self.injected, self._listed):
            if names is not None:
                names.discard(found.name)
        self._changed()

    def complete(self) -> None:
        """See Sink."""
        self.injected, self._listed = self._listed or set(), None
        self.complete_once = True
        self._changed()


def content(publication: Publication, trust_domain: str) -> Mapping[str, str]:
    """What a ConfigMap says: it changes with the roots and the issuer, and not with each revocation."""
    trusted = msgspec.structs.replace(
        publication, revoked_ids=(), revoked_serials=(), retired=(), sequence=publication.trust_sequence
    )
    document = bundle_document.encode(as_bundle(trusted, trust_domain))
    return {"ca.crt": publication.trust.anchors_pem.decode(), "bundle.json": document.decode()}


class BundleMaps:
    """Keeps them as they should be, where this replica `leads`."""

    def __init__(self, client: Client, namespace: str, trust_domain: str, leads: Callable[[], bool]) -> None:
        self._client = client
        self._own = namespace
        self._trust_domain = trust_domain
        self._leads = leads
        self._stirred = asyncio.Event()
        self._namespaces = Namespaces(self._stirred.set)
        self._content: Mapping[str, str] = {}
        self._written: dict[str, Mapping[str, str]] = {}
        """What this replica has written since it leads."""
        self._said: set[str] = set()
        self._owners: list[dict[str, str]] | None = None
        """Of each; None before that was asked."""

    def publish(self, publication: Publication) -> None:
        """This is in force now."""
        self._content = content(publication, self._trust_domain)
        self._stirred.set()

    async def run(self) -> None:
        """Follows the namespaces and writes, until it is cancelled."""
        follower = Follower(
            self._client,
            NAMESPACES.versions,
            self._namespaces,
            streaming=True,
            accept=NAMESPACES.accept,
            accept_list=NAMESPACES.accept_list,
        )
        following = spawn(follower.run(), name="namespaces")
        clock = asyncio.get_running_loop().time
        again = clock() + AGAIN_SECONDS
        try:
            while True:
                if not self._leads() or clock() >= again:
                    self._written.clear()
                    self._owners = None
                    again = clock() + AGAIN_SECONDS
                # Its own namespace does not wait for the list of all: agents wait for it.
                pause = RETRY_SECONDS if not self._leads() or not await self.write() else AGAIN_SECONDS
                try:
                    async with asyncio.timeout(pause):
                        await self._stirred.wait()
                except TimeoutError:
                    continue
                self._stirred.clear()
        finally:
            following.cancel()
            await asyncio.wait([following])

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    async def write(self) -> bool:
        """Writes what is not as it should be; whether all is now."""
        wanted = {self._own, *self._namespaces.injected}
        for namespace in sorted(wanted):
            if self._content and self._written.get(namespace) != self._content:
                await self._do(namespace, self._apply)
        if self._namespaces.complete_once:
            for namespace in sorted(self._written.keys() - wanted):
                await self._do(namespace, self._delete)
        return all(self._written.get(each) == self._content for each in wanted)

    async def _do(self, namespace: str, work: Callable[[str], Any]) -> None:
        try:
            await work(namespace)
        except ApiError as error:  # it is tried again; agents and people have the former one
            if namespace not in self._said:
                log.warning("ConfigMap %s/%s cannot be written, and is tried again: %s", namespace, NAME, error)
                self._said.add(namespace)
        else:
            self._said.discard(namespace)

    async def _owned_by(self) -> list[dict[str, str]]:
        """To the ClusterRole; nobody where it is not there, or may not be read: then an uninstall leaves them."""
        try:
            raw = await self._client.request("GET", OWNER.path_of("", OWNER_NAME))
            uid = msgspec.json.decode(raw, type=_Owning).metadata.uid
        except Refused as error:
            if not error.not_found:
                log.warning("ConfigMaps %s will outlive an uninstall: ClusterRole %s: %s", NAME, OWNER_NAME, error)
            return []
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unreachable(f"what the API server sends is no ClusterRole: {error}") from error
        return [{"apiVersion": OWNER.api_version, "kind": OWNER.kind, "name": OWNER_NAME, "uid": uid}]

    async def _apply(self, namespace: str) -> None:
        now = self._content
        if self._owners is None:
            self._owners = await self._owned_by()
        body = {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "metadata": {"name": NAME, "labels": LABEL, "ownerReferences": self._owners},
            "data": dict(now),
        }
        query = Query.of(fieldManager=MANAGER, force="true")
        path = CONFIG_MAPS.path_of(namespace, NAME)
        try:
            await self._client.request("PATCH", path, query, body, content_type=APPLY_PATCH)
        except Refused as error:
            if not (error.terminating or error.not_found):
                raise
            return  # the namespace goes, or has gone, as the watch will tell; until then it is tried again
        self._written[namespace] = now

    async def _delete(self, namespace: str) -> None:
        try:
            await self._client.request("DELETE", CONFIG_MAPS.path_of(namespace, NAME))
        except Refused as error:
            if not error.not_found:
                raise
        self._written.pop(namespace, None)


def _read(raw: bytes) -> _Meta:
    try:
        return msgspec.json.decode(raw, type=_Namespace).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreachable(f"what the API server sends is no namespace: {error}") from error
