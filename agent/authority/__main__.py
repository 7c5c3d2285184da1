"""The authority's process; `quietwire up` starts it as its child.

python -m agent.authority --state DIR --trust-domain TD --listen HOST:PORT --manifests DIR \
        --ready-fd N --join-fd N --parent PID
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sqlite3
import sys
from pathlib import Path

import uvloop
from setproctitle import setproctitle

from agent.authority.api import application
from agent.authority.ledger import Ledger
from agent.authority.server import AuthorityServer
from agent.authority.service import AuthorityService
from agent.authority.store import Store, StoreError
from agent.authority.workloads import CatalogWorkloads
from agent.catalog.files import FilesSource
from agent.supervisor.parent import die_with_parent
from agent.tasks import spawn
from agent.telemetry import logs

log = logging.getLogger("quietwire.authority")


async def _serve(given: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    state = Store(given.state).load_or_create(given.trust_domain)
    ledger = Ledger(given.state / "ledger.sqlite")
    workloads = CatalogWorkloads()
    source = FilesSource(given.manifests, workloads.update)
    source.load()
    service = AuthorityService(state, ledger, workloads, trust_domain=given.trust_domain, svid_seconds=given.svid_ttl)
    host, _, port = given.listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    server = AuthorityServer(
        application(service, given.trust_domain), service, trust_domain=given.trust_domain, host=host, port=int(port)
    )
    listening = await server.start()
    tasks = [spawn(source.run(), name="catalog"), spawn(server.run(), name="own SVID")]
    if given.join_fd is not None:
        tasks.append(spawn(_take_tokens(given.join_fd, service), name="join tokens"))
    if given.ready_fd is not None:
        shown = f"[{host}]" if ":" in host else host
        line = json.dumps({"address": f"{shown}:{listening}", "bundle_pem": service.bundle.anchors_pem.decode()})
        os.write(given.ready_fd, line.encode() + b"\n")
        os.close(given.ready_fd)
    await stop.wait()
    await server.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    ledger.close()


async def _take_tokens(fd: int, service: AuthorityService) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    while line := await reader.readline():
        token = json.loads(line)
        await service.add_token(token["token"], token["node"])


def main() -> int:
    """Runs the authority."""
    parser = argparse.ArgumentParser(description="quietwire's authority; started by quietwire up.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--trust-domain", required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--manifests", type=Path, required=True)
    parser.add_argument("--svid-ttl", type=float, default=86400.0)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--join-fd", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--log-format", choices=("json", "text"), default="json")
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args()
    if given.parent is not None:
        die_with_parent(given.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is the supervisor's to act on
    setproctitle("quietwire authority")
    logs.configure(given.log_format, given.log_level, process="authority")
    try:
        uvloop.run(_serve(given))
    except (StoreError, sqlite3.Error) as error:
        log.critical("the authority cannot start: %s", error)
        return 1
    except OSError as error:
        log.critical("the authority cannot start: %s (%s)", error.strerror or error, given.listen)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
