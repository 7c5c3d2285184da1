"""Files that somebody else puts there, read whole and never waited for; and certificates, if that is what they hold."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.identity.x509_svid import UNREADABLE
from init import on_disk

MAX_BYTES = 1024 * 1024
"""Of one file: hundreds of certificates."""


def read(path: Path) -> bytes:
    """What a regular file holds. Raises OSError, also where it is none (a FIFO would be waited for) or is too large."""
    return on_disk.read(path, MAX_BYTES)


def certificates(pem: bytes) -> bytes:
    """The certificates of a PEM text, without comments and whatever else is there. Raises ValueError: there is none."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise ValueError(f"it holds no PEM certificates: {error}") from error
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in found)
