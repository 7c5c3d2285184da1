"""`quietwire check`: whether a cluster is fit for an installation, and whether one is well."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from agent.cli.paragraphs import typed


@typed
def check(
    *,
    pre: Annotated[bool, Parameter(negative="")] = False,
    namespace: str = "quietwire",
    kubeconfig: Path | None = None,
    context: str = "",
    wait: float = 0.0,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Check a cluster and the installation on it; with --pre, whether it can be installed there.

    Changes nothing, and reads no Secret. Exits 1 if anything is wrong or cannot be told; warnings are none of that.

    Example: quietwire check --pre && quietwire install | kubectl apply -f - && quietwire check --wait 120

    Parameters
    ----------
    pre
        Before installing: the API server, its version, what you may create there, the nodes, what is there already.
    namespace
        Where Quietwire is installed, or will be.
    kubeconfig
        A kubeconfig; else that which kubectl would take, and in a pod without one the pod's own.
    context
        Its context, where it is not the current one.
    wait
        Seconds to check again and again until all is well.
    as_json
        Print one JSON object with each check, its verdict, what was found and what to do.
    """
    from agent.cli.work.check import run

    run.check(namespace, kubeconfig, context, pre=pre, wait=wait, as_json=as_json)
