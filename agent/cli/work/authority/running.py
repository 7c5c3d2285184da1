"""An authority by itself, in the foreground."""

import sys
from pathlib import Path
from typing import NoReturn

from agent.authority.__main__ import run as run_authority
from agent.authority.run import AuthorityConfig
from agent.cli.agent_flags import Issuing, LogFormat, LogLevel
from agent.cli.work.exits import EXIT_USAGE, fail
from agent.cli.work.issuing import given_issuer, svid_seconds
from agent.flags import ConfigError, HostPort
from agent.telemetry import logs


def run(
    state: Path,
    manifests: Path,
    trust_domain: str,
    listen: str,
    issuing: Issuing,
    log_format: LogFormat,
    log_level: LogLevel,
) -> NoReturn:
    """Runs it until SIGTERM, and ends with its exit status."""
    try:
        if not manifests.is_dir():
            raise ConfigError(f"--manifests {manifests} is no directory; make it, and put the pods' manifests into it")
        config = AuthorityConfig(
            state=state.absolute(),
            trust_domain=trust_domain,
            listen=HostPort.parse(listen, "--listen"),
            manifests=manifests.absolute(),
            svid_seconds=svid_seconds(issuing.svid_ttl),
            given=given_issuer(issuing),
        )
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    logs.configure(log_format, log_level, process="authority")
    sys.exit(run_authority(config))
