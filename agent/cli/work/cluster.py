"""Which cluster is meant: by flags, else as kubectl finds it."""

import os

from agent.cli.agent_flags import ClusterFlags
from agent.flags import ConfigError
from agent.kubernetes.access import Access, AccessError, find


def access(flags: ClusterFlags) -> Access:
    """Where its API server is, and who we are there. Raises ConfigError, saying what would help."""
    try:
        return find(os.environ, "" if flags.kubeconfig is None else str(flags.kubeconfig), flags.context)
    except AccessError as error:
        raise ConfigError(f"--kubernetes: {error}") from error
