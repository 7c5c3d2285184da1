"""A credential that a program gives: client.authentication.k8s.io/v1 ("client-go credential plugins")."""

import asyncio
import contextlib
import json
import os
from datetime import datetime

import msgspec
from msgspec import Struct

from agent.kubernetes.access import Command
from agent.kubernetes.errors import Unreachable

COMMAND_SECONDS = 60.0
MAX_SAID = 300


class Given(Struct, frozen=True):
    """What the program gave: a token, or a certificate with its key, as PEM."""

    token: str
    certificate: bytes
    key: bytes
    until: float
    """POSIX seconds; infinite where it does not say."""


class _Status(Struct, frozen=True, rename={"certificate": "clientCertificateData", "key": "clientKeyData"}):
    token: str = ""
    certificate: str = ""
    key: str = ""
    expirationTimestamp: datetime | None = None  # noqa: N815 - as the API has it


class _Credential(Struct, frozen=True):
    status: _Status = _Status()


async def run(command: Command, seconds: float = COMMAND_SECONDS) -> Given:
    """Runs the program, without a terminal. Raises Unreachable with its words where it gives nothing."""
    name = command.words[0]
    asked = {"apiVersion": command.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environ = {**os.environ, **dict(command.environ), "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    try:
        process = await asyncio.create_subprocess_exec(
            *command.words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )
    except OSError as error:
        hint = f". {command.hint}" if command.hint else ""
        raise Unreachable(f"{name}, which gives the credential, cannot be run: {error.strerror}{hint}") from error
    try:
        async with asyncio.timeout(seconds):
            out, words = await process.communicate()
    except TimeoutError as error:
        raise Unreachable(f"{name}, which gives the credential, has not ended in {seconds:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        said = words.decode("utf-8", "replace").strip()[-MAX_SAID:]
        raise Unreachable(f"{name}, which gives the credential, ended with {process.returncode}: {said}")
    try:
        status = msgspec.json.decode(out, type=_Credential).status
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreachable(f"{name}: what it gave is no ExecCredential: {error}") from error
    if not status.token and not (status.certificate and status.key):
        raise Unreachable(f"{name} gave neither a token nor a certificate with its key")
    until = float("inf") if status.expirationTimestamp is None else status.expirationTimestamp.timestamp()
    return Given(status.token, status.certificate.encode(), status.key.encode(), until)
