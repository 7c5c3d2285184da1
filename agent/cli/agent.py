"""`quietwire agent`: the agent of one node, whose authority is elsewhere."""

from pathlib import Path

from agent.cli.agent_flags import AgentFlags, ClusterFlags, Joining
from agent.cli.paragraphs import typed

_DEFAULTS = AgentFlags()
_NO_CLUSTER = ClusterFlags()


@typed
def agent(
    *,
    flags: AgentFlags = _DEFAULTS,
    cluster: ClusterFlags = _NO_CLUSTER,
    authority: list[str] | None = None,
    bundle: Path = Path("/etc/quietwire/bundle.pem"),
    join_token_file: Path | None = None,
    token_file: Path | None = None,
    svid_source: str = "authority",
) -> None:
    """Run the agent of one node in the foreground; its authority runs elsewhere.

    It joins with a one-time token, or as the pod that it is, then renews by itself, and keeps its own certificate in
    --state, so that a restart needs no new token. All else is as with `quietwire up`.

    Example: quietwire agent --authority 192.0.2.10:8443 --bundle bundle.pem --join-token-file token --node node-b

    Parameters
    ----------
    authority
        HOST:PORT of an authority; give the flag again for others, which are tried in turn.
    bundle
        The trust bundle to begin with: `quietwire authority bundle --pem` prints it on the authority's machine.
    join_token_file
        A one-time token for this node: `quietwire authority token create --node NODE` prints it there.
    token_file
        In a cluster, instead: the service account token that is projected into the agent's own pod for the authority.
    svid_source
        `authority`, or files:DIR: SVIDs and bundle that somebody else puts there.
    """
    from agent.cli.work import node

    node.agent(
        flags,
        cluster,
        authority,
        bundle,
        Joining(join_token=join_token_file, service_account_token=token_file),
        svid_source,
    )
