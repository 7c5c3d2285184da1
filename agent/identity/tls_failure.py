"""Why TLS with the authority failed, in words for who has to mend it: OpenSSL's reason, the dates, the clocks.

When a certificate does not verify, Python's `ssl` shows nothing of it. So it is looked at once more, by a connection on
which nothing is believed and nothing of ours is said: what is found there goes into a message, and nowhere else.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence

import h11
from cryptography import x509
from msgspec import Struct

from agent.identity import http, x509_svid
from agent.identity.svid import Svid

LOOK_SECONDS = 3.0
"""How long the second look may take."""
AGREES_SECONDS = 2.0
"""Clocks that differ by less are the same: an answer says its time in whole seconds."""

NOT_YET_VALID, EXPIRED = 9, 10
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h), as are the numbers below."""
_UNKNOWN_ISSUER = (
    "no root of the bundle that this agent holds has signed it: is the address another authority's, is --bundle of "
    "another one, or was a new root made while this agent was away? `quietwire authority bundle --pem` prints the one "
    "in force"
)
_ADVICE = {
    18: _UNKNOWN_ISSUER,
    19: _UNKNOWN_ISSUER,
    20: _UNKNOWN_ISSUER,
    21: _UNKNOWN_ISSUER,
    24: "what signed it may sign nothing: look at the issuer that the authority was given",
    25: "an issuer or root above it allows fewer certificates under itself (basicConstraints, pathlen): take another",
    26: "its extended key usage, or that of the issuer above it, does not allow serverAuth",
    47: "the name constraints of an issuer above it exclude it: they must permit the trust domain",
    48: "the name constraints of an issuer above it exclude it: they must permit the trust domain",
    66: "its key is too weak: give the authority an issuer with a stronger one",
    67: "a CA above it has too weak a key: give the authority an issuer with a stronger one",
    68: "it, or a CA above it, is signed with a digest that nobody trusts any more",
}
_NOT_TAKEN = {
    "UNKNOWN_CA": "it does not know the root that this agent's certificate is under",
    "CERTIFICATE_EXPIRED": "this agent's certificate has expired by its clock, or is not valid yet",
    "BAD_CERTIFICATE": "it does not accept this agent's certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept this agent's certificate",
    "CERTIFICATE_REVOKED": "this agent's certificate is revoked",
    "UNSUPPORTED_CERTIFICATE": "it does not accept this agent's kind of certificate",
    "CERTIFICATE_REQUIRED": "it wants a certificate, and this agent showed none",
}


class Seen(Struct, frozen=True):
    """What a server showed that is not believed: its certificate, and its clock, POSIX seconds."""

    leaf: bytes | None = None
    date: float | None = None


def refused_by_authority(error: ssl.SSLError) -> str:
    """What an alert of the authority's means, or another failure of TLS, in words."""
    reason = error.reason or str(error)
    alert = reason.rpartition("ALERT_")[2]
    words = _NOT_TAKEN.get(alert)
    return reason if words is None else f"the authority refuses it with the alert {alert.lower()}: {words}"


def without_an_answer(shown: Svid | None, now: float) -> str:
    """What it means that the authority ends a connection without a word; `shown` is what the agent showed of itself.

    Python's and uvloop's TLS send no alert where a handshake fails for the certificate that a client showed.
    """
    if shown is None:
        return "is it overloaded, or does something else listen there?"
    words = (
        "it does so where it does not take the certificate that it is shown, and its log says why. This agent's, "
        f"serial {shown.serial}, "
    )
    if now < shown.not_before:
        return f"{words}is valid only from {_moment(shown.not_before)} on, by this clock ({_moment(now)})"
    if now >= shown.not_after:
        return f"{words}expired at {_moment(shown.not_after)}, by this clock ({_moment(now)})"
    return f"{words}is valid until {_moment(shown.not_after)}, by this clock ({_moment(now)})"


def does_not_verify(error: ssl.SSLCertVerificationError, seen: Seen, anchors_pem: bytes, now: float) -> str:
    """Why the authority's certificate did not verify; `now` is this machine's clock, POSIX seconds."""
    said = f"its certificate does not verify: {error.verify_message}"
    if error.verify_code in {NOT_YET_VALID, EXPIRED}:
        return "; ".join([said, *_dates(seen, anchors_pem, now), *_clocks(seen, now)])
    advice = _ADVICE.get(error.verify_code)
    return said if advice is None else f"{said}. {advice[0].upper()}{advice[1:]}"


def _dates(seen: Seen, anchors_pem: bytes, now: float) -> list[str]:
    """Which certificate is not valid now, and by how much: the authority's, else a root of the bundle."""
    certificates: list[tuple[str, x509.Certificate]] = []
    if seen.leaf is not None:
        certificates += [("it", certificate) for certificate in _parsed(seen.leaf)]
    for root in _roots(anchors_pem):
        name = root.subject.rfc4514_string() or f"serial {root.serial_number:x}"
        certificates.append((f"the root {name} of this agent's bundle", root))
    found = []
    for name, certificate in certificates:
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        if now < begins:
            found.append(f"{name} is valid from {_moment(begins)} on, in {begins - now:.0f} s by this clock")
        elif now >= ends:
            found.append(f"{name} was valid until {_moment(ends)}, {now - ends:.0f} s ago by this clock")
    return found[:2] or ["a certificate above it is not valid by this clock"]


def _clocks(seen: Seen, now: float) -> list[str]:
    if seen.date is None:
        return [f"this clock says {_moment(now)}: is it right, and the authority's?"]
    ahead = seen.date - now
    if abs(ahead) < AGREES_SECONDS:
        return ["this clock and that of whoever answers there agree: the certificate must be renewed"]
    which = "ahead of" if ahead > 0 else "behind"
    return [
        f"the clock of whoever answers there is {abs(ahead):.0f} s {which} this one ({_moment(now)}): set the wrong one"
    ]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _parsed(der: bytes) -> list[x509.Certificate]:
    try:
        return [x509.load_der_x509_certificate(der)]
    except x509_svid.UNREADABLE:
        return []  # only words are lost: it was refused already


def _roots(anchors_pem: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(anchors_pem)
    except x509_svid.UNREADABLE:
        return []  # as above


async def look(address: tuple[str, int]) -> Seen:
    """What a server shows whose certificate did not verify. Nothing where it shows nothing now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    seen = Seen()
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="")
            try:
                leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                seen = Seen(leaf)
                answer = await http.exchange(reader, writer, "GET", "/", None, {})
                seen = Seen(leaf, answer.date)
            finally:
                writer.close()
    except (OSError, EOFError, h11.RemoteProtocolError):  # TimeoutError among them
        return seen
    return seen
