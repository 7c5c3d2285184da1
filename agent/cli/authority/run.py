"""`quietwire authority run`."""

from pathlib import Path

from agent.cli.agent_flags import Issuing, LogFormat, LogLevel
from agent.cli.authority.flags import WHERE, Where
from agent.cli.paragraphs import typed


@typed
def run(
    *,
    where: Where = WHERE,
    manifests: Path = Path("/etc/quietwire/manifests"),
    agent_service_account: str = "quietwire-agent",
    audience: str = "quietwire-authority",
    trust_domain: str = "cluster.local",
    listen: str = "0.0.0.0:8443",
    svid_ttl: str = "24h",
    issuer_cert: Path | None = None,
    issuer_key: Path | None = None,
    roots: Path | None = None,
    log_format: LogFormat = "json",
    log_level: LogLevel = "info",
) -> None:
    """Run an authority in the foreground.

    Its first start creates a root and an issuer, unless an issuer is given. SIGTERM ends it.

    With --kubernetes it is one of any number of replicas: the state is in the cluster, agents join by the service
    account tokens of their pods, and the cluster's pods say who may be signed for.

    Example: quietwire authority run --trust-domain cluster.local --listen 192.0.2.10:8443

    Parameters
    ----------
    manifests
        Directory of the manifests that say which service accounts have pods on which node, followed live. Not in a
        cluster.
    agent_service_account
        In a cluster: the service account of the agents, NAME in the authority's namespace or NAMESPACE/NAME.
    audience
        In a cluster: the audience of the agents' tokens.
    trust_domain
        The SPIFFE trust domain of the mesh.
    listen
        HOST:PORT of the HTTPS API.
    svid_ttl
        Lifetime of workloads' SVIDs, 10s at least; agents' own live a day at least.
    issuer_cert
        An issuer's certificate, with what is between it and the root, instead of a root of our own: tls.crt.
    issuer_key
        Its key: tls.key.
    roots
        The roots that it chains to: ca.crt. All three are read again when they change.
    log_format
        JSON lines, or text for people.
    log_level
        The least severe level that is logged.
    """
    from agent.cli.work.authority import running

    issuing = Issuing(svid_ttl=svid_ttl, certificate=issuer_cert, key=issuer_key, roots=roots)
    agents = running.Agents(agent_service_account, audience)
    running.run(where, agents, manifests, trust_domain, listen, issuing, log_format, log_level)
