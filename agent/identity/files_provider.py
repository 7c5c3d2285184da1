"""SVIDs and the bundle from a directory, followed live: any other issuer can put them there.

    DIR/bundle.pem                     the trust anchors
    DIR/<namespace>/<service account>/svid.pem and key.pem, or tls.crt and tls.key as cert-manager names them

Files are replaced by rename, or by Kubernetes' `..data` link; a pair that does not fit is read again.
"""

import asyncio
import hashlib
import logging
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.identity.provider import ProviderError, Report
from agent.identity.received import issuer_of
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid

log = logging.getLogger("quietwire.identity")

LOOK_SECONDS = 0.5
"""How often the directory is looked at."""
QUIET_SECONDS = 25.0
NAMES = (("svid.pem", "key.pem"), ("tls.crt", "tls.key"))


class FilesProvider:
    """A directory as a source of SVIDs."""

    pushes = True

    def __init__(self, directory: Path, trust_domain: str) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._seen = ""
        self._sequence = 0

    async def issue(self, spiffe_id: SpiffeId) -> Svid:
        """What lies there for a workload now. Raises ProviderError."""
        workload = spiffe_id.workload
        if workload is None:
            raise ProviderError("not_a_workload", f"{spiffe_id} is no workload's")
        return await asyncio.to_thread(_read, self._directory.joinpath(*workload), spiffe_id)

    async def bundle(self, known: int, report: Report) -> Bundle | None:
        """The bundle once anything in the directory has changed. Raises ProviderError."""
        del report  # nobody is there to be told
        for _ in range(int(QUIET_SECONDS / LOOK_SECONDS)):
            state = await asyncio.to_thread(_state, self._directory)
            if state != self._seen or known != self._sequence:
                anchors = await asyncio.to_thread(_anchors, self._directory / "bundle.pem")
                if state != self._seen:
                    self._seen, self._sequence = state, self._sequence + 1
                return Bundle(self._trust_domain, anchors, self._sequence)
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def close(self) -> None:
        """Nothing is kept open."""


def _state(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        try:
            status = path.stat()
        except OSError:
            continue
        digest.update(f"{path}\0{status.st_dev}\0{status.st_ino}\0{status.st_mtime_ns}\0{status.st_size}\n".encode())
    return digest.hexdigest()


def _anchors(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        certificates = x509.load_pem_x509_certificates(data)
    except OSError as error:
        raise ProviderError("no_bundle", f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ProviderError("bad_bundle", f"{path} holds no PEM certificates: {error}") from error
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _read(directory: Path, spiffe_id: SpiffeId) -> Svid:
    for chain_name, key_name in NAMES:
        if (directory / chain_name).exists():
            return _svid(directory / chain_name, directory / key_name, spiffe_id)
    raise ProviderError("no_svid", f"{directory} has neither svid.pem nor tls.crt")


def _svid(chain_path: Path, key_path: Path, spiffe_id: SpiffeId) -> Svid:
    try:
        chain, key_pem = chain_path.read_bytes(), key_path.read_bytes()
        leaf = x509.load_pem_x509_certificate(chain)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = serialization.load_pem_private_key(key_pem, password=None)
    except OSError as error:
        raise ProviderError("no_svid", f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise ProviderError("bad_svid", f"{chain_path} with {key_path.name} is no SVID: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [str(spiffe_id)]:
        raise ProviderError("bad_svid", f"{chain_path} is for {', '.join(uris) or 'nobody'}, not for {spiffe_id}")
    if key.public_key() != leaf.public_key():
        raise ProviderError("bad_svid", f"{key_path} is not the key of {chain_path}; is it being replaced just now?")
    return Svid(
        spiffe_id,
        chain,
        key_pem,
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        f"{leaf.serial_number:x}",
        issuer_of(leaf),
    )
