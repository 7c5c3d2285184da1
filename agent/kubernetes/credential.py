"""What a client shows the API server, and whom it believes: read again whenever the files have changed.

A projected token is another file once an hour, and so may the CA be: nothing of it is kept longer than the file.
"""

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent.identity.memfd import load_cert_chain
from agent.kubernetes import command
from agent.kubernetes.access import Access, Material
from agent.kubernetes.command import Given
from agent.kubernetes.errors import Unreachable

EARLY_SECONDS = 60.0
"""So long before it expires a command's credential is asked for again."""


class _Seen(NamedTuple):
    """A file as it was: device, inode, size, and when it was changed."""

    device: int
    inode: int
    size: int
    modified: int


class Credential:
    """Of one Access. Blocking only by small files; a command runs as a process of its own."""

    def __init__(self, access: Access, *, clock: Callable[[], float] = time.time) -> None:
        self._access = access
        self._clock = clock
        self._context: ssl.SSLContext | None = None
        self._context_of: tuple[bytes, bytes, bytes] | None = None
        self._given: Given | None = None
        self._read: dict[str, tuple[_Seen, bytes]] = {}

    def forget(self) -> None:
        """The API server does not take it: whatever a command gave is asked for anew."""
        self._given = None

    async def headers(self) -> list[tuple[str, str]]:
        """Who we are, for a request. Raises Unreachable where that cannot be read."""
        given = await self._of_command()
        token = (
            given.token if given is not None else self._content(self._access.token).decode("ascii", "replace").strip()
        )
        return [("Authorization", f"Bearer {token}")] if token else []

    async def context(self) -> ssl.SSLContext:
        """TLS with the API server. Raises Unreachable where what it needs cannot be read, or is nothing of the sort."""
        given = await self._of_command()
        ca = self._content(self._access.ca)
        certificate, key = self._content(self._access.certificate), self._content(self._access.key)
        if given is not None and given.certificate:
            certificate, key = given.certificate, given.key
        if self._context is None or self._context_of != (ca, certificate, key):
            self._context, self._context_of = self._made(ca, certificate, key), (ca, certificate, key)
        return self._context

    def _made(self, ca: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
        where = self._access.source
        try:
            context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
        except (ssl.SSLError, ValueError) as error:
            raise Unreachable(f"{self._access.ca.file or where}: no CA certificates: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A cluster's CA may be years old, and lack what RFC 5280 wants of it: whom kubectl believes, we believe.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if certificate:
            try:
                load_cert_chain(context, certificate, key)
            except (ssl.SSLError, ValueError, OSError) as error:
                name = self._access.certificate.file or where
                raise Unreachable(f"{name}: client certificate and key cannot be used: {error}") from error
        return context

    def _content(self, material: Material) -> bytes:
        """What it is now. A file that cannot be read closes: no request is sent without what it should carry."""
        if not material.file:
            return material.data
        try:
            status = os.stat(material.file)
            seen = _Seen(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._read.get(material.file)
            if known is not None and known[0] == seen:
                return known[1]
            content = Path(material.file).read_bytes()
        except OSError as error:
            raise Unreachable(f"{material.file} cannot be read: {error.strerror}") from error
        self._read[material.file] = (seen, content)
        return content

    async def _of_command(self) -> Given | None:
        if self._access.command is None:
            return None
        if self._given is None or self._clock() >= self._given.until - EARLY_SECONDS:
            self._given = await command.run(self._access.command)
        return self._given
