"""SVIDs and the bundle from a directory, followed live: any other issuer can put them there.

    DIR/bundle.pem                     the trust anchors
    DIR/<namespace>/<service account>/svid.pem and key.pem, or tls.crt and tls.key as cert-manager names them

Files are replaced by rename, or by Kubernetes' `..data` link; of a pair that does not fit, the other is waited for.
What lies there is tried before it is given out: an SVID that no peer would take under the bundle in force is an error,
and whoever asked keeps the one that it has. So is a bundle that is none.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from agent.identity import anchors, pem_file, x509_svid
from agent.identity.provider import ProviderError, Report, Trial, Unacceptable
from agent.identity.received import issuer_of
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.identity.x509_svid import NotAnSvid
from agent.outcome import Outcome

log = logging.getLogger("quietwire.identity")

LOOK_SECONDS = 0.5
"""How often the directory is looked at."""
QUIET_SECONDS = 25.0
PAIR_SECONDS = 1.0
"""How long the other half of a pair is waited for, where files are written one after the other."""
MAX_TRIED = 4096
"""SVIDs of which it is remembered that peers take them."""
MAX_WATCHED = 4 * MAX_TRIED
NAMES = (("svid.pem", "key.pem"), ("tls.crt", "tls.key"))
NEXT_STEPS = {
    Outcome.CERTIFICATE_EXPIRED: "does its issuer renew it, and do the clocks agree?",
    Outcome.CERTIFICATE_UNTRUSTED: "is it of the issuer whose roots are in bundle.pem?",
}
"""What to look at, by how peers would count it; for the rest, the issuer's template."""


_State = tuple[int, int, int, int] | None


class _Tried(Struct, frozen=True):
    """An SVID that peers take under these anchors."""

    svid: Svid
    anchors_pem: bytes


