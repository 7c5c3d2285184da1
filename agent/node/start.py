"""What must be there before anything runs: directories, the lock on one of them, room for descriptors."""

import contextlib
import fcntl
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from agent import disk
from agent.flags import ConfigError
from agent.node.config import Config

log = logging.getLogger("quietwire.supervisor")

DESCRIPTORS = 1 << 20


class DirectoryError(Exception):
    """A directory that the agent needs cannot be used; `str` says which, why, and what to do."""


@contextlib.contextmanager
def needed(what: str, directory: Path) -> Iterator[None]:
    """Whatever fails in here is told of this directory. Raises DirectoryError."""
    try:
        yield
    except OSError as error:
        known = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise DirectoryError(
            f"{what}, {directory}, cannot be used: {disk.reason(known)}. The agent does not start without it, and its "
            f"pods are refused until it does"
        ) from error


def lock(config: Config) -> int:
    """Makes the run directory ours alone: two agents on one socket would fight. Raises ConfigError, OSError."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(config.run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ConfigError(
            f"--run-dir {config.run_dir} belongs to another agent that runs; end it, or give each node its own"
        ) from None
    return fd


def raise_descriptor_limit() -> None:
    """As far as it goes, for this process and those that it starts; says so where that is less than wanted."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (DESCRIPTORS, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
        except (ValueError, OSError):
            continue
        break
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        log.warning(
            "each process of the agent may open %d descriptors (hard limit %d) and not %d, which is two for every "
            "connection: with more than about %d at once per worker, those who come wait. Set LimitNOFILE=%d in its "
            "unit, or ulimit -n before it starts, and the sysctl fs.nr_open to no less; or give it CAP_SYS_RESOURCE",
            soft,
            hard,
            DESCRIPTORS,
            soft // 2,
            DESCRIPTORS,
            extra={"fields": {"event": "descriptors", "limit": soft, "wanted": DESCRIPTORS}},
        )
