"""`quietwire authority revoke` and `unrevoke`."""

from agent.cli.authority.flags import WHERE, AsJson, Where
from agent.cli.paragraphs import typed


@typed
def revoke(
    *,
    spiffe_id: str | None = None,
    agent: str | None = None,
    serial: str | None = None,
    reason: str = "revoked by an operator",
    where: Where = WHERE,
    as_json: AsJson = False,
) -> None:
    """Revoke an identity, an agent with all that it was given, or one certificate. Agents know within two seconds.

    Live connections that used it are closed, and it is never issued again until `unrevoke`.

    Example: quietwire authority revoke --spiffe-id spiffe://cluster.local/ns/shop/sa/cart --reason "key leaked"

    Parameters
    ----------
    spiffe_id
        An identity. An agent's, `spiffe://<trust domain>/agent/<node>`, is the same as --agent.
    agent
        The node of an agent: it may ask for nothing, and all that it was given is revoked with it.
    serial
        One certificate's serial, as `issued` prints it. Its identity may get another one.
    reason
        Said to whoever is refused.
    """
    from agent.cli.work.authority import revocation

    revocation.revoke(where, revocation.Named(spiffe_id, agent, serial), reason, as_json=as_json)


@typed
def unrevoke(
    *,
    spiffe_id: str | None = None,
    agent: str | None = None,
    serial: str | None = None,
    where: Where = WHERE,
    as_json: AsJson = False,
) -> None:
    """Take a revocation back.

    What it alone kept out is let in again: certificates that have not expired are good again, with the keys that they
    had, so take nothing back whose key leaked; and the identity, or the agent, may get new ones. What was also revoked
    by another name stays revoked until that is taken back too.

    Example: quietwire authority unrevoke --spiffe-id spiffe://cluster.local/ns/shop/sa/cart

    Parameters
    ----------
    spiffe_id
        An identity.
    agent
        The node of an agent.
    serial
        One certificate's serial.
    """
    from agent.cli.work.authority import revocation

    revocation.unrevoke(where, revocation.Named(spiffe_id, agent, serial), as_json=as_json)
