"""Join tokens."""

import time

from agent.authority import control
from agent.authority.ledger import Book
from agent.cli.authority.flags import Where
from agent.cli.work.authority.opened import opened, show
from agent.flags import parse_duration
from agent.identity.spiffe import SpiffeId


def create(where: Where, node: str, ttl: str, *, as_json: bool) -> None:
    """Makes one for a node's agent."""
    with opened(where) as authority:
        SpiffeId.for_agent(authority.trust_domain, node)
        expires = time.time() + parse_duration(ttl, "--ttl")
        made = authority.do(Book.create_token, node, expires)
        show({"token": made, "node": node, "expires": control.moment(expires)}, lambda: [made], as_json=as_json)