class FilesProvider:
    """A directory as a source of SVIDs."""

    pushes = True

    def __init__(
        self, directory: Path, trust_domain: str, trial: Trial, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._trial = trial
        self._clock = clock
        self._bundle_path = directory / "bundle.pem"
        self._states: dict[Path, _State] = {}
        """What the files were, that anything depends on: the bundle, and those of whoever was asked for."""
        self._news = True
        """Something has changed, and has not been given out."""
        self._sequence = 0
        self._anchors = b""
        """Of the bundle that was last given out."""
        self._tried: dict[SpiffeId, _Tried] = {}

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        """What lies there for a workload now, if peers would take it. Raises ProviderError."""
        workload = spiffe_id.workload
        if workload is None:
            raise ProviderError("not_a_workload", f"{spiffe_id} is no workload's")
        directory = self._directory.joinpath(*workload)
        await asyncio.to_thread(self._watch, directory)
        # Under the bundle in force, and not under one that came meanwhile: what came has everything asked for again.
        anchors_pem = self._anchors or (await asyncio.to_thread(_roots, self._bundle_path, self._clock())).pem
        return await asyncio.to_thread(self._usable, await _whole(directory, spiffe_id), directory, anchors_pem)

    def _usable(self, svid: Svid, directory: Path, anchors_pem: bytes) -> Svid:
        now = self._clock()
        if self._tried.get(svid.spiffe_id) == _Tried(svid, anchors_pem) and svid.not_before <= now < svid.not_after:
            return svid
        try:
            self._trial(svid, Bundle(self._trust_domain, anchors_pem, 0), now=now)
        except Unacceptable as problem:
            self._tried.pop(svid.spiffe_id, None)
            raise ProviderError(
                "bad_svid",
                f"no peer would take what lies in {directory} (serial {svid.serial}): {problem}; "
                f"{NEXT_STEPS.get(problem.outcome, 'see what its issuer puts into certificates')}",
            ) from None
        if len(self._tried) >= MAX_TRIED:
            self._tried.clear()  # pods come and go
        self._tried[svid.spiffe_id] = _Tried(svid, anchors_pem)
        return svid

    async def bundle(self, known: int, report: Report) -> Bundle | None:
        """The bundle once anything in the directory has changed. Raises ProviderError."""
        del report  # nobody is there to be told
        for _ in range(int(QUIET_SECONDS / LOOK_SECONDS)):
            await asyncio.to_thread(self._look)
            if self._news or known != self._sequence:
                found = await asyncio.to_thread(_roots, self._bundle_path, self._clock())
                if self._news:
                    self._news, self._sequence = False, self._sequence + 1
                self._anchors = found.pem
                return Bundle(self._trust_domain, found.pem, self._sequence, left_out=found.left_out)
            await asyncio.sleep(LOOK_SECONDS)
        return None

    def _watch(self, directory: Path) -> None:
        """Before it is read, so that no change is missed. That somebody is asked for is no change."""
        if len(self._states) > MAX_WATCHED:
            self._states.clear()  # pods come and go; whoever is still there is asked for again
        for names in NAMES:
            for name in names:
                self._states.setdefault(directory / name, _state(directory / name))

    def _look(self) -> None:
        self._states.setdefault(self._bundle_path, _state(self._bundle_path))
        for path, known in list(self._states.items()):
            found = _state(path)
            if found != known:
                self._states[path], self._news = found, True

    async def close(self) -> None:
        """Nothing is kept open."""


class _HalfWritten(ProviderError):
    """A pair that does not fit: one of both may still be written."""


async def _whole(directory: Path, spiffe_id: SpiffeId) -> Svid:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PAIR_SECONDS
    while True:
        try:
            return await asyncio.to_thread(_read, directory, spiffe_id)
        except _HalfWritten:
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(PAIR_SECONDS / 10)


def _state(path: Path) -> _State:
    """Differs once a file is another one: through links, so that Kubernetes' `..data` counts."""
    try:
        status = path.stat()
    except OSError:
        return None  # as good as not there: who reads it hears why
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _roots(path: Path, now: float) -> anchors.Sorted:
    try:
        found = anchors.sort(x509.load_pem_x509_certificates(pem_file.read(path)))
    except OSError as error:
        raise ProviderError("no_bundle", f"{path} cannot be read: {error.strerror}") from error
    except x509_svid.UNREADABLE as error:
        raise ProviderError("bad_bundle", f"{path} holds no PEM certificates: {error}") from error
    if not found.roots:
        raise ProviderError("bad_bundle", f"{path} cannot be trusted: {'; '.join(why for _, why in found.odd)}")
    if all(root.not_valid_after_utc.timestamp() <= now for root in found.roots):
        raise ProviderError("bad_bundle", f"every root in {path} has expired; put the roots there that issue now")
    return found


def _read(directory: Path, spiffe_id: SpiffeId) -> Svid:
    for chain_name, key_name in NAMES:
        if (directory / chain_name).exists():
            return _svid(directory / chain_name, directory / key_name, spiffe_id)
    raise ProviderError("no_svid", f"{directory} has neither svid.pem nor tls.crt")


def _svid(chain_path: Path, key_path: Path, spiffe_id: SpiffeId) -> Svid:
    try:
        chain, key_pem = pem_file.read(chain_path), pem_file.read(key_path)
    except FileNotFoundError as error:
        raise _HalfWritten("no_svid", f"{error.filename} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise ProviderError("no_svid", f"{error.filename} cannot be read: {error.strerror}") from error
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (UnsupportedAlgorithm, *x509_svid.UNREADABLE) as error:
        raise _HalfWritten("bad_svid", f"{chain_path} with {key_path.name} is no SVID: {error}") from error
    if key.public_key() != leaf.public_key():
        raise _HalfWritten("bad_svid", f"{key_path} is not the key of {chain_path}; is it being replaced just now?")
    try:
        found = x509_svid.leaf_id(leaf)
    except NotAnSvid as fault:
        raise ProviderError("bad_svid", f"{chain_path} is no X.509-SVID: {fault}") from fault
    if found != spiffe_id:
        raise ProviderError("bad_svid", f"{chain_path} is for {found}, not for {spiffe_id}")
    return Svid(
        spiffe_id,
        chain,
        key_pem,
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        f"{leaf.serial_number:x}",
        issuer_of(leaf),
    )
