"""`quietwire up`: authority and agent for one host, in the foreground."""

from pathlib import Path

from agent.cli.agent_flags import AgentFlags, Issuing
from agent.cli.paragraphs import typed

_DEFAULTS = AgentFlags()


@typed
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
    from agent.cli.work import node

    issuing = Issuing(svid_ttl=svid_ttl, certificate=issuer_cert, key=issuer_key, roots=roots)
    node.up(flags, authority_listen, issuing, svid_source)
