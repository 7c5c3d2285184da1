"""The agent's own SVID on disk, for an agent that joins an authority elsewhere.

Its token is used up, so a restart without this would need an operator. The bundle lies beside it: a root may have
rotated since the one that was given at first. Workloads' keys are never written.
"""

import logging
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from agent import disk
from agent.identity import pem_file, x509_svid
from agent.identity.received import issuer_of
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from init import on_disk

log = logging.getLogger("quietwire.identity")

_WITHOUT = {
    "svid.pem": "a restart of this agent needs a new join token where no valid certificate is there",
    "bundle.pem": "a restart of this agent begins with the bundle that is there, or was given at first",
}
"""What a file that cannot be written means."""


class FileCredential:
    """`svid.pem` (chain and key) and `bundle.pem` in a directory of mode 0700."""

    def __init__(self, directory: Path, trust_domain: str, node: str) -> None:
        self._directory = directory
        self._id = SpiffeId.for_agent(trust_domain, node)
        self._unwritten: dict[str, tuple[bytes, str]] = {}
        """By the files that could not be written: what is to be in them, and why it is not."""

    def load(self) -> Svid | None:
        """The SVID that was kept; None where there is none, or it is no longer this agent's."""
        try:
            pem = pem_file.read(self._directory / "svid.pem")
            leaf = x509.load_pem_x509_certificate(pem)
            kept = x509_svid.leaf_id(leaf)
            key = serialization.load_pem_private_key(pem, password=None)
            chain, marker, rest = pem.partition(b"-----BEGIN PRIVATE KEY-----")
        except FileNotFoundError:
            return None
        except (OSError, UnsupportedAlgorithm, *x509_svid.UNREADABLE) as error:
            log.warning("%s cannot be used, joining anew: %s", self._directory / "svid.pem", error)
            return None
        if kept != self._id:
            log.warning("%s is not of %s, joining anew", self._directory / "svid.pem", self._id)
            return None
        if key.public_key() != leaf.public_key():
            log.warning("%s holds another key than its certificate's, joining anew", self._directory / "svid.pem")
            return None
        return Svid(
            self._id,
            chain,
            marker + rest,
            leaf.not_valid_before_utc.timestamp(),
            leaf.not_valid_after_utc.timestamp(),
            f"{leaf.serial_number:x}",
            issuer_of(leaf),
        )

    def save(self, svid: Svid) -> None:
        """Keeps the SVID. A disk that cannot be written is said, and is no reason to stop."""
        self._write("svid.pem", svid.chain_pem + svid.key_pem)

    def bundle_pem(self) -> bytes | None:
        """The bundle that was kept; None where it cannot be used: the one that was given at first counts then."""
        path = self._directory / "bundle.pem"
        try:
            return pem_file.certificates(pem_file.read(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be used, the bundle that was given at first counts: %s", path, error)
            return None

    def save_anchors(self, anchors_pem: bytes) -> None:
        """Keeps the bundle."""
        if self.bundle_pem() != anchors_pem:
            self._write("bundle.pem", anchors_pem)

    def retry(self) -> None:
        """Writes what could not be written, if it can be now."""
        for name, (data, _) in list(self._unwritten.items()):
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            on_disk.replace(self._directory / name, data, durable=True)
        except OSError as error:
            reason = disk.reason(error)
            _, said = self._unwritten.get(name, (b"", ""))
            if reason != said:
                log.error(
                    "%s cannot be written (%s). It is tried again and again; until then %s",
                    self._directory / name,
                    reason,
                    _WITHOUT[name],
                )
            self._unwritten[name] = (data, reason)
        else:
            if self._unwritten.pop(name, None) is not None:
                log.info("%s is written now", self._directory / name)
