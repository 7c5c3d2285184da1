"""Revoking, and taking it back."""

import time
from typing import NamedTuple

from agent.authority import control
from agent.authority.ledger import Kind
from agent.authority.service import authority_id
from agent.cli.authority.flags import Where
from agent.cli.work.authority.opened import opened, show
from agent.flags import ConfigError
from agent.identity.spiffe import SpiffeId


class Named(NamedTuple):
    """Whom or what an operator names: one of the three."""

    spiffe_id: str | None
    agent: str | None
    serial: str | None


def revoke(where: Where, named: Named, reason: str, *, as_json: bool) -> None:
    """Revokes what is named."""
    with opened(where) as authority:
        kind, value = _checked(named, authority.trust_domain)
        new = authority.do(control.revoke, kind, value, reason, time.time())
        said = f"{kind} {value} {'is revoked' if new else 'was revoked already'}"
        show({"kind": kind, "value": value, "changed": new}, lambda: [said], as_json=as_json)


def unrevoke(where: Where, named: Named, *, as_json: bool) -> None:
    """Takes the revocation of what is named back."""
    with opened(where) as authority:
        kind, value = _checked(named, authority.trust_domain)
        was = authority.do(control.unrevoke, kind, value, time.time())
        said = f"{kind} {value} {'is revoked no more' if was else 'was not revoked'}"
        show({"kind": kind, "value": value, "changed": was}, lambda: [said], as_json=as_json)


def _checked(named: Named, trust_domain: str) -> tuple[Kind, str]:
    """What an operator names. What could hold for nobody is an error: it would be taken for done."""
    given = [
        (kind, value)
        for kind, value in ((Kind.SPIFFE_ID, named.spiffe_id), (Kind.AGENT, named.agent), (Kind.SERIAL, named.serial))
        if value is not None
    ]
    if len(given) != 1:
        raise ConfigError("say what: one of --spiffe-id, --agent NODE and --serial")
    kind, value = given[0]
    if kind is Kind.SPIFFE_ID:
        parsed = SpiffeId.parse(value)
        if parsed.trust_domain != trust_domain:
            raise ConfigError(f"{parsed} is not of this authority's trust domain {trust_domain}: revoke it at its own")
        if parsed == authority_id(trust_domain):
            raise ConfigError(
                f"{parsed} is the authority itself: revoke its certificate by --serial, or rotate the root"
            )
        return kind, str(parsed)
    if kind is Kind.SERIAL:
        try:
            return kind, f"{int(value, 16):x}"
        except ValueError:
            raise ConfigError(f"--serial {value!r} is no hexadecimal number, as `issued` prints it") from None
    SpiffeId.for_agent(trust_domain, value)
    return kind, value
