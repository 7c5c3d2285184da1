"""An SVID for a workload that has no agent."""

import os
import time
from pathlib import Path

from agent.authority import control
from agent.authority.ledger import Book
from agent.cli.authority.flags import Where
from agent.cli.work.authority.opened import opened, show
from agent.flags import ConfigError, parse_duration
from agent.identity.spiffe import SpiffeId

MAX_MINT_SECONDS = 366 * 86400.0


def mint(where: Where, spiffe_id: str, out: Path, ttl: str, *, as_json: bool) -> None:
    """Makes one and writes it, with its key and the bundle, to files below `out`."""
    with opened(where) as authority:
        wanted = SpiffeId.parse(spiffe_id)
        if wanted.trust_domain != authority.trust_domain:
            raise ConfigError(f"{wanted} is not of this authority's trust domain {authority.trust_domain}")
        if wanted.workload is None:
            raise ConfigError(f"{wanted} is no workload's: /ns/<namespace>/sa/<service account>")
        if not authority.files and authority.do(Book.given) is not None:
            raise ConfigError("the issuer's key is in the authority's pods only: mint there, or ask its issuer")
        seconds = min(parse_duration(ttl, "--ttl"), MAX_MINT_SECONDS)
        out.mkdir(parents=True, exist_ok=True)
        made = authority.do(control.mint, authority.keys, wanted, seconds, time.time())
        for name, data, mode in (
            ("svid.pem", made.svid.chain_pem, 0o644),
            ("key.pem", made.svid.key_pem, 0o600),
            ("bundle.pem", made.bundle_pem, 0o644),
        ):
            (out / name).unlink(missing_ok=True)
            fd = os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        until = control.moment(made.svid.not_after)
        show(
            {"spiffe_id": str(wanted), "serial": made.svid.serial, "until": until, "out": str(out)},
            lambda: [f"{wanted}, serial {made.svid.serial}, until {until}: svid.pem, key.pem and bundle.pem in {out}"],
            as_json=as_json,
        )
