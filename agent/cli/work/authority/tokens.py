"""Join tokens."""

import time
from pathlib import Path

from agent.authority import control
from agent.cli.work.authority.opened import opened, show
from agent.flags import parse_duration
from agent.identity.spiffe import SpiffeId


def create(state: Path, node: str, ttl: str, *, as_json: bool) -> None:
    """Makes one for a node's agent."""
    with opened(state) as (book, store):
        SpiffeId.for_agent(store.trust_domain(), node)
        expires = time.time() + parse_duration(ttl, "--ttl")
        made = book.create_token(node, expires)
        show({"token": made, "node": node, "expires": control.moment(expires)}, lambda: [made], as_json=as_json)
