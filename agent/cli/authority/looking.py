"""`quietwire authority status|issued|agents|bundle`: what only looks, and changes nothing."""

from typing import Annotated

from cyclopts import Parameter

from agent.cli.authority.flags import WHERE, AsJson, Where
from agent.cli.paragraphs import typed


@typed
def status(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """Show the roots, the issuer, when they end, and where a rotation stands.

    Example: quietwire authority status
    """
    from agent.cli.work.authority import looking

    looking.status(where, as_json=as_json)


@typed
def issued(
    *, live: Annotated[bool, Parameter(negative="")] = False, where: Where = WHERE, as_json: AsJson = False
) -> None:
    """List every certificate that was issued.

    Example: quietwire authority issued --live

    Parameters
    ----------
    live
        Only those that have not expired.
    """
    from agent.cli.work.authority import looking

    looking.issued(where, unexpired=live, as_json=as_json)


@typed
def agents(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """List the agents that have joined, and what they trust.

    Example: quietwire authority agents
    """
    from agent.cli.work.authority import looking

    looking.agents(where, as_json=as_json)


@typed
def bundle(*, pem: Annotated[bool, Parameter(negative="")] = False, where: Where = WHERE) -> None:
    """Print the trust bundle, as a SPIFFE bundle document or as PEM.

    Example: quietwire authority bundle --pem > bundle.pem

    Parameters
    ----------
    pem
        The certificates alone.
    """
    from agent.cli.work.authority import bundle as published

    published.bundle(where, pem=pem)
