"""Which cluster is meant: from flags, from a pod's own files, or from a kubeconfig, as kubectl finds it."""

import os

from agent.cli.agent_flags import ClusterFlags
from agent.flags import ConfigError
from agent.kubernetes.access import Access, AccessError, from_kubeconfig, in_cluster, kubeconfig_files


def access(flags: ClusterFlags) -> Access:
    """Where its API server is, and who we are there. Raises ConfigError, saying what would help.

    A kubeconfig that is named comes first, then the pod that this may be, then the kubeconfig that kubectl would take.
    """
    given = "" if flags.kubeconfig is None else str(flags.kubeconfig)
    try:
        if not given and not flags.context and os.environ.get("KUBERNETES_SERVICE_HOST"):
            return in_cluster(os.environ)
        return from_kubeconfig(kubeconfig_files(os.environ, given), flags.context)
    except AccessError as error:
        raise ConfigError(f"--kubernetes: {error}") from error
