"""The SPIFFE bundle document: a JWK Set (RFC 7517) of X.509 anchors. SPIFFE Trust Domain and Bundle, section 4.

Members of our own stand beside the standard's, which other parsers ignore (RFC 7517, section 5):
`quietwire_issuer`, whom new SVIDs are signed by; `quietwire_revoked`, what nobody may accept; `quietwire_retired`,
anchors that left in order.
"""

import base64
import json
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.identity import anchors
from agent.identity.svid import Bundle
from agent.identity.x509_svid import UNREADABLE

_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}


class BundleError(ValueError):
    """A document that is no SPIFFE bundle; `str` says why."""


def encode(bundle: Bundle) -> bytes:
    """The document of a bundle; anchors must be ECDSA (P-256, P-384, P-521) or RSA. Raises BundleError."""
    keys = [
        _key(certificate.public_key())
        | {
            "use": "x509-svid",
            "x5c": [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()],
        }
        for certificate in x509.load_pem_x509_certificates(bundle.anchors_pem)
    ]
    return json.dumps(
        {
            "keys": keys,
            "spiffe_sequence": bundle.sequence,
            "spiffe_refresh_hint": bundle.refresh_hint,
            "quietwire_issuer": {"key_id": bundle.issuer_key_id, "not_after": bundle.issuer_expires},
            "quietwire_retired": sorted(bundle.retired),
            "quietwire_revoked": {
                "spiffe_ids": sorted(bundle.revoked_ids),
                "serials": sorted(bundle.revoked_serials),
            },
        }
    ).encode()


def _key(public: object) -> dict[str, object]:
    """The public key of an anchor as a JWK: RFC 7518, sections 6.2 and 6.3."""
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": _base64url_number(numbers.n), "e": _base64url_number(numbers.e)}
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _CURVES:
        raise BundleError("an anchor's key is neither ECDSA on P-256, P-384 or P-521, nor RSA")
    name, size = _CURVES[public.curve.name]
    point = public.public_numbers()
    return {
        "kty": "EC",
        "crv": name,
        "x": _base64url(point.x.to_bytes(size, "big")),
        "y": _base64url(point.y.to_bytes(size, "big")),
    }


def key_problem(certificate: x509.Certificate) -> str | None:
    """Why a document cannot have this certificate as an anchor; None where it can."""
    try:
        _key(certificate.public_key())
    except (BundleError, UnsupportedAlgorithm, *UNREADABLE) as error:
        return str(error)
    return None


def decode(data: bytes, trust_domain: str) -> Bundle:
    """The bundle of a document. Keys of other uses are ignored, as the standard says, and what is no root is left out.

    Raises BundleError, also where no root remains.
    """
    try:
        document: Any = json.loads(data)
        entries = document["keys"]
        sequence, hint = int(document.get("spiffe_sequence", 0)), int(document.get("spiffe_refresh_hint", 300))
        found = []
        for entry in entries:
            if entry.get("use") != "x509-svid":
                continue
            (encoded,) = entry["x5c"]
            found.append(x509.load_der_x509_certificate(base64.b64decode(encoded, validate=True)))
        sorted_ = anchors.sort(found)
        issuer, revoked = document.get("quietwire_issuer", {}), document.get("quietwire_revoked", {})
        bundle = Bundle(
            trust_domain,
            sorted_.pem,
            sequence,
            hint,
            str(issuer.get("key_id", "")),
            float(issuer.get("not_after", 0.0)),
            frozenset(str(each) for each in revoked.get("spiffe_ids", ())),
            frozenset(str(each) for each in revoked.get("serials", ())),
            frozenset(bytes.fromhex(each).hex() for each in document.get("quietwire_retired", ())),
            sorted_.left_out,
        )
    except (KeyError, AttributeError, OverflowError, *UNREADABLE) as error:
        raise BundleError(f"the answer is no SPIFFE bundle: {error}") from error
    if not sorted_.roots:
        why = "".join(f"; {why}" for _, why in sorted_.odd)
        raise BundleError(f"the bundle has no anchor with use x509-svid that could vouch for anybody{why}")
    return bundle


def _base64url_number(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
