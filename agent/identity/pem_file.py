"""Files that somebody else puts there, read whole and never waited for; and certificates, if that is what they hold."""

import errno
import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.identity.x509_svid import UNREADABLE

MAX_BYTES = 1024 * 1024
"""Of one file: hundreds of certificates."""


def read(path: Path) -> bytes:
    """What a regular file holds. Raises OSError, also where it is none (a FIFO would be waited for) or is too large."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # of a directory no file object can be made, which would close it
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES} bytes", str(path))
    return data


def certificates(pem: bytes) -> bytes:
    """The certificates of a PEM text, without comments and whatever else is there. Raises ValueError: there is none."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise ValueError(f"it holds no PEM certificates: {error}") from error
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in found)
