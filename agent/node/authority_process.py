"""The authority as a child of `quietwire up`. It is spoken to over its HTTPS API only.

Two things pass outside that API, as they would by an operator's hand: where it listens and which bundle to trust at
first (by a socket, once), and the one-time join tokens of this node's agent (by the ledger, as `quietwire authority
token create` makes them). One that ends is started again, on the same port.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
from asyncio.subprocess import Process

from msgspec import Struct
from msgspec.structs import replace

from agent.authority.__main__ import encode
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book
from agent.authority.run import SUBDIRECTORY, AuthorityConfig
from agent.flags import HostPort
from agent.identity.provider import ProviderError

log = logging.getLogger("quietwire.supervisor")

START_SECONDS = 30.0
STOP_SECONDS = 5.0
TOKEN_SECONDS = 600.0
RESTART_CAP_SECONDS = 30.0
STABLE_SECONDS = 60.0


class AuthorityError(Exception):
    """The authority could not be started."""


class AuthorityListening(Struct, frozen=True):
    """What the authority says once it accepts connections."""

    address: str
    bundle_pem: str


class AuthorityProcess:
    """The child, and whoever takes its place."""

    def __init__(self, config: AuthorityConfig, *, node: str, log_format: str, log_level: str) -> None:
        self._config = config
        self._node = node
        self._log_flags = ("--log-format", log_format, "--log-level", log_level)
        self._process: Process | None = None
        self.restarts = 0
        self.listening: AuthorityListening

    async def start(self) -> None:
        """Starts it and waits until it accepts connections. Raises AuthorityError, naming what it said last."""
        # Not a pipe: uvloop closes what it reads a pipe by twice, and the second time perhaps another thread's file.
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "agent.authority", "--parent", str(os.getpid())),
                    *("--config", encode(replace(self._config, listening_fd=theirs.fileno())), *self._log_flags),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
        except BaseException:
            ours.close()
            raise
        self._process = process
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await reader.readline()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AuthorityError(f"the authority did not start in {START_SECONDS:g} s") from None
        finally:
            writer.close()
        if not line:
            status = await process.wait()
            raise AuthorityError(f"the authority ended at its start (status {status}); its log lines above say why")
        said = json.loads(line)
        self.listening = AuthorityListening(said["address"], said["bundle_pem"])
        # Whoever takes its place is found where it was.
        self._config = replace(self._config, listen=HostPort.parse(self.listening.address, "--authority-listen"))

    async def run(self) -> None:
        """Starts it again whenever it ends, until cancelled."""
        clock = asyncio.get_running_loop().time
        pause = 0.0
        while True:
            began = clock()
            status = -1 if self._process is None else await self._process.wait()
            pause = 0.0 if clock() - began > STABLE_SECONDS else min(max(pause * 2, 0.2), RESTART_CAP_SECONDS)
            self.restarts += 1
            shown = signal.Signals(-status).name if status < 0 else f"status {status}"
            log.error("the authority ended (%s): starting it again. SVIDs that are there keep working", shown)
            await asyncio.sleep(pause)
            try:
                await self.start()
            except AuthorityError as error:
                log.error("%s", error)

    async def token(self) -> str:
        """A new join token for this node's agent. Raises ProviderError."""
        try:
            return await asyncio.to_thread(self._token)
        except (sqlite3.Error, OSError) as error:
            raise ProviderError("no_token", f"no join token could be made: {error}") from error

    def _token(self) -> str:
        book = Book(StateDirectory(self._config.state / SUBDIRECTORY).ledger)
        try:
            return book.create_token(self._node, time.time() + TOKEN_SECONDS)
        finally:
            book.close()

    async def stop(self) -> None:
        """Ends it and waits for it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
