"""What `quietwire up` was told, checked once, before anything is started."""

import ipaddress
from pathlib import Path

from msgspec import Struct

from agent.authority.pki import GivenFiles
from agent.flags import ConfigError, HostPort
from agent.identity.spiffe import SpiffeId, SpiffeIdError, check_trust_domain
from agent.kubernetes.access import Access
from agent.node.enrolled import PORT_STEPS
from agent.objects.annotations import ALLOW, MESHED_ONLY
from agent.objects.policy import DefaultPolicy

NODE_NAME_LIMIT = 253
MAX_AGENT_PORT = 65535 - max(PORT_STEPS)


class Embedded(Struct, frozen=True):
    """An authority of its own, as a child."""

    listen: HostPort
    svid_seconds: float
    given: GivenFiles | None = None


class Remote(Struct, frozen=True):
    """An authority elsewhere: HOST:PORT each, the bundle to trust at first, and what the agent joins with.

    That is a join token in a file, or the service account token that is projected into the agent's own pod.
    """

    addresses: tuple[str, ...]
    bundle: Path
    join_token: Path | None = None
    service_account_token: Path | None = None


class SvidFiles(Struct, frozen=True):
    """SVIDs and bundle that somebody else puts into a directory."""

    directory: Path


class Directory(Struct, frozen=True):
    """Manifests in a directory say what there is."""

    path: Path


class Cluster(Struct, frozen=True):
    """The API server of a cluster says what there is; `beside_linkerd`: and who is Linkerd's."""

    access: Access
    beside_linkerd: bool = False


class Config(Struct, frozen=True, kw_only=True):
    """Everything that the supervisor needs to know."""

    source: Directory | Cluster
    state: Path
    node: str
    trust_domain: str
    workers: int
    admin: HostPort
    identity: Embedded | Remote | SvidFiles
    run_dir: Path
    default_inbound_policy: DefaultPolicy
    cluster_networks: tuple[str, ...]
    egress_mode: str
    backend: str
    outbound_port: int
    inbound_port: int
    drain_seconds: float
    verify_seconds: float
    access_log: bool
    log_format: str
    log_level: str

    def check(self) -> None:
        """Raises ConfigError, naming the flag at fault."""
        if isinstance(self.source, Directory) and not self.source.path.is_dir():
            raise ConfigError(
                f"--manifests {self.source.path} is no directory; make it, and put the pods' manifests into it"
            )
        if not self.node or len(self.node) > NODE_NAME_LIMIT:
            raise ConfigError(f"--node {self.node!r} must have 1 to {NODE_NAME_LIMIT} characters")
        try:
            check_trust_domain(self.trust_domain)
        except SpiffeIdError as error:
            raise ConfigError(f"--trust-domain {self.trust_domain!r}: {error.reason}") from None
        try:
            SpiffeId.for_agent(self.trust_domain, self.node)
        except SpiffeIdError as error:
            raise ConfigError(f"--node {self.node!r} cannot stand in a SPIFFE ID: {error.reason}") from None
        if not 1 <= self.workers <= 256:
            raise ConfigError(f"--workers {self.workers} must be 1 to 256")
        if self.egress_mode not in {ALLOW, MESHED_ONLY}:
            raise ConfigError(f"--egress-mode {self.egress_mode!r} is neither {ALLOW} nor {MESHED_ONLY}")
        for network in self.cluster_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"--cluster-networks: {error}") from None
        for flag, port in (("--outbound-port", self.outbound_port), ("--inbound-port", self.inbound_port)):
            if not 1 <= port <= MAX_AGENT_PORT:
                raise ConfigError(
                    f"{flag} {port} must be 1 to {MAX_AGENT_PORT}: where a pod listens on it, the agent takes one above"
                )
        if self.outbound_port == self.inbound_port:
            raise ConfigError(f"--outbound-port and --inbound-port are both {self.inbound_port}: the agent needs two")
        if self.verify_seconds <= 0:
            raise ConfigError("--verify-interval must be more than 0 seconds")
        if isinstance(self.identity, SvidFiles) and not self.identity.directory.is_dir():
            raise ConfigError(f"--svid-source files:{self.identity.directory} is no directory")
        if isinstance(self.identity, Embedded) and isinstance(self.source, Cluster):
            raise ConfigError("an authority of its own is a host's: in a cluster run `quietwire agent` on each node")
        if self.drain_seconds < 0:
            raise ConfigError("--drain-timeout must not be negative")
