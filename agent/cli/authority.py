"""`quietwire authority …`: running an authority, and what an operator does to one.

All but `run` act on the state directory, whether or not the authority runs; a running one notices within a moment.
"""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from cyclopts import App, Parameter

from agent.authority import control
from agent.authority.__main__ import run as run_authority
from agent.authority.ledger import Book, Kind, Revoked
from agent.authority.pki import IssuerError
from agent.authority.rotation import RotationError
from agent.authority.run import SUBDIRECTORY, AuthorityConfig
from agent.authority.service import authority_id
from agent.authority.store import Store, StoreError
from agent.cli.agent_flags import EXIT_FAILED, EXIT_USAGE, LogFormat, LogLevel, fail, svid_seconds
from agent.cli.up import given_issuer
from agent.flags import ConfigError, HostPort, parse_duration
from agent.identity.spiffe import SpiffeId, SpiffeIdError
from agent.telemetry import logs

T = TypeVar("T")

State = Annotated[Path, Parameter(help="The state directory of `quietwire up` or `quietwire authority run`.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]

STATE = Path("/var/lib/quietwire")
MAX_MINT_SECONDS = 366 * 86400.0

app = App(
    name="authority",
    help="Run the authority that signs identities, and operate one: tokens, rotation, revocation.",
)
token = App(name="token", help="One-time join tokens for agents.")
rotate = App(name="rotate-root", help="Replace the root in stages, with no restart and no failed connection.")
app.command(token)
app.command(rotate)


@contextmanager
def _opened(state: Path) -> Iterator[tuple[Book, Store]]:
    """The ledger and the store of an authority; every fault is said, and ends."""
    store = Store(state / SUBDIRECTORY)
    if not store.exists:
        fail(
            f"{store.directory} holds no authority: start one once (quietwire up, or quietwire authority run), or name "
            f"its --state",
            EXIT_USAGE,
        )
    try:
        book = Book(store.ledger)
    except (sqlite3.Error, OSError) as error:
        fail(f"{store.ledger} cannot be opened: {error}; are you root?", EXIT_FAILED)
    try:
        yield book, store
    except (StoreError, IssuerError, RotationError, Revoked, SpiffeIdError, ConfigError) as error:
        fail(str(error), EXIT_FAILED)
    except (sqlite3.Error, OSError) as error:
        fail(f"{state}: {error}", EXIT_FAILED)
    finally:
        book.close()


def _show(value: Any, lines: Callable[[], list[str]], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines()))


@app.command
def run(
    *,
    state: State = STATE,
    manifests: Path = Path("/etc/quietwire/manifests"),
    trust_domain: str = "cluster.local",
    listen: str = "0.0.0.0:8443",
    svid_ttl: str = "24h",
    issuer_cert: Path | None = None,
    issuer_key: Path | None = None,
    roots: Path | None = None,
    log_format: LogFormat = "json",
    log_level: LogLevel = "info",
) -> None:
    """Run an authority in the foreground.

    Its first start creates a root and an issuer, unless an issuer is given. SIGTERM ends it.

    Example: quietwire authority run --trust-domain cluster.local --listen 192.0.2.10:8443

    Parameters
    ----------
    manifests
        Directory of the manifests that say which service accounts have pods on which node, followed live.
    trust_domain
        The SPIFFE trust domain of the mesh.
    listen
        HOST:PORT of the HTTPS API.
    svid_ttl
        Lifetime of workloads' SVIDs, 10s at least; agents' own live a day at least.
    issuer_cert
        An issuer's certificate, with what is between it and the root, instead of a root of our own: tls.crt.
    issuer_key
        Its key: tls.key.
    roots
        The roots that it chains to: ca.crt. All three are read again when they change.
    log_format
        JSON lines, or text for people.
    log_level
        The least severe level that is logged.
    """
    try:
        if not manifests.is_dir():
            raise ConfigError(f"--manifests {manifests} is no directory; make it, and put the pods' manifests into it")
        config = AuthorityConfig(
            state=state.absolute(),
            trust_domain=trust_domain,
            listen=HostPort.parse(listen, "--listen"),
            manifests=manifests.absolute(),
            svid_seconds=svid_seconds(svid_ttl),
            given=given_issuer(issuer_cert, issuer_key, roots),
        )
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    logs.configure(log_format, log_level, process="authority")
    sys.exit(run_authority(config))


@token.command(name="create")
def token_create(*, node: str, ttl: str = "10m", state: State = STATE, as_json: AsJson = False) -> None:
    """Print a one-time join token for the agent of one node.

    Example: quietwire authority token create --node node-b > token

    Parameters
    ----------
    node
        The node's name, as in the pods' spec.nodeName.
    ttl
        How long it may be used.
    """
    with _opened(state) as (book, store):
        SpiffeId.for_agent(store.trust_domain(), node)
        expires = time.time() + parse_duration(ttl, "--ttl")
        made = book.create_token(node, expires)
        _show({"token": made, "node": node, "expires": control.moment(expires)}, lambda: [made], as_json=as_json)


@app.command
def status(*, state: State = STATE, as_json: AsJson = False) -> None:
    """Show the roots, the issuer, when they end, and where a rotation stands.

    Example: quietwire authority status
    """
    with _opened(state) as (book, store):
        found = control.status(book, store, time.time())
        _show(found, partial(_status_lines, found), as_json=as_json)


def _status_lines(found: control.Status) -> list[str]:
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


@app.command
def issued(
    *, live: Annotated[bool, Parameter(negative="")] = False, state: State = STATE, as_json: AsJson = False
) -> None:
    """List every certificate that was issued.

    Example: quietwire authority issued --live

    Parameters
    ----------
    live
        Only those that have not expired.
    """
    with _opened(state) as (book, _):
        found = book.issued(live_at=time.time() if live else None)
        _show(
            found,
            lambda: [
                f"{control.moment(each.issued)}  until {control.moment(each.expires)}  {each.serial}  "
                f"{each.node}  {each.spiffe_id}"
                for each in found
            ],
            as_json=as_json,
        )


@app.command
def agents(*, state: State = STATE, as_json: AsJson = False) -> None:
    """List the agents that have joined, and what they trust.

    Example: quietwire authority agents
    """
    with _opened(state) as (book, _):
        found = book.agents()
        now = time.time()
        _show(
            found,
            lambda: [
                f"{each.node}  joined {control.moment(each.joined)}  seen {max(now - each.seen, 0):.0f} s ago  "
                f"trusts bundle {each.trusts}  certificate until {control.moment(each.expires)}"
                for each in found
            ],
            as_json=as_json,
        )


# -- rotation --


def _rotated(verb: str, state: Path, work: Callable[[Book, Store, float], None], *, as_json: bool) -> None:
    with _opened(state) as (book, store):
        work(book, store, time.time())
        found = control.status(book, store, time.time())
        _show(found, lambda: [f"{verb}: now in stage {found.stage}", *_status_lines(found)], as_json=as_json)


@rotate.command(name="start")
def rotate_start(
    *, auto: Annotated[bool, Parameter(negative="")] = False, state: State = STATE, as_json: AsJson = False
) -> None:
    """Make a new root, and have every agent trust it beside the old one.

    Example: quietwire authority rotate-root start --auto

    Parameters
    ----------
    auto
        Walk through all stages by itself.
    """
    _rotated("started", state, partial(control.start, auto=auto), as_json=as_json)


@rotate.command(name="status")
def rotate_status(*, state: State = STATE, as_json: AsJson = False) -> None:
    """Show the stage, and whom it waits for.

    Example: quietwire authority rotate-root status
    """
    status(state=state, as_json=as_json)


@rotate.command(name="advance")
def rotate_advance(
    *, force: Annotated[bool, Parameter(negative="")] = False, state: State = STATE, as_json: AsJson = False
) -> None:
    """Go to the next stage.

    Example: quietwire authority rotate-root advance

    Parameters
    ----------
    force
        Past agents that have not confirmed: their connections fail until they have.
    """
    _rotated("advanced", state, partial(control.advance, force=force), as_json=as_json)


@rotate.command(name="abort")
def rotate_abort(*, state: State = STATE, as_json: AsJson = False) -> None:
    """Go back to the root from before.

    Example: quietwire authority rotate-root abort
    """
    _rotated("aborted", state, control.abort, as_json=as_json)


# -- revocation --

Named = Literal["spiffe-id", "agent", "serial"]


def _named(trust_domain: str, spiffe_id: str | None, node: str | None, serial: str | None) -> tuple[Kind, str]:
    """What an operator names. What could hold for nobody is an error: it would be taken for done."""
    given = [
        (kind, value)
        for kind, value in ((Kind.SPIFFE_ID, spiffe_id), (Kind.AGENT, node), (Kind.SERIAL, serial))
        if value is not None
    ]
    if len(given) != 1:
        raise ConfigError("say what: one of --spiffe-id, --agent NODE and --serial")
    kind, value = given[0]
    if kind is Kind.SPIFFE_ID:
        named = SpiffeId.parse(value)
        if named.trust_domain != trust_domain:
            raise ConfigError(f"{named} is not of this authority's trust domain {trust_domain}: revoke it at its own")
        if named == authority_id(trust_domain):
            raise ConfigError(
                f"{named} is the authority itself: revoke its certificate by --serial, or rotate the root"
            )
        return kind, str(named)
    if kind is Kind.SERIAL:
        try:
            return kind, f"{int(value, 16):x}"
        except ValueError:
            raise ConfigError(f"--serial {value!r} is no hexadecimal number, as `issued` prints it") from None
    SpiffeId.for_agent(trust_domain, value)
    return kind, value


@app.command
def revoke(
    *,
    spiffe_id: str | None = None,
    agent: str | None = None,
    serial: str | None = None,
    reason: str = "revoked by an operator",
    state: State = STATE,
    as_json: AsJson = False,
) -> None:
    """Revoke an identity, an agent with all that it was given, or one certificate. Agents know within two seconds.

    Live connections that used it are closed, and it is never issued again until `unrevoke`.

    Example: quietwire authority revoke --spiffe-id spiffe://cluster.local/ns/shop/sa/cart --reason "key leaked"

    Parameters
    ----------
    spiffe_id
        An identity. An agent's, spiffe://<trust domain>/agent/<node>, is the same as --agent.
    agent
        The node of an agent: it may ask for nothing, and all that it was given is revoked with it.
    serial
        One certificate's serial, as `issued` prints it. Its identity may get another one.
    reason
        Said to whoever is refused.
    """
    with _opened(state) as (book, store):
        kind, value = _named(store.trust_domain(), spiffe_id, agent, serial)
        new = control.revoke(book, kind, value, reason, time.time())
        said = f"{kind} {value} {'is revoked' if new else 'was revoked already'}"
        _show({"kind": kind, "value": value, "changed": new}, lambda: [said], as_json=as_json)


@app.command
def unrevoke(
    *,
    spiffe_id: str | None = None,
    agent: str | None = None,
    serial: str | None = None,
    state: State = STATE,
    as_json: AsJson = False,
) -> None:
    """Take a revocation back.

    What it alone kept out is let in again: certificates that have not expired are good again, with the keys that they
    had, so take nothing back whose key leaked; and the identity, or the agent, may get new ones. What was also revoked
    by another name stays revoked until that is taken back too.

    Example: quietwire authority unrevoke --spiffe-id spiffe://cluster.local/ns/shop/sa/cart

    Parameters
    ----------
    spiffe_id
        An identity.
    agent
        The node of an agent.
    serial
        One certificate's serial.
    """
    with _opened(state) as (book, store):
        kind, value = _named(store.trust_domain(), spiffe_id, agent, serial)
        was = control.unrevoke(book, kind, value, time.time())
        said = f"{kind} {value} {'is revoked no more' if was else 'was not revoked'}"
        _show({"kind": kind, "value": value, "changed": was}, lambda: [said], as_json=as_json)


# -- by hand --


@app.command
def mint(*, spiffe_id: str, out: Path, ttl: str = "1h", state: State = STATE, as_json: AsJson = False) -> None:
    """Write an SVID for a workload that has no agent: svid.pem, key.pem (0600) and bundle.pem.

    Example: quietwire authority mint --spiffe-id spiffe://cluster.local/ns/ops/sa/debug --ttl 1h --out debug

    Parameters
    ----------
    spiffe_id
        Whose.
    out
        The directory to write to; made if it is not there.
    ttl
        Its lifetime, never beyond the issuer's.
    """
    with _opened(state) as (book, store):
        wanted = SpiffeId.parse(spiffe_id)
        if wanted.trust_domain != store.trust_domain():
            raise ConfigError(f"{wanted} is not of this authority's trust domain {store.trust_domain()}")
        if wanted.workload is None:
            raise ConfigError(f"{wanted} is no workload's: /ns/<namespace>/sa/<service account>")
        seconds = min(parse_duration(ttl, "--ttl"), MAX_MINT_SECONDS)
        out.mkdir(parents=True, exist_ok=True)
        made = control.mint(book, store, wanted, seconds, time.time())
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
        _show(
            {"spiffe_id": str(wanted), "serial": made.svid.serial, "until": until, "out": str(out)},
            lambda: [f"{wanted}, serial {made.svid.serial}, until {until}: svid.pem, key.pem and bundle.pem in {out}"],
            as_json=as_json,
        )


@app.command
def bundle(*, pem: Annotated[bool, Parameter(negative="")] = False, state: State = STATE) -> None:
    """Print the trust bundle, as a SPIFFE bundle document or as PEM.

    Example: quietwire authority bundle --pem > bundle.pem

    Parameters
    ----------
    pem
        The certificates alone.
    """
    from agent.authority.api import as_bundle  # noqa: PLC0415 - starlette is loaded for this one only
    from agent.identity import bundle_document  # noqa: PLC0415 - with it

    with _opened(state) as (book, store):
        published = book.publication()
        if published is None:
            raise StoreError("nothing has been published yet: start the authority once")
        if pem:
            sys.stdout.write(published.anchors.anchors_pem.decode())
        else:
            document = json.loads(bundle_document.encode(as_bundle(published, store.trust_domain())))
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
