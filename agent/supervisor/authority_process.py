"""The authority as a child of `quietwire up`. It is spoken to over its HTTPS API only.

Two things pass outside that API, as they would by an operator's hand: where it listens and which bundle to
trust at first (by a pipe, once), and the one-time join token of this node's agent (by another).
"""

import asyncio
import json
import logging
import os
import secrets
import sys
from asyncio.subprocess import Process

from msgspec import Struct

from agent.supervisor.config import Config

log = logging.getLogger("quietwire.supervisor")

START_SECONDS = 30.0


class AuthorityError(Exception):
    """The authority could not be started."""


class AuthorityReady(Struct, frozen=True):
    """What the authority says once it accepts connections."""

    address: str
    bundle_pem: str


class AuthorityProcess:
    """The running child."""

    def __init__(self, process: Process, ready: AuthorityReady, token: str, join_fd: int) -> None:
        self.process = process
        self.ready = ready
        self.token = token
        self._join_fd = join_fd

    @classmethod
    async def start(cls, config: Config) -> "AuthorityProcess":
        """Starts it and waits until it accepts connections. Raises AuthorityError, naming what it said last."""
        ready_read, ready_write = os.pipe()
        join_read, join_write = os.pipe()
        listen = config.authority_listen
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agent.authority",
                *("--state", str(config.state / "authority"), "--trust-domain", config.trust_domain),
                *(
                    "--listen",
                    f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}",
                ),
                *("--manifests", str(config.manifests), "--svid-ttl", str(config.svid_seconds)),
                *("--log-format", config.log_format, "--log-level", config.log_level),
                *("--ready-fd", str(ready_write), "--join-fd", str(join_read), "--parent", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(ready_write, join_read),
            )
        finally:
            os.close(ready_write)
            os.close(join_read)
        token = secrets.token_urlsafe(32)
        os.write(join_write, json.dumps({"token": token, "node": config.node}).encode() + b"\n")
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ready_read, "rb", buffering=0)
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await reader.readline()
        except TimeoutError:
            process.kill()
            raise AuthorityError(f"the authority did not start in {START_SECONDS:g} s") from None
        finally:
            transport.close()
        if not line:
            status = await process.wait()
            os.close(join_write)
            raise AuthorityError(f"the authority ended at its start (status {status}); its log lines above say why")
        said = json.loads(line)
        return cls(process, AuthorityReady(said["address"], said["bundle_pem"]), token, join_write)

    async def stop(self) -> None:
        """Ends it and waits for it."""
        os.close(self._join_fd)
        if self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(5):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
