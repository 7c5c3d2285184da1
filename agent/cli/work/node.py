"""What `up` and `agent` do: the configuration of one node's agent from its flags, and the supervisor that runs it."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import uvloop
from setproctitle import setproctitle

from agent import disk
from agent.cli.agent_flags import AgentFlags, ClusterFlags, Issuing, Joining
from agent.cli.work.cluster import access
from agent.cli.work.exits import EXIT_FAILED, EXIT_USAGE, fail
from agent.cli.work.issuing import given_issuer, svid_seconds
from agent.flags import ConfigError, HostPort
from agent.node.authority_process import AuthorityError
from agent.node.config import Cluster, Config, Directory, Embedded, Remote, SvidFiles
from agent.node.start import DirectoryError
from agent.node.supervisor import Supervisor
from agent.telemetry import logs


def up(flags: AgentFlags, authority_listen: str, issuing: Issuing, svid_source: str) -> NoReturn:
    """Runs the agent with an authority of its own, unless SVIDs come from files."""
    try:
        config = _config(
            flags,
            _files_source(svid_source)
            or Embedded(
                HostPort.parse(authority_listen, "--authority-listen"),
                svid_seconds(issuing.svid_ttl),
                given_issuer(issuing),
            ),
        )
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    _serve(config)


def agent(
    flags: AgentFlags,
    cluster: ClusterFlags,
    authorities: list[str] | None,
    bundle: Path,
    joining: Joining,
    svid_source: str,
) -> NoReturn:
    """Runs the agent with an authority elsewhere, unless SVIDs come from files."""
    try:
        if cluster.beside_linkerd and not cluster.wanted:
            raise ConfigError("--beside-linkerd is about a cluster: give --kubernetes as well")
        source = Cluster(access(cluster), cluster.beside_linkerd) if cluster.wanted else None
        identity = _files_source(svid_source)
        if identity is None:
            if not authorities:
                raise ConfigError("--authority HOST:PORT is missing: where does the authority serve?")
            if joining.join_token is not None and joining.service_account_token is not None:
                raise ConfigError("--join-token-file and --token-file are two ways to join: give one of them")
            addresses = tuple(str(HostPort.parse(each, "--authority", named=True)) for each in authorities)
            config = _config(
                flags, Remote(addresses, bundle.absolute(), joining.join_token, joining.service_account_token), source
            )
        else:
            config = _config(flags, identity, source)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    _serve(config)


def _config(flags: AgentFlags, identity: Embedded | Remote | SvidFiles, cluster: Cluster | None = None) -> Config:
    """The whole configuration, checked. Raises ConfigError."""
    config = Config(
        source=cluster or Directory(flags.manifests.absolute()),
        state=flags.state.absolute(),
        node=flags.node,
        trust_domain=flags.trust_domain,
        workers=flags.workers,
        admin=HostPort.parse(flags.admin, "--admin"),
        identity=identity,
        run_dir=flags.run_dir.absolute(),
        default_inbound_policy=flags.default_inbound_policy,
        cluster_networks=tuple(part.strip() for part in flags.cluster_networks.split(",") if part.strip()),
        egress_mode=flags.egress_mode,
        backend=flags.backend,
        outbound_port=flags.outbound_port,
        inbound_port=flags.inbound_port,
        drain_seconds=flags.drain_timeout,
        verify_seconds=flags.verify_interval,
        access_log=flags.access_log,
        log_format=flags.log_format,
        log_level=flags.log_level,
    )
    config.check()
    return config


def _serve(config: Config) -> NoReturn:
    """Runs the agent in the foreground, and ends with its exit status."""
    if os.geteuid() != 0:
        fail("the agent enters network namespaces and installs rules: run it as root", EXIT_USAGE)
    setproctitle(f"quietwire supervisor {config.node}")
    logs.configure(config.log_format, config.log_level, node=config.node, process="supervisor")
    try:
        status = uvloop.run(_run(config))
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    except (AuthorityError, DirectoryError) as error:
        fail(str(error), EXIT_FAILED)
    except OSError as error:
        fail(disk.reason(error), EXIT_FAILED)
    sys.exit(status)


async def _run(config: Config) -> int:
    return await Supervisor(config).run()


def _files_source(text: str) -> SvidFiles | None:
    """`files:DIR`; None for `authority`. Raises ConfigError."""
    kind, _, directory = text.partition(":")
    if kind == "files" and directory:
        return SvidFiles(Path(directory).absolute())
    if text != "authority":
        raise ConfigError(f"--svid-source {text!r} is neither authority nor files:DIR")
    return None
