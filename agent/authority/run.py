"""A running authority: store, ledger, service, server, and the catalog that says whose workloads are where."""

import asyncio
import json
import logging
import os
import signal
from pathlib import Path

from msgspec import Struct

from agent.authority.directory import StateDirectory
from agent.authority.pki import GivenFiles
from agent.authority.server import AuthorityServer
from agent.authority.service import AuthorityService
from agent.authority.sqlite_store import SqliteStore
from agent.authority.store import Store
from agent.authority.workloads import CatalogWorkloads
from agent.catalog.sources.files.directory import FilesSource
from agent.catalog.sources.files.remembered import FilesMemory
from agent.flags import HostPort
from agent.tasks import spawn

log = logging.getLogger("quietwire.authority")

SUBDIRECTORY = "authority"
"""Of the state directory that --state names: an agent's own things may lie beside it."""


class AuthorityFault(RuntimeError):
    """Something that the authority cannot be without has ended; whoever runs it starts it again."""


class AuthorityConfig(Struct, frozen=True, kw_only=True):
    """What an authority is told. `listening_fd` gets one JSON line, {address, bundle_pem}, once it serves."""

    state: Path
    trust_domain: str
    listen: HostPort
    manifests: Path
    svid_seconds: float
    agent_seconds: float | None = None
    given: GivenFiles | None = None
    listening_fd: int | None = None


async def serve(config: AuthorityConfig) -> None:
    """Serves until SIGTERM or SIGINT. Raises StoreError, IssuerError, sqlite3.Error, OSError, Refusal."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    directory = StateDirectory(config.state / SUBDIRECTORY)
    directory.prepare(config.trust_domain)
    with directory.claim():
        store = SqliteStore(directory)
        try:
            await _serve(config, store, stop)
        finally:
            await store.close()


async def _serve(config: AuthorityConfig, store: Store, stop: asyncio.Event) -> None:
    workloads = CatalogWorkloads()
    # Without it a fault would cost a pod its SVID when the authority starts again.
    memory = FilesMemory(config.state / SUBDIRECTORY / "last-good.msgpack", config.manifests)
    source = FilesSource(config.manifests, workloads.update, memory)
    await source.start()
    service = AuthorityService(
        store,
        workloads,
        trust_domain=config.trust_domain,
        svid_seconds=config.svid_seconds,
        agent_seconds=config.agent_seconds,
        given=config.given,
    )
    await service.start()
    server = AuthorityServer(service, host=config.listen.host, port=config.listen.port)
    listening = HostPort(config.listen.host, await server.start())
    log.info(
        "the authority of %s serves on %s",
        config.trust_domain,
        listening,
        extra={"fields": {"event": "authority", "address": str(listening)}},
    )
    tasks = [
        spawn(source.run(), name="catalog"),
        spawn(server.run(), name="own SVID"),
        spawn(service.watch(server.changed), name="ledger"),
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
