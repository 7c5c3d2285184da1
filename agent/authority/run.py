"""A running authority: store, ledger, service, server, and the catalog that says whose workloads are where."""

import asyncio
import json
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from agent.authority.attestation import ServiceAccount
from agent.authority.directory import StateDirectory
from agent.authority.kubernetes.bundle_maps import BundleMaps
from agent.authority.kubernetes.lease import Leadership
from agent.authority.kubernetes.store import NAME, KubernetesStore
from agent.authority.ledger import Publication
from agent.authority.pki import GivenFiles
from agent.authority.server import AuthorityServer
from agent.authority.service import AuthorityService
from agent.authority.sqlite_store import SqliteStore
from agent.authority.store import Store, StoreError, StoreUnavailableError
from agent.authority.token_review import AUDIENCE, TokenReviews
from agent.authority.workloads import CatalogWorkloads
from agent.catalog.sources.files.directory import FilesSource
from agent.catalog.sources.files.remembered import FilesMemory
from agent.catalog.sources.kubernetes.kinds import PODS
from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.flags import HostPort
from agent.kubernetes.access import find
from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import Client
from agent.tasks import spawn

log = logging.getLogger("quietwire.authority")

SUBDIRECTORY = "authority"
"""Of the state directory that --state names: an agent's own things may lie beside it."""


TIDY_SECONDS = 3600.0
"""How often the replica that leads deletes what serves no more."""


class AuthorityFault(RuntimeError):
    """Something that the authority cannot be without has ended; whoever runs it starts it again."""


class ClusterConfig(Struct, frozen=True, kw_only=True):
    """Where the state is in a cluster, and who its agents are. Without a kubeconfig it is looked for, see `access`."""

    namespace: str
    agents: ServiceAccount
    audience: str = AUDIENCE
    kubeconfig: str = ""
    context: str = ""


class AuthorityConfig(Struct, frozen=True, kw_only=True):
    """What an authority is told. `listening_fd` gets one JSON line, {address, bundle_pem}, once it serves.

    In a cluster, `state` and `manifests` mean nothing.
    """

    state: Path
    trust_domain: str
    listen: HostPort
    manifests: Path
    svid_seconds: float
    agent_seconds: float | None = None
    given: GivenFiles | None = None
    cluster: ClusterConfig | None = None
    listening_fd: int | None = None


class Surroundings(Struct, frozen=True, kw_only=True):
    """What an authority stands on: where its state is, whose pods are where, and what runs beside it."""

    store: Store
    workloads: CatalogWorkloads
    runs: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    attestor: TokenReviews | None = None
    leads: Callable[[], bool] = lambda: True
    publish: Callable[[Publication], None] = lambda _: None
    """Is told what is in force, at first and whenever it is another."""


async def serve(config: AuthorityConfig) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises StoreError, StoreUnavailableError, IssuerError, AccessError, sqlite3.Error, OSError, Refusal.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    surroundings = _on_disk(config) if config.cluster is None else in_a_cluster(config, config.cluster)
    async with surroundings as around:
        await _serve(config, around, stop)


@asynccontextmanager
async def _on_disk(config: AuthorityConfig) -> AsyncIterator[Surroundings]:
    directory = StateDirectory(config.state / SUBDIRECTORY)
    directory.prepare(config.trust_domain)
    with directory.claim():
        store = SqliteStore(directory)
        try:
            workloads = CatalogWorkloads()
            # Without it a fault would cost a pod its SVID when the authority starts again.
            memory = FilesMemory(config.state / SUBDIRECTORY / "last-good.msgpack", config.manifests)
            source = FilesSource(config.manifests, workloads.update, memory)
            await source.start()
            yield Surroundings(store=store, workloads=workloads, runs={"catalog": source.run})
        finally:
            await store.close()


@asynccontextmanager
async def in_a_cluster(config: AuthorityConfig, cluster: ClusterConfig) -> AsyncIterator[Surroundings]:
    """One of several replicas. Raises AccessError, StoreError, StoreUnavailableError."""
    access = find(os.environ, cluster.kubeconfig, cluster.context)
    me = f"{os.uname().nodename}-{secrets.token_hex(4)}"
    store = KubernetesStore(Client(access), namespace=cluster.namespace, trust_domain=config.trust_domain)
    leadership = Leadership(Client(access), cluster.namespace, NAME, me)
    reviews = TokenReviews(Client(access), cluster.agents, audience=cluster.audience)
    workloads = CatalogWorkloads()
    source = KubernetesSource(Client(access), workloads.update, followed=(PODS,))
    maps = BundleMaps(Client(access), cluster.namespace, config.trust_domain, lambda: leadership.leads)
    await _opened(store)
    await source.start()

    async def tidy() -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            if leadership.leads:
                try:
                    await store.tidy(time.time())
                except (StoreError, StoreUnavailableError) as error:
                    log.info("the state could not be tidied, and will be later: %s", error)

    runs = {
        "catalog": source.run,
        "state": store.run,
        "leadership": leadership.run,
        "published bundle": maps.run,
        "tidying": tidy,
    }
    try:
        yield Surroundings(
            store=store,
            workloads=workloads,
            runs=runs,
            attestor=reviews,
            leads=lambda: leadership.leads,
            publish=maps.publish,
        )
    finally:
        await store.close()
        reviews.close()
        leadership.close()
        maps.close()


async def _opened(store: KubernetesStore) -> None:
    """Opens it, once the API server answers. Raises StoreError."""
    backoff = Backoff()
    while True:
        try:
            return await store.open()
        except StoreUnavailableError as error:
            log.warning("nothing can be signed before the API server answers: %s", error)
            await asyncio.sleep(backoff.failed(1.0))


async def _serve(config: AuthorityConfig, around: Surroundings, stop: asyncio.Event) -> None:
    service = AuthorityService(
        around.store,
        around.workloads,
        trust_domain=config.trust_domain,
        svid_seconds=config.svid_seconds,
        agent_seconds=config.agent_seconds,
        given=config.given,
        attestor=around.attestor,
        leads=around.leads,
    )
    await service.start()
    around.publish(service.publication)
    server = AuthorityServer(service, host=config.listen.host, port=config.listen.port)
    listening = HostPort(config.listen.host, await server.start())
    log.info(
        "the authority of %s serves on %s",
        config.trust_domain,
        listening,
        extra={"fields": {"event": "authority", "address": str(listening)}},
    )

    def changed() -> None:
        server.changed()
        around.publish(service.publication)

    tasks = [
        *(spawn(run(), name=name) for name, run in around.runs.items()),
        spawn(server.run(), name="own SVID"),
        spawn(service.watch(changed), name="ledger"),
    ]
    if config.listening_fd is not None:
        bundle = service.publication.trust.anchors_pem.decode()
        os.write(config.listening_fd, json.dumps({"address": str(listening), "bundle_pem": bundle}).encode() + b"\n")
        os.close(config.listening_fd)
    stopping = spawn(stop.wait(), name="stopping")
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    ended = [task.get_name() for task in tasks if task.done()]
    stopping.cancel()
    await server.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    if ended:  # its traceback is logged: an authority that follows nothing any more would sign by yesterday's catalog
        raise AuthorityFault(f"what follows the {ended[0]} has ended by a fault")
