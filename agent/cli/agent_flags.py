"""What every way of running an agent is told: the flags that `up` and `agent` share."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import uvloop
from cyclopts import Parameter
from setproctitle import setproctitle

from agent import disk
from agent.flags import ConfigError, HostPort, parse_duration
from agent.node.authority_process import AuthorityError
from agent.node.config import Config, Embedded, Remote, SvidFiles
from agent.node.supervisor import DirectoryError, Supervisor
from agent.objects.policy import DefaultPolicy
from agent.policy.index import DEFAULT_CLUSTER_NETWORKS
from agent.telemetry import logs
from init.constants import INBOUND_PORT, OUTBOUND_PORT

EXIT_USAGE = 2
EXIT_FAILED = 1
MIN_SVID_SECONDS = 10.0
"""Below this, renewal at half life has no time left for a retry."""

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AgentFlags:
    """The agent's own flags.

    Parameters
    ----------
    manifests
        Directory of Kubernetes manifests (Pod, Service, EndpointSlice, Namespace), followed live.
    state
        Where keys and the ledger are kept (made with mode 0700).
    node
        This node's name, as in the pods' spec.nodeName.
    trust_domain
        The SPIFFE trust domain of the mesh.
    workers
        Worker processes.
    admin
        HOST:PORT of /live, /ready and /metrics.
    run_dir
        Where the enrolment socket lies. Two agents on one machine need two.
    default_inbound_policy
        Policy of a pod that has no config.linkerd.io/default-inbound-policy annotation.
    cluster_networks
        Networks that cluster-authenticated and cluster-unauthenticated mean, separated by commas.
    egress_mode
        Whether pods may dial destinations outside the mesh, where no quietwire.io/egress-mode annotation says.
    backend
        How rules are installed.
    outbound_port
        Where the agent listens, in each pod, for what the pod dials; another one where the pod listens there itself.
    inbound_port
        The same for what comes into the pod.
    drain_timeout
        Seconds that open connections may take to end after SIGTERM.
    verify_interval
        Seconds between two looks at the rules of every pod; what is missing is repaired.
    access_log
        Log every connection at its end, not only the denials.
    log_format
        JSON lines, or text for people.
    log_level
        The least severe level that is logged.
    """

    manifests: Path = Path("/etc/quietwire/manifests")
    state: Path = Path("/var/lib/quietwire")
    node: str = os.uname().nodename
    trust_domain: str = "cluster.local"
    workers: int = max(2, (os.cpu_count() or 1) // 4)
    admin: str = "127.0.0.1:4191"
    run_dir: Path = Path("/run/quietwire")
    default_inbound_policy: DefaultPolicy = DefaultPolicy.ALL_AUTHENTICATED
    cluster_networks: str = ",".join(DEFAULT_CLUSTER_NETWORKS)
    egress_mode: Literal["allow", "meshed-only"] = "allow"
    backend: Literal["auto", "legacy", "nft"] = "auto"
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT
    drain_timeout: float = 30.0
    verify_interval: float = 30.0
    access_log: Annotated[bool, Parameter(negative="")] = False
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"

    def config(self, identity: Embedded | Remote | SvidFiles) -> Config:
        """The whole configuration, checked. Raises ConfigError."""
        config = Config(
            manifests=self.manifests.absolute(),
            state=self.state.absolute(),
            node=self.node,
            trust_domain=self.trust_domain,
            workers=self.workers,
            admin=HostPort.parse(self.admin, "--admin"),
            identity=identity,
            run_dir=self.run_dir.absolute(),
            default_inbound_policy=self.default_inbound_policy,
            cluster_networks=tuple(part.strip() for part in self.cluster_networks.split(",") if part.strip()),
            egress_mode=self.egress_mode,
            backend=self.backend,
            outbound_port=self.outbound_port,
            inbound_port=self.inbound_port,
            drain_seconds=self.drain_timeout,
            verify_seconds=self.verify_interval,
            access_log=self.access_log,
            log_format=self.log_format,
            log_level=self.log_level,
        )
        config.check()
        return config


def serve(config: Config) -> NoReturn:
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


def files_source(text: str) -> SvidFiles | None:
    """`files:DIR`; None for `authority`. Raises ConfigError."""
    kind, _, directory = text.partition(":")
    if kind == "files" and directory:
        return SvidFiles(Path(directory).absolute())
    if text != "authority":
        raise ConfigError(f"--svid-source {text!r} is neither authority nor files:DIR")
    return None


def svid_seconds(text: str) -> float:
    """The value of --svid-ttl. Raises ConfigError."""
    seconds = parse_duration(text, "--svid-ttl")
    if seconds < MIN_SVID_SECONDS:
        raise ConfigError(
            f"--svid-ttl {text!r} is less than {MIN_SVID_SECONDS:g}s, the least that leaves time for renewal: "
            f"give {MIN_SVID_SECONDS:g}s or more; 24h is the default"
        )
    return seconds


def fail(message: str, status: int) -> NoReturn:
    """Says what is wrong and ends."""
    sys.stderr.write(f"quietwire: {message}\n")
    sys.exit(status)
