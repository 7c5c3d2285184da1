"""Which certificates of a bundle are roots that can vouch for anybody. Pure.

One that is not is left out, and said; it spoils nothing. A leaf among the roots, say, would vouch for itself, and
OpenSSL, which is strict, refuses whatever is under a root that is no proper one. Where none remains there is no bundle.
"""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from agent.identity import x509_svid
from agent.identity.received import signed_by, weak_hash


class Sorted(Struct, frozen=True):
    """The roots, in their order, and of each certificate that is none, why not."""

    roots: tuple[x509.Certificate, ...]
    odd: tuple[tuple[x509.Certificate, str], ...]

    @property
    def pem(self) -> bytes:
        """The roots, one after the other."""
        return b"".join(root.public_bytes(serialization.Encoding.PEM) for root in self.roots)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is said of the others."""
        return tuple(f"a root is left out: {why}. Take it out of the bundle" for _, why in self.odd)


def sort(certificates: Iterable[x509.Certificate]) -> Sorted:
    """Tells the roots from what is none."""
    judged = [(certificate, problem_of(certificate)) for certificate in certificates]
    return Sorted(
        tuple(certificate for certificate, problem in judged if problem is None),
        tuple((certificate, problem) for certificate, problem in judged if problem is not None),
    )


def problem_of(certificate: x509.Certificate) -> str | None:
    """Why a certificate is no root that peers could be verified against; None where it is one."""
    try:
        x509_svid.check_signing(certificate)
        name = certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return f"{name} has no subject key identifier, which RFC 5280 demands of a CA"
    except x509_svid.UNREADABLE as error:  # NotAnSvid among them
        return str(error)
    if certificate.subject == certificate.issuer and (hashed := weak_hash(certificate)):
        return f"{name} signs itself with {hashed}, which is not verified any more: make it anew with SHA-256"
    if not signed_by(certificate, certificate):
        return f"{name} is not signed by itself: it is between a root and what it signs, and no root"
    return None
