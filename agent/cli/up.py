"""`quietwire up`: authority and agent for one host, in the foreground."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import uvloop
from cyclopts import Parameter
from setproctitle import setproctitle

from agent.policy.index import DEFAULT_CLUSTER_NETWORKS
from agent.policy.model import DefaultPolicy
from agent.supervisor.authority_process import AuthorityError
from agent.supervisor.config import Config, ConfigError, HostPort
from agent.supervisor.supervisor import Supervisor
from agent.telemetry import logs

EXIT_USAGE = 2
EXIT_FAILED = 1


def up(
    *,
    manifests: Path = Path("/etc/quietwire/manifests"),
    state: Path = Path("/var/lib/quietwire"),
    node: str = os.uname().nodename,
    trust_domain: str = "cluster.local",
    workers: int = max(2, (os.cpu_count() or 1) // 4),
    admin: str = "127.0.0.1:4191",
    authority_listen: str = "127.0.0.1:8443",
    run_dir: Path = Path("/run/quietwire"),
    default_inbound_policy: DefaultPolicy = DefaultPolicy.ALL_AUTHENTICATED,
    cluster_networks: Annotated[str, Parameter()] = ",".join(DEFAULT_CLUSTER_NETWORKS),
    egress_mode: Literal["allow", "meshed-only"] = "allow",
    backend: Literal["auto", "legacy", "nft"] = "auto",
    drain_timeout: float = 30.0,
    verify_interval: float = 30.0,
    svid_ttl: str = "24h",
    access_log: Annotated[bool, Parameter(negative="")] = False,
    log_format: Literal["json", "text"] = "json",
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> None:
    """Run the authority and the agent of one host in the foreground.

    Enrols each pod of this node that the manifests name, and un-enrols it when its manifest goes. Prints `ready`
    on stdout when each local pod is captured and certified; logs go to stderr. SIGTERM drains; a second one ends.

    Example: quietwire up --manifests /etc/quietwire/manifests --node $(hostname) --log-format text

    Parameters
    ----------
    manifests
        Directory of Kubernetes manifests (Pod, Service, EndpointSlice, Namespace), followed live.
    state
        Where the authority keeps its keys and its ledger (made with mode 0700).
    node
        This node's name, as in the pods' spec.nodeName.
    trust_domain
        The SPIFFE trust domain of the mesh.
    workers
        Worker processes.
    admin
        HOST:PORT of /live, /ready and /metrics.
    authority_listen
        HOST:PORT of the authority's HTTPS API; port 0 takes a free one.
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
    drain_timeout
        Seconds that open connections may take to end after SIGTERM.
    verify_interval
        Seconds between two looks at the rules of every pod; what is missing is repaired.
    svid_ttl
        Lifetime of SVIDs: seconds, or with a unit, as in 90s, 30m, 24h.
    access_log
        Log every connection at its end, not only the denials.
    log_format
        JSON lines, or text for people.
    log_level
        The least severe level that is logged.
    """
    try:
        config = Config(
            manifests=manifests.absolute(),
            state=state.absolute(),
            node=node,
            trust_domain=trust_domain,
            workers=workers,
            admin=HostPort.parse(admin, "--admin"),
            authority_listen=HostPort.parse(authority_listen, "--authority-listen"),
            run_dir=run_dir.absolute(),
            default_inbound_policy=default_inbound_policy,
            cluster_networks=tuple(part.strip() for part in cluster_networks.split(",") if part.strip()),
            egress_mode=egress_mode,
            backend=backend,
            drain_seconds=drain_timeout,
            verify_seconds=verify_interval,
            svid_seconds=parse_duration(svid_ttl, "--svid-ttl"),
            access_log=access_log,
            log_format=log_format,
            log_level=log_level,
        )
        config.check()
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    if os.geteuid() != 0:
        fail("quietwire up enters network namespaces and installs rules: run it as root", EXIT_USAGE)
    setproctitle(f"quietwire supervisor {node}")
    logs.configure(log_format, log_level, node=node, process="supervisor")
    try:
        status = uvloop.run(_run(config))
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    except AuthorityError as error:
        fail(str(error), EXIT_FAILED)
    except OSError as error:
        fail(f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}", EXIT_FAILED)
    sys.exit(status)


async def _run(config: Config) -> int:
    return await Supervisor(config).run()


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, flag: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `24h` or `7d`. Raises ConfigError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{flag} {text!r} is no duration: give seconds, or 90s, 30m, 24h, 7d")
    return value * _UNITS[unit]


def fail(message: str, status: int) -> None:
    """Says what is wrong and ends."""
    sys.stderr.write(f"quietwire: {message}\n")
    sys.exit(status)
