"""The admission webhooks, in the foreground."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

import uvloop
from setproctitle import setproctitle

from agent import disk
from agent.cli.agent_flags import LogFormat, LogLevel
from agent.cli.work.exits import EXIT_USAGE, fail
from agent.flags import ConfigError, HostPort
from agent.kubernetes.access import AccessError, find
from agent.kubernetes.errors import ApiError
from agent.telemetry import logs
from agent.webhook.certificates import CertificateError
from agent.webhook.injection import InjectionSettings
from agent.webhook.run import WebhookConfig, WebhookFault, serve

log = logging.getLogger("quietwire.webhook")


class Where(NamedTuple):
    """How the webhooks are called in the cluster, and where what they keep is."""

    namespace: str
    service: str
    names: tuple[str, ...]
    secret: str
    configuration: str


def run(
    where: Where,
    injection: InjectionSettings,
    listen: str,
    kubeconfig: Path | None,
    context: str,
    log_format: LogFormat,
    log_level: LogLevel,
) -> NoReturn:
    """Runs them until SIGTERM, and ends with the exit status."""
    try:
        if not injection.image:
            raise ConfigError("--image is empty: give the image of the init containers")
        if not injection.enrol_directory.startswith("/") or injection.enrol_seconds <= 0:
            raise ConfigError("--enrol-directory must be an absolute path, and --enrol-timeout above 0")
        access = find(os.environ, "" if kubeconfig is None else str(kubeconfig), context)
        namespace = where.namespace or access.namespace
        config = WebhookConfig(
            access=access,
            namespace=namespace,
            names=(f"{where.service}.{namespace}.svc", *where.names),
            listen=HostPort.parse(listen, "--listen"),
            secret=where.secret,
            configuration=where.configuration,
            injection=injection,
        )
    except (ConfigError, AccessError) as error:
        fail(str(error), EXIT_USAGE)
    logs.configure(log_format, log_level, process="webhook")
    setproctitle("quietwire webhook")
    try:
        uvloop.run(_until_stopped(config))
    except (ApiError, CertificateError, WebhookFault) as error:
        log.critical("the webhooks cannot be served: %s", error)
        sys.exit(1)
    except OSError as error:
        log.critical("the webhooks cannot be served: %s", disk.reason(error))
        sys.exit(1)
    sys.exit(0)


async def _until_stopped(config: WebhookConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(config, stop)
