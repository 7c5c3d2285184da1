"""The SPIFFE bundle document: a JWK Set (RFC 7517) of X.509 anchors. SPIFFE Trust Domain and Bundle, section 4."""

import base64
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.svid import Bundle

_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48)}


class BundleError(ValueError):
    """A document that is no SPIFFE bundle; `str` says why."""


def encode(bundle: Bundle) -> bytes:
    """The document of a bundle; anchors must be ECDSA P-256 or P-384."""
    keys = []
    for certificate in x509.load_pem_x509_certificates(bundle.anchors_pem):
        public = certificate.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _CURVES:
            raise BundleError("an anchor's key is neither P-256 nor P-384")
        name, size = _CURVES[public.curve.name]
        point = public.public_numbers()
        keys.append(
            {
                "kty": "EC",
                "use": "x509-svid",
                "crv": name,
                "x": _base64url(point.x.to_bytes(size, "big")),
                "y": _base64url(point.y.to_bytes(size, "big")),
                "x5c": [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()],
            }
        )
    return json.dumps(
        {"keys": keys, "spiffe_sequence": bundle.sequence, "spiffe_refresh_hint": bundle.refresh_hint}
    ).encode()


def decode(data: bytes, trust_domain: str) -> Bundle:
    """The bundle of a document. Keys of other uses are ignored, as the standard says. Raises BundleError."""
    try:
        document: Any = json.loads(data)
        entries = document["keys"]
        sequence, hint = int(document.get("spiffe_sequence", 0)), int(document.get("spiffe_refresh_hint", 300))
        anchors = []
        for entry in entries:
            if entry.get("use") != "x509-svid":
                continue
            (encoded,) = entry["x5c"]
            certificate = x509.load_der_x509_certificate(base64.b64decode(encoded, validate=True))
            anchors.append(certificate.public_bytes(serialization.Encoding.PEM))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the answer is no SPIFFE bundle: {error}") from error
    if not anchors:
        raise BundleError("the bundle has no anchor with use x509-svid")
    return Bundle(trust_domain, b"".join(anchors), sequence, hint)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
