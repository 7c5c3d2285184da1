"""`quietwire cni …`: the plugin by which a node's container runtime has each pod captured before it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from agent.cli.paragraphs import typed

app = App(
    name="cni", help="Put the CNI plugin on a node, or take it away: pods are captured without an init container."
)

AsJson = Annotated[bool, Parameter(name="--json", negative="")]


@typed
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a node's runtime looks, and what our plugin is told.

    Parameters
    ----------
    net_dir
        Where network configurations are; the runtime takes the first by name.
    bin_dir
        Where plugins' programs are.
    run_dir
        The agent's run directory, as the host has it.
    exempt_namespace
        A namespace whose pods start without asking the agent, and are never captured by it; again for more.
    timeout
        Seconds that a sandbox waits for the agent, before the runtime tries again.
    """

    net_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    run_dir: Path = Path("/run/quietwire")
    exempt_namespace: tuple[str, ...] = ("kube-system",)
    timeout: int = 60


WHERE = Where()


@app.command
@typed
def install(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """Put the program beside other plugins', and its entry last in the configuration that the runtime takes.

    Done again it changes nothing, or what somebody else has changed since.

    Example: quietwire cni install --exempt-namespace kube-system --exempt-namespace quietwire

    Parameters
    ----------
    as_json
        Print one JSON object with what was changed.
    """
    from agent.cli.work import cni

    cni.install(where, as_json=as_json)


@app.command
@typed
def uninstall(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """Take the entry out of every configuration, and the program away. Pods that run stay captured.

    Example: quietwire cni uninstall

    Parameters
    ----------
    as_json
        Print one JSON object with what was changed.
    """
    from agent.cli.work import cni

    cni.uninstall(where, as_json=as_json)


@app.command
@typed
def status(*, where: Where = WHERE, as_json: AsJson = False) -> None:
    """Say whether each sandbox is asked about, and whether the agent answers. Exits 1 where not.

    Example: quietwire cni status --json

    Parameters
    ----------
    as_json
        Print one JSON object.
    """
    from agent.cli.work import cni

    cni.status(where, as_json=as_json)
