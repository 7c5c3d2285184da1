"""The flags that most of the authority's verbs have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from agent.cli.paragraphs import typed

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]


@typed
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where an authority's state is: in a directory, or in a cluster.

    Parameters
    ----------
    state
        The state directory of `quietwire up` or `quietwire authority run`.
    kubernetes
        The state is in a cluster, instead: in a pod that of the pod, else that of $KUBECONFIG or ~/.kube/config.
    kubeconfig
        The state is in the cluster of this kubeconfig.
    context
        Which of the kubeconfig's contexts; its current one otherwise.
    namespace
        The authority's namespace in the cluster.
    """

    state: Path = Path("/var/lib/quietwire")
    kubernetes: Annotated[bool, Parameter(negative="")] = False
    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = "quietwire"

    @property
    def in_a_cluster(self) -> bool:
        """Whether it is no directory of this host."""
        return self.kubernetes or self.kubeconfig is not None


WHERE = Where()
