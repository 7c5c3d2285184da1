"""An authority by itself, in the foreground."""

import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from agent.authority.__main__ import run as run_authority
from agent.authority.attestation import ServiceAccount
from agent.authority.run import AuthorityConfig, ClusterConfig
from agent.cli.agent_flags import Issuing, LogFormat, LogLevel
from agent.cli.authority.flags import Where
from agent.cli.work.exits import EXIT_USAGE, fail
from agent.cli.work.issuing import given_issuer, svid_seconds
from agent.flags import ConfigError, HostPort
from agent.telemetry import logs


class Agents(NamedTuple):
    """Who a cluster's agents are: their service account, and the audience of their tokens."""

    account: str
    audience: str


def run(
    where: Where,
    agents: Agents,
    manifests: Path,
    trust_domain: str,
    listen: str,
    issuing: Issuing,
    log_format: LogFormat,
    log_level: LogLevel,
) -> NoReturn:
    """Runs it until SIGTERM, and ends with its exit status."""
    try:
        cluster = _cluster(where, agents) if where.in_a_cluster else None
        if cluster is None and not manifests.is_dir():
            raise ConfigError(f"--manifests {manifests} is no directory; make it, and put the pods' manifests into it")
        config = AuthorityConfig(
            state=where.state.absolute(),
            trust_domain=trust_domain,
            listen=HostPort.parse(listen, "--listen", anywhere=True),
            manifests=manifests.absolute(),
            svid_seconds=svid_seconds(issuing.svid_ttl),
            given=given_issuer(issuing),
            cluster=cluster,
        )
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    logs.configure(log_format, log_level, process="authority")
    sys.exit(run_authority(config))


def _cluster(where: Where, agents: Agents) -> ClusterConfig:
    """Raises ConfigError."""
    namespace, _, name = agents.account.rpartition("/")
    if not name or "/" in namespace or not agents.audience:
        raise ConfigError(
            f"--agent-service-account {agents.account!r} and --audience {agents.audience!r}: give NAME, or "
            f"NAMESPACE/NAME, and an audience that is not empty"
        )
    return ClusterConfig(
        namespace=where.namespace,
        agents=ServiceAccount(namespace or where.namespace, name),
        audience=agents.audience,
        kubeconfig="" if where.kubeconfig is None else str(where.kubeconfig.absolute()),
        context=where.context,
    )
