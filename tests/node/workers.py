"""Workers that are told nothing and whom nobody counts, unless a test says otherwise."""

from typing import Any

from agent.node.workers import Workers


def quiet_workers(count: int, **more: Any) -> Workers:
    """So many places, filled by nobody yet; `more` is as for Workers."""
    given = {"greet": lambda _: (), "changed": lambda: None, "counted": lambda *_: None} | more
    return Workers(count, node="node-a", log_format="text", log_level="error", **given)
