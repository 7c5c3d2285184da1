"""Running webhooks: a certificate that renews itself, and the server."""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable

from msgspec import Struct

from agent.flags import HostPort
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError
from agent.objects.annotations import ENABLED
from agent.tasks import spawn
from agent.webhook.certificates import Authority, CertificateError, Serving, is_due, serving, signer
from agent.webhook.injection import InjectionSettings, mutate
from agent.webhook.keeping import Kept
from agent.webhook.namespaces import Namespaces, NotToldError
from agent.webhook.review import question, refused
from agent.webhook.server import WebhookServer
from agent.webhook.validation import validate

log = logging.getLogger("quietwire.webhook")

MUTATE, VALIDATE = "/mutate", "/validate"
LOOK_SECONDS = 15.0
"""Between two looks at the Secret and the configurations: a configuration that is made anew is believed so soon."""


class WebhookConfig(Struct, frozen=True, kw_only=True):
    """What webhooks are told. `names` are those by which an API server calls the server."""

    access: Access
    namespace: str
    names: tuple[str, ...]
    listen: HostPort
    secret: str
    configuration: str
    injection: InjectionSettings
    listening_fd: int | None = None
    """Gets a line with the port, once it serves."""


class WebhookFault(RuntimeError):
    """Something that the webhooks cannot be without has ended; whoever runs them starts them again."""


class Certificate:
    """Keeps what the server shows, and whom the API server believes, in step."""

    def __init__(self, kept: Kept, names: tuple[str, ...], server: WebhookServer, clock: Callable[[], float]) -> None:
        self._kept = kept
        self._names = names
        self._server = server
        self._clock = clock
        self._shown: Serving | None = None

    async def look(self) -> None:
        """One look: renews and publishes what is due. Raises ApiError, CertificateError, ssl.SSLError."""
        now = self._clock()
        cas = await self._kept.authorities(now)
        self._show(cas, now)
        await self._kept.publish(cas, now)

    def _show(self, cas: tuple[Authority, ...], now: float) -> None:
        if is_due(self._shown, cas, now):
            shown = serving(signer(cas, now), self._names, now)
            self._server.show(shown)
            self._shown = shown

    async def run(self) -> None:
        """Looks again and again; what is shown stays as it is where that fails."""
        failed = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
                failed = ""
            except (ApiError, CertificateError, ssl.SSLError) as error:
                if str(error) != failed:
                    log.warning("the webhooks' certificates cannot be looked at, and stay as they are: %s", error)
                failed = str(error)


async def serve(config: WebhookConfig, stop: asyncio.Event) -> None:
    """Serves until `stop`. Raises ApiError, CertificateError, OSError, WebhookFault."""
    client = Client(config.access)
    namespaces = Namespaces(client)

    async def mutating(body: bytes) -> bytes:
        asked = question(body)
        try:
            says = await namespaces.says(asked.namespace)
        except NotToldError as error:  # closes: no pod is made, and whoever makes pods tries again
            return refused(
                asked, f"whether {asked.namespace} is meshed cannot be told, and is to be tried again: {error}"
            )
        return mutate(asked, says, config.injection)

    async def validating(body: bytes) -> bytes:
        asked = question(body)
        try:
            says = await namespaces.says(asked.namespace)
        except NotToldError:
            says = ENABLED  # closes: what would be refused in a meshed one is refused
        return validate(asked, says)

    server = WebhookServer({MUTATE: mutating, VALIDATE: validating})
    kept = Kept(client, config.namespace, config.secret, config.configuration)
    certificate = Certificate(kept, config.names, server, time.time)
    await certificate.look()
    stopping = spawn(stop.wait(), name="stopping")
    tasks: list[asyncio.Task[None]] = []
    try:
        port = server.start(config.listen.host, config.listen.port)
        log.info("the webhooks serve on %s", HostPort(config.listen.host, port))
        if config.listening_fd is not None:
            os.write(config.listening_fd, f"{port}\n".encode())
            os.close(config.listening_fd)
        tasks.append(spawn(certificate.run(), name="certificates"))
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        ended = [task.get_name() for task in tasks if task.done()]
        await server.stop()
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.wait([*tasks, stopping])
        client.close()
    if ended:
        raise WebhookFault(f"what follows the {ended[0]} has ended by a fault")
