"""What an authority has issued, to whom, and where it stands."""

import time
from functools import partial

from agent.authority import control
from agent.authority.ledger import Book
from agent.cli.authority.flags import Where
from agent.cli.work.authority.opened import opened, show


def status(where: Where, *, as_json: bool) -> None:
    """Shows roots, issuer, their ends and the rotation's stage."""
    with opened(where) as authority:
        found = authority.do(control.status, authority.keys, time.time(), files=authority.files)
        show(found, partial(status_lines, found), as_json=as_json)


def status_lines(found: control.Status) -> list[str]:
    """A status in words."""
    given = ", issuer given by files" if found.given else ""
    counts = f"bundle {found.sequence}, agents {found.agents}, revocations {found.revocations}{given}"
    lines = [f"trust domain {found.trust_domain}, {counts}"]
    if found.refused is not None:
        lines.append(f"WARNING: the issuer that is given is refused, and the former stays in force: {found.refused}")
    lines += [f"{expiry.what}: until {control.moment(expiry.not_after)}" for expiry in found.expiries]
    lines += [f"WARNING: {warning}" for warning in found.warnings]
    if found.stage == "none":
        lines.append("no rotation is under way")
    else:
        how = " by itself" if found.auto else ""
        lines.append(
            f"rotation in stage {found.stage} since {control.moment(found.since)}, advances{how} when nothing holds it"
        )
        lines += [f"held by: {blocker}" for blocker in found.blockers] or ["nothing holds it: advance"]
    return lines


def issued(where: Where, *, unexpired: bool, as_json: bool) -> None:
    """Lists certificates; with `unexpired`, those that have not expired."""
    with opened(where) as authority:
        found = authority.do(Book.issued, unexpired_at=time.time() if unexpired else None)
        show(
            found,
            lambda: [
                f"{control.moment(each.issued)}  until {control.moment(each.expires)}  {each.serial}  "
                f"{each.node}  {each.spiffe_id}"
                for each in found
            ],
            as_json=as_json,
        )


def agents(where: Where, *, as_json: bool) -> None:
    """Lists the agents that have joined."""
    with opened(where) as authority:
        found = authority.do(Book.agents)
        now = time.time()
        show(
            found,
            lambda: [
                f"{each.node}  joined {control.moment(each.joined)}  seen {max(now - each.seen, 0):.0f} s ago  "
                f"trusts bundle {each.trusts}  certificate until {control.moment(each.expires)}"
                for each in found
            ],
            as_json=as_json,
        )
