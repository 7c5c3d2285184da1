"""`quietwire authority token create`."""

from agent.cli.authority.flags import WHERE, AsJson, Where
from agent.cli.paragraphs import typed


@typed
def create(*, node: str, ttl: str = "10m", where: Where = WHERE, as_json: AsJson = False) -> None:
    """Print a one-time join token for the agent of one node.

    Example: quietwire authority token create --node node-b > token

    Parameters
    ----------
    node
        The node's name, as in the pods' spec.nodeName.
    ttl
        How long it may be used.
    """
    from agent.cli.work.authority import tokens

    tokens.create(where, node, ttl, as_json=as_json)
