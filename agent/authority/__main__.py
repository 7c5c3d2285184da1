"""The authority's process as a child of `quietwire up`; by itself it is `quietwire authority run`.

python -m agent.authority --config JSON --parent PID [--log-format FORMAT] [--log-level LEVEL]
"""

import argparse
import logging
import os
import resource
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from setproctitle import setproctitle

from agent import disk
from agent.authority.pki import IssuerError
from agent.authority.places import MAX_AGENTS, MAX_STRANGERS
from agent.authority.refusal import Refusal
from agent.authority.run import SUBDIRECTORY, AuthorityConfig, serve
from agent.authority.store import StoreError, StoreUnavailableError
from agent.kubernetes.access import AccessError
from agent.process import die_with_parent
from agent.telemetry import logs

log = logging.getLogger("quietwire.authority")


DESCRIPTORS = MAX_STRANGERS + MAX_AGENTS + 256
"""What the process may open: every place that may be taken, the ledger, and what it was started with."""


def run(config: AuthorityConfig) -> int:
    """Serves in the foreground; the exit status. Says why it cannot start."""
    setproctitle("quietwire authority")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    if hard < DESCRIPTORS:
        log.warning(
            "the authority may open %d descriptors and not %d: agents beyond that wait. Set LimitNOFILE=%d in its unit",
            hard,
            DESCRIPTORS,
            DESCRIPTORS,
        )
    try:
        uvloop.run(serve(config))
    except StoreUnavailableError as error:
        cause = error.__cause__
        if isinstance(cause, sqlite3.Error):
            return _no_ledger(config, cause)
        log.critical("the authority cannot start: its state cannot be read or written: %s", error)
        return 1
    except (StoreError, IssuerError, AccessError, Refusal) as error:
        log.critical("the authority cannot start: %s", error)
        return 1
    except sqlite3.Error as error:
        return _no_ledger(config, error)
    except OSError as error:
        place = f" ({config.listen})" if error.filename is None else ""
        log.critical("the authority cannot start: %s%s", disk.reason(error), place)
        return 1
    return 0


def _no_ledger(config: AuthorityConfig, error: sqlite3.Error) -> int:
    where = config.state / SUBDIRECTORY
    log.critical("the authority cannot start: its ledger in %s: %s", where, disk.reason_of_ledger(error))
    return 1


def main() -> int:
    """Runs the authority as a child."""
    parser = argparse.ArgumentParser(description="quietwire's authority; started by quietwire up.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--log-format", choices=("json", "text"), default="json")
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args()
    die_with_parent(given.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is the supervisor's to act on
    logs.configure(given.log_format, given.log_level, process="authority")
    config = msgspec.json.decode(given.config, type=AuthorityConfig, dec_hook=_path)
    status = run(config)
    logging.shutdown()
    os._exit(status)


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


def encode(config: AuthorityConfig) -> str:
    """A configuration for the command line of a child."""
    return msgspec.json.encode(config, enc_hook=str).decode()


if __name__ == "__main__":
    sys.exit(main())
