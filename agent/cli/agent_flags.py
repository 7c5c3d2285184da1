"""What every way of running an agent is told: the flags that `up` and `agent` share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from agent.cli.paragraphs import typed
from agent.objects.policy import DEFAULT_CLUSTER_NETWORKS, DefaultPolicy
from init.constants import INBOUND_PORT, OUTBOUND_PORT

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


@typed
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


@typed
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClusterFlags:
    """Which cluster it is.

    Parameters
    ----------
    kubernetes
        Follow a cluster's API server instead of a directory of manifests: as the pod that this is, else by the
        kubeconfig that kubectl would take.
    kubeconfig
        A kubeconfig: the same as --kubernetes, and by this file.
    context
        Its context, where it is not the current one.
    beside_linkerd
        Linkerd is there too: mesh only pods of namespaces that it is told to leave alone, by the label
        config.linkerd.io/admission-webhooks=disabled.
    """

    kubernetes: Annotated[bool, Parameter(negative="")] = False
    kubeconfig: Path | None = None
    context: str = ""
    beside_linkerd: Annotated[bool, Parameter(negative="")] = False

    @property
    def wanted(self) -> bool:
        """Whether a cluster is meant at all."""
        return self.kubernetes or self.kubeconfig is not None


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What an agent shows its authority at first: --join-token-file, or --token-file."""

    join_token: Path | None
    service_account_token: Path | None


@dataclass(frozen=True, kw_only=True)
class Issuing:
    """What `up` and `authority run` are told about issuing: --svid-ttl, and the files of an issuer that is given."""

    svid_ttl: str
    certificate: Path | None
    key: Path | None
    roots: Path | None
