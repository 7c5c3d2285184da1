"""`quietwire up`: authority and agent for one host, in the foreground."""

from pathlib import Path

from agent.authority.pki import GivenFiles
from agent.cli.agent_flags import EXIT_USAGE, AgentFlags, fail, files_source, serve, svid_seconds
from agent.flags import ConfigError, HostPort
from agent.node.config import Embedded

_DEFAULTS = AgentFlags()


def up(
    *,
    flags: AgentFlags = _DEFAULTS,
    authority_listen: str = "127.0.0.1:8443",
    svid_ttl: str = "24h",
    issuer_cert: Path | None = None,
    issuer_key: Path | None = None,
    roots: Path | None = None,
    svid_source: str = "authority",
) -> None:
    """Run the authority and the agent of one host in the foreground.

    Enrols each pod of this node that the manifests name, and un-enrols it when its manifest goes. Prints `ready`
    on stdout when each local pod is captured and certified; logs go to stderr. SIGTERM drains; a second one ends.

    Example: quietwire up --manifests /etc/quietwire/manifests --node $(hostname) --log-format text

    Parameters
    ----------
    authority_listen
        HOST:PORT of the authority's HTTPS API; port 0 takes a free one.
    svid_ttl
        Lifetime of SVIDs, 10s at least: seconds, or with a unit, as in 90s, 30m, 24h.
    issuer_cert
        An issuer's certificate, with what is between it and the root, instead of a root of our own: tls.crt.
    issuer_key
        Its key: tls.key.
    roots
        The roots that it chains to: ca.crt. All three are read again when they change.
    svid_source
        `authority`, or files:DIR: SVIDs and bundle that somebody else puts there. No authority is started then.
    """
    try:
        config = flags.config(
            files_source(svid_source)
            or Embedded(
                HostPort.parse(authority_listen, "--authority-listen"),
                svid_seconds(svid_ttl),
                given_issuer(issuer_cert, issuer_key, roots),
            )
        )
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    serve(config)


def given_issuer(certificate: Path | None, key: Path | None, roots: Path | None) -> GivenFiles | None:
    """An issuer that is given by three flags, or none. Raises ConfigError."""
    if certificate is None or key is None or roots is None:
        if certificate is key is roots is None:
            return None
        raise ConfigError("--issuer-cert, --issuer-key and --roots go together: give all three, or none")
    return GivenFiles(certificate.absolute(), key.absolute(), roots.absolute())
