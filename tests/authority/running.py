"""A real authority in a process of its own, spoken to over HTTPS."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.authority.__main__ import encode
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book
from agent.authority.pki import GivenFiles
from agent.authority.run import SUBDIRECTORY, AuthorityConfig
from agent.flags import HostPort
from agent.identity.authority_client import AuthorityClient
from agent.identity.provider import ProviderError, Report
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle

TD = "example.test"
WEB = SpiffeId.for_service_account(TD, "demo", "web")
ELSEWHERE = SpiffeId.for_service_account(TD, "demo", "elsewhere")
POD = """
kind: Pod
apiVersion: v1
metadata: {name: web, namespace: demo}
spec: {nodeName: node-a, serviceAccountName: web}
---
kind: Pod
apiVersion: v1
metadata: {name: elsewhere, namespace: demo}
spec: {nodeName: node-b, serviceAccountName: elsewhere}
"""


class Authority:
    """A running authority."""

    def __init__(
        self,
        directory: Path,
        *,
        ttl: float = 3600.0,
        agent_ttl: float | None = None,
        trust_domain: str = TD,
        given: GivenFiles | None = None,
        started: bool = True,
    ) -> None:
        self.base = directory / "state"
        self.state = self.base / SUBDIRECTORY
        self.store = StateDirectory(self.state)
        self.manifests = directory / "manifests"
        self.manifests.mkdir(exist_ok=True)
        (self.manifests / "pods.yaml").write_text(POD)
        self.config = AuthorityConfig(
            state=self.base,
            trust_domain=trust_domain,
            listen=HostPort("127.0.0.1", 0),
            manifests=self.manifests,
            svid_seconds=ttl,
            agent_seconds=agent_ttl,
            given=given,
        )
        if started:
            self.start()

    def start(self) -> None:
        """Starts it; `said` is empty where it ended instead."""
        listening_read, listening_write = os.pipe()
        config = msgspec.structs.replace(self.config, listening_fd=listening_write)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.authority", "--parent", str(os.getpid()), "--config", encode(config)],
            pass_fds=(listening_write,),
            stderr=subprocess.PIPE,
        )
        os.close(listening_write)
        self._said = ""
        with os.fdopen(listening_read, "rb") as pipe:
            line = pipe.readline()
        self.said: dict[str, str] = msgspec.json.decode(line) if line else {}
        if self.said:
            listen = HostPort.parse(self.said["address"], "listen")
            self.config = msgspec.structs.replace(self.config, listen=listen)

    def book(self) -> Book:
        """The ledger, opened as the command line does."""
        return Book(self.store.ledger)

    def token(self, node: str = "node-a", seconds: float = 600.0) -> str:
        """A new join token."""
        book = self.book()
        try:
            return book.create_token(node, time.time() + seconds)
        finally:
            book.close()

    def client(
        self, token: str | None = None, node: str = "node-a", *, bundle: bytes | None = None, **more: Any
    ) -> AuthorityClient:
        """A client with one token; without one given it gets a new one whenever it has to join."""

        async def tokens() -> str:
            return self.token(node) if token is None else token

        return AuthorityClient(
            addresses=(self.said["address"],),
            anchors_pem=bundle or self.said["bundle_pem"].encode(),
            trust_domain=self.config.trust_domain,
            node=node,
            tokens=tokens,
            **more,
        )

    async def heard(self, words: str) -> None:
        """Returns once it has said this."""
        assert self.process.stderr is not None
        async with asyncio.timeout(10):
            while words not in self._said:
                self._said += (await asyncio.to_thread(self.process.stderr.readline)).decode()

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Ends it; what it logged."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self._said + said.decode()


async def refused(attempt: Any, code: str) -> ProviderError:
    """Awaits something that the authority must refuse with this code."""
    with pytest.raises(ProviderError) as caught:
        await attempt
    assert caught.value.code == code, caught.value
    return caught.value


async def newer(client: AuthorityClient, known: int, report: Report | None = None) -> Bundle:
    """The bundle after `known`; fails where none comes."""
    async with asyncio.timeout(10):
        bundle = await client.bundle(known, report or Report(known))
    assert bundle is not None
    return bundle


class Everywhere:
    """Workloads of every node."""

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        return True
