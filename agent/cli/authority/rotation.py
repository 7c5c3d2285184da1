"""`quietwire authority rotate-root …`."""

from typing import Annotated

from cyclopts import Parameter

from agent.cli.authority.flags import WHERE, AsJson, Where
from agent.cli.paragraphs import typed


@typed
def start(
    *, auto: Annotated[bool, Parameter(negative="")] = False, where: Where = WHERE, as_json: AsJson = False
) -> None:
    """Make a new root, and have every agent trust it beside the old one.

    Example: quietwire authority rotate-root start --auto

    Parameters
    ----------
    auto
        Walk through all stages by itself.
    """
    from agent.cli.work.authority import rotation

    rotation.start(where, auto=auto, as_json=as_json)


@typed
def status(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """Show the stage, and whom it waits for.

    Example: quietwire authority rotate-root status
    """
    from agent.cli.work.authority import looking

    looking.status(where, as_json=as_json)


@typed
def advance(
    *, force: Annotated[bool, Parameter(negative="")] = False, where: Where = WHERE, as_json: AsJson = False
) -> None:
    """Go to the next stage.

    Example: quietwire authority rotate-root advance

    Parameters
    ----------
    force
        Past agents that have not confirmed: their connections fail until they have.
    """
    from agent.cli.work.authority import rotation

    rotation.advance(where, force=force, as_json=as_json)


@typed
def abort(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """Go back to the root from before.

    Example: quietwire authority rotate-root abort
    """
    from agent.cli.work.authority import rotation

    rotation.abort(where, as_json=as_json)
