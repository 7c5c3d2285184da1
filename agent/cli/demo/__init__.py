"""`quietwire demo`: three pods on a bridge, and what the mesh does for them, step by step, as it was observed."""

from typing import Annotated

from cyclopts import Parameter

from agent.cli.paragraphs import typed


@typed
def demo(
    *,
    keep: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show the mesh on this machine: three pods in namespaces of their own, real applications, real packets.

    Exits 1 if anything was not as it should be. Cleans up whatever happens, and can be run again at once.

    Example: quietwire demo --keep

    Parameters
    ----------
    keep
        Leave everything running until ^C, and say how to explore it.
    as_json
        Print one JSON object with a boolean and the evidence for each step.
    """
    from agent.cli.demo import play

    play.play(keep=keep, as_json=as_json)
