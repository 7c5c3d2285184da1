"""What `quietwire check` does: asks, judges, says, and tries again while there is time."""

import asyncio
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import msgspec

from agent.cli.work.check import gather, judging
from agent.cli.work.check.asking import Asking, Untold
from agent.cli.work.check.expected import Expected, expected
from agent.cli.work.check.finding import Finding, is_well, lines
from agent.cli.work.exits import EXIT_FAILED, EXIT_USAGE, fail
from agent.flags import ConfigError
from agent.kubernetes.access import AccessError, find
from agent.kubernetes.client import Client
from agent.telemetry.logs import printable

ROUND_SECONDS = 60.0
"""In which all questions of one round are answered, or are told as unknown."""
PAUSE_SECONDS = 2.0
INTERRUPTED = 130


def check(namespace: str, kubeconfig: Path | None, context: str, *, pre: bool, wait: float, as_json: bool) -> NoReturn:
    """Checks, says what was found, and ends with the status."""
    try:
        if not 0 <= wait < 86400:
            raise ConfigError(f"--wait {wait:g} is not from 0 to 86400 seconds")
        wanted = expected(namespace)
        access = find(os.environ, "" if kubeconfig is None else str(kubeconfig), context)
    except (ConfigError, AccessError) as error:
        fail(printable(str(error)), EXIT_USAGE)
    try:
        findings = asyncio.run(_until_well(Client(access), wanted, wait, pre=pre))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    well = is_well(findings)
    if as_json:
        sys.stdout.write(msgspec.json.encode({"ok": well, "checks": findings}).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines(findings)))
    sys.exit(0 if well else EXIT_FAILED)


async def _until_well(client: Client, wanted: Expected, wait: float, *, pre: bool) -> tuple[Finding, ...]:
    """The findings of the last round: the first in which all is well, or of the one in which time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait
    try:
        while True:
            findings = await once(client, wanted, pre=pre)
            if is_well(findings) or loop.time() + PAUSE_SECONDS > end:
                return findings
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        client.close()
        await asyncio.sleep(0)  # connections that were closed just now end in the loop's next turn


async def once(client: Client, wanted: Expected, *, pre: bool) -> tuple[Finding, ...]:
    """One round."""
    asking = Asking(client, asyncio.get_running_loop().time() + ROUND_SECONDS)
    server = await gather.server(asking, client.access.address)
    if isinstance(server, Untold):
        return judging.unreachable(server, client.access.address, pre=pre)
    if pre:
        return judging.before(await gather.before(asking, server, wanted), wanted)
    seen = await gather.after(asking, server, wanted)
    return judging.after(seen, wanted, version("quietwire"), time.time() + (server.clock_ahead or 0.0))
